"""What a topology decides for a peer: with whom it exchanges, and what the others need it for.

Each topology is one class that implements `Strategy`, whose methods do what is right for peers that train alone; it
overrides those of its concern. `topologies.py` has the table of them. Everything here belongs to the network thread,
unless it says otherwise.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from torch import Tensor

from p2p_elastic.health.trust import Verdict
from p2p_elastic.peers.exchange.journal import Skip
from p2p_elastic.peers.exchange.pacing import Precedence
from p2p_elastic.peers.exchange.snapshots import Snapshot
from p2p_elastic.peers.membership.healthy import by_loss, healthy
from p2p_elastic.peers.membership.newcomer import CaughtUp
from p2p_elastic.peers.state.peer_memory import PeerMemory
from p2p_elastic.protocol.chunks import Received, Vectors
from p2p_elastic.protocol.exchange import Result
from p2p_elastic.protocol.messages import Accept, DeclineReason, Given, Goodbye, Heard, Offer, Stamp
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.rules.trial import Trial
from p2p_elastic.status.schema import CentreStatus, LeaderStatus

Errand = Literal["exchange", "global"]  # the latter with the best of all groups
Announce = Callable[[], Awaitable[None]]
"""Makes our record known. Raises DirectoryError."""
OfferPlace = Callable[[PeerRecord, int, Mapping[str, Any]], Awaitable[Heard | None]]
"""(heir, how many failed before, what its goodbye says) -> its answer; None where there is none in time."""


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
        """How the budget treats that offer."""

    async def reserve(self, offer: Offer) -> Refusal | None:
        """Make what this end sends ready, or say why not: None means that it is reserved."""

    def vectors(self, offer: Offer) -> Vectors:
        """What travels."""

    def accept(self, offer: Offer) -> Accept:
        """The answer to that offer: the same facts of this end."""

    async def try_out(self, offer: Offer, accept: Accept) -> Trial | None:
        """How what was received does on the examples here; None if it is not tried."""

    def commit(self, offer: Offer, accept: Accept, trial: Trial | None, received: Received | None) -> float | None:
        """The exchange took place: move. Returns the L2 distance before it, None if nothing was received."""

    def free(self) -> None:
        """It did not take place."""


class Reference(NamedTuple):
    """A model that all exchange with, and how fresh it is.

    Attributes:
        snapshot: the model.
        stamp: its term and clock.
    """

    snapshot: Snapshot
    stamp: Stamp


class TopologyStatus(NamedTuple):
    """What people see of it; None where a topology has no such thing."""

    centre: CentreStatus | None = None
    leader: LeaderStatus | None = None


class Asking(Protocol):
    """The exchanges that this peer begins."""

    def due(self, step: int, coin: random.Random) -> Iterator[Errand]:
        """What is to be done after this step, in this order. For the training thread."""
        return iter(())

    async def run_due(self, errand: Errand) -> None:
        """Do that. When it returns, a move is waiting or the mailbox is free again."""
        return

    def next_partner(self, tried: set[str]) -> PeerRecord | None:
        """Whom to ask, of those that were not tried; None where there is nobody."""
        return None

    @property
    def here(self) -> bool:
        """Whether what all exchange with is at this peer: it is met without a stream. For any thread."""
        return False

    async def meet_here(self) -> str | None:
        """Exchange with what is here. Why no move is waiting; None where one is."""
        return "nothing is here"

    @property
    def refused_as(self) -> Skip:
        """What a move counts as that the training thread's check refused."""
        return "leader not believed"  # the only one whose moves are checked

    def exchanged(self, result: Result) -> None:
        """An exchange that we asked for completed, and what came is in the mailbox still."""
        return


