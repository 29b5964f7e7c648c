"""One end of an exchange: what a partner that asks for one meets at this peer."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from p2p_elastic.peers.exchange.pacing import Precedence
from p2p_elastic.protocol.chunks import Received, Vectors
from p2p_elastic.protocol.messages import Accept, DeclineReason, Offer
from p2p_elastic.rules.trial import Trial


class Refusal(NamedTuple):
    """Why an offer is declined.

    Attributes:
        reason: what the partner is told, one of a fixed list.
        detail: more for people to read; may be empty.
    """

    reason: DeclineReason
    detail: str = ""


class Endpoint(Protocol):
    """One end of an exchange that a partner asked for. `reserve` holds it until `commit` or `free`."""

    def precedence(self, offer: Offer) -> Precedence:
        """Say how the budget treats an offer.

        Args:
            offer: from a partner.

        Returns:
            What sets it apart from others.
        """

    async def reserve(self, offer: Offer) -> Refusal | None:
        """Make ready what this end sends, and hold it.

        Args:
            offer: the partner's.

        Returns:
            Why it is declined; None if this end is reserved.
        """

    def vectors(self, offer: Offer) -> Vectors:
        """Give the vectors that travel.

        Args:
            offer: says which codec, and which part.

        Returns:
            What goes out, and where the partner's comes in.
        """

    def accept(self, offer: Offer) -> Accept:
        """Build the answer to an offer: the same facts of this end.

        Args:
            offer: that was reserved.

        Returns:
            The answer.
        """

    async def try_out(self, offer: Offer, accept: Accept) -> Trial | None:
        """Try what was received on the examples here.

        Args:
            offer, accept: what the partner and this end say.

        Returns:
            How it does; None if it is not tried.
        """

    def commit(self, offer: Offer, accept: Accept, trial: Trial | None, received: Received | None) -> float | None:
        """Move after an exchange that took place, and let the next one in.

        Args:
            offer, accept: what the partner and this end say.
            trial: how what was received did; None if it was not tried.
            received: the partner's vector; None if nothing came.

        Returns:
            The L2 distance before the move; None if nothing was received.
        """

    def free(self) -> None:
        """Let the next exchange in: this one did not take place."""
