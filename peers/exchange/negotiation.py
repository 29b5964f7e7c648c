"""On what terms an exchange goes: by which codec, of which part of the vector, and over how many streams."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from p2p_elastic.parameters.vector import WIRE_DTYPE, Part
from p2p_elastic.peers.membership.run_context import RunContext
from p2p_elastic.peers.session.deadlines import Waits
from p2p_elastic.protocol.chunks import EXACT, wire_bytes
from p2p_elastic.protocol.codecs import BY_LOSS, CODECS
from p2p_elastic.protocol.limits import AUTO_FRAGMENTS
from p2p_elastic.protocol.link_choice import (
    AUTO,
    AUTO_FRAGMENTS_MAX,
    NOTHING_SHOWN,
    Link,
    choose_codec,
    choose_fragments,
    choose_streams,
    fragment,
)


class Terms(NamedTuple):
    """The terms of one exchange, as the peer that asks proposes them.

    Attributes:
        codec: by which both vectors travel.
        part: of the vector, that is exchanged; None: all of it.
        streams: over how many both vectors travel.
    """

    codec: str
    part: Part | None
    streams: int


class Bargain:
    """Makes the terms of the exchanges that this peer asks for, and knows those that it agrees to.

    Args:
        context: the run's codec and fragments, and how many streams this peer may use.
        elements: D, the length of the vector.
        first_turn: which fragment comes first: another one at each peer, so that all are exchanged alike.
    """

    def __init__(self, context: RunContext, elements: int, first_turn: int) -> None:
        self._context, self._elements, self._turn = context, elements, first_turn
        self.count = context.fragments or 1  # of the fragments of the exchange that was due last
        self.codec = EXACT if context.codec == AUTO else context.codec  # of the one that was offered last

    def next_part(self, link: Link = NOTHING_SHOWN, period_seconds: float | None = None) -> Part | None:
        """Choose the part for the next turn. For the training thread.

        Args:
            link: what the links of this peer have shown; automatic fragments follow it.
            period_seconds: the time between two exchanges; None if it is not known.

        Returns:
            The part; None: all of the vector.
        """
        self._turn += 1
        if self.automatic:
            self.count = choose_fragments(self._elements, self.smallest_codec, link, period_seconds, self.count)
        return fragment(self._elements, self.count, self._turn)

    def propose(self, part: Part | None, waits: Waits, period_seconds: float | None) -> Terms:
        """Choose what to offer to a partner.

        Args:
            part: of the vector, that is exchanged; None: all of it.
            waits: what the link to the partner has shown.
            period_seconds: the time between two exchanges; None if it is not known.

        Returns:
            The terms.
        """
        elements = self._elements if part is None else part[1] - part[0]
        nbytes, seconds_per_byte = elements * WIRE_DTYPE.itemsize, waits.seconds_per_byte
        codec = self._context.codec
        if codec == AUTO:
            codec = choose_codec(2 * nbytes, seconds_per_byte, period_seconds)
        self.codec = codec
        streams = self._context.streams or choose_streams(nbytes, waits.rtt_seconds, seconds_per_byte)
        return Terms(codec, part, streams)

    @property
    def vector_bytes(self) -> int:
        """What an exchange that is due sends at least, in bytes."""
        return self._bytes_of(AUTO_FRAGMENTS_MAX if self.automatic else self._context.fragments)

    @property
    def latest_bytes(self) -> int:
        """What the exchange that was due last sends at least, in bytes."""
        return self._bytes_of(self.count)

    def _bytes_of(self, fragments: int) -> int:
        part = fragment(self._elements, fragments, 0) or (0, self._elements)
        return wire_bytes(part[1] - part[0], self.smallest_codec)

    @property
    def smallest_codec(self) -> str:
        """That by which a vector takes the fewest bytes."""
        return BY_LOSS[-1] if self._context.codec == AUTO else self._context.codec

    @property
    def codecs(self) -> Collection[str]:
        """The codecs that exchanges of this run may have."""
        return tuple(CODECS) if self._context.codec == AUTO else (self._context.codec,)

    @property
    def codec_of_copies(self) -> str:
        """The codec of snapshots that nobody takes a difference to."""
        return EXACT if self._context.codec == AUTO else self._context.codec

    @property
    def chosen_by_link(self) -> bool:
        """Whether the link made the last exchange smaller than it could be."""
        smaller = self._context.codec == AUTO and self.codec != BY_LOSS[0]
        return smaller or (self.automatic and self.count > 1)

    @property
    def fragments(self) -> int:
        """How many parts the vector has, of which an exchange moves one; AUTO_FRAGMENTS: each peer chooses."""
        return self._context.fragments

    @property
    def automatic(self) -> bool:
        """Whether each peer chooses the number of fragments by what its links have shown."""
        return self._context.fragments == AUTO_FRAGMENTS
