"""On what terms an exchange goes: by which codec, of which part of the vector, and over how many streams."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from p2p_elastic.parameters.vector import WIRE_DTYPE, Part
from p2p_elastic.peers.membership.run_context import RunContext
from p2p_elastic.peers.session.deadlines import Waits
from p2p_elastic.protocol.chunks import EXACT, wire_bytes
from p2p_elastic.protocol.codecs import BY_LOSS, CODECS
from p2p_elastic.protocol.link_choice import AUTO, choose_codec, choose_streams, fragment


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

    def next_part(self) -> Part | None:
        """Choose the part for the next turn. For the training thread.

        Returns:
            The part; None: all of the vector.
        """
        self._turn += 1
        return fragment(self._elements, self._context.fragments, self._turn)

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
        streams = self._context.streams or choose_streams(nbytes, waits.rtt_seconds, seconds_per_byte)
        return Terms(codec, part, streams)

    @property
    def vector_bytes(self) -> int:
        """What an exchange that is due sends at least, in bytes."""
        part = fragment(self._elements, self._context.fragments, 0) or (0, self._elements)
        codec = BY_LOSS[-1] if self._context.codec == AUTO else self._context.codec
        return wire_bytes(part[1] - part[0], codec)

    @property
    def codecs(self) -> Collection[str]:
        """The codecs that exchanges of this run may have."""
        return tuple(CODECS) if self._context.codec == AUTO else (self._context.codec,)

    @property
    def codec_of_copies(self) -> str:
        """The codec of snapshots that nobody takes a difference to."""
        return EXACT if self._context.codec == AUTO else self._context.codec

    @property
    def fragments(self) -> int:
        """How many parts the vector has, of which an exchange moves one."""
        return self._context.fragments