class Answering(Protocol):
    """What others ask this peer for."""

    def endpoint(self) -> Endpoint | None:
        """The end of an exchange that an offer is for; None if nobody offers in this topology."""
        return None

    def snapshot_of(self, origin: str) -> Snapshot | None:
        """The newest snapshot of that peer that is held here."""
        return None

    def told(self, peer: str, loss: float | None, now: float) -> None:
        """A member told us its loss (nats), at `now` in seconds of the event loop's clock."""
        return

    @property
    def compares(self) -> bool:
        """Whether a partner's parameters are to be kept beside ours, whole, during an exchange."""
        return False

    @property
    def waits_for_steps(self) -> bool:
        """Whether a partner answers an offer only between two steps of its own."""
        return True


class Joining(Protocol):
    """What newcomers begin with, here and at others."""

    @property
    def why_alone(self) -> str | None:
        """Why a newcomer copies nobody; None where it does."""
        return None

    def donors(self, candidates: Sequence[PeerRecord]) -> list[PeerRecord]:
        """Who of these can be copied, the best first."""
        return by_loss(healthy(candidates))

    @property
    def one_donor(self) -> bool:
        """Whether parts of several donors make no sense together."""
        return True

    def objection_to(self, given: Given) -> DeclineReason | None:
        """Why what a donor gives will not do; None where it does."""
        return None

    def caught_up(self, found: CaughtUp) -> None:
        """This peer begins with that."""
        return

    def reference(self) -> Reference | None:
        """What newcomers are given instead of our own parameters, where that is here."""
        return None


class Leaving(Protocol):
    """What this peer hands over when it leaves, and what it takes over from others that leave."""

    @property
    def hands_parameters(self) -> bool:
        """Whether others can use our last parameters."""
        return False

    @property
    def asks_again(self) -> Collection[DeclineReason]:
        """Beside `busy`, the answers of a partner after which a leaver asks it once more."""
        return ()

    def taker(self, tried: set[str]) -> PeerRecord | None:
        """Who is to have our last parameters, of those that were not tried; None where nobody is there."""
        return None

    async def hand_place(self, offer: OfferPlace, tries: int) -> Mapping[str, Any]:
        """Where `here`: let another member have it; so many may fail to answer. What our farewell's status says."""
        return {}

    def goodbye(self) -> Mapping[str, Any]:
        """What our goodbye says beside that we leave."""
        return {}

    async def inherit(self, goodbye: Goodbye) -> bool:
        """Take over the place that a leaver offers us, and say whether that came about."""
        return False

    def left(self, goodbye: Goodbye) -> None:
        """That member has left; it is not among the members any more."""
        return


class Watching(Protocol):
    """What follows from who is there."""

    async def look(self, announce: Announce) -> None:
        """Judge anew, after the members or we changed; `announce` what that changes at us. Raises DirectoryError."""
        return

    def claim(self) -> Mapping[str, Any]:
        """What our record says beside what every peer says."""
        return {}

    @property
    def pending(self) -> bool:
        """Whether there is something to `attend` to."""
        return False

    async def attend(self) -> None:
        """Try once to do what is `pending`; after an announcement it is tried again, until nothing is."""
        return

    async def stand_by(self) -> None:
        """Once per announcement, at a peer that does not train: keep fresh what it is to take over."""
        return


class Keeping(Protocol):
    """What is kept over a restart, and shown."""

    def memory(self) -> Mapping[str, Any]:
        """The fields of `PeerMemory` that are of this topology. For the training thread."""
        return {}

    def recall(self, memory: PeerMemory, value: Tensor | None) -> None:
        """Go on from there, before the peer runs; `value` [D] is what `value` gave then."""
        return

    def value(self) -> Tensor | None:
        """A copy [D] of what all exchange with, as it is known here; None where there is no such thing."""
        return None

    def status(self, now: float) -> TopologyStatus:
        """What people see of it, `now` in seconds of the event loop's clock. For any thread."""
        return TopologyStatus()

    def verdicts(self) -> Mapping[str, Verdict]:
        """What is thought of those that exchange with what is here. For any thread."""
        return {}


class Strategy(Asking, Answering, Joining, Leaving, Watching, Keeping, Protocol):
    """All that a peer asks of its topology."""


class Undecided(Strategy):
    """That of a peer which is being put together: it begins and answers nothing."""
