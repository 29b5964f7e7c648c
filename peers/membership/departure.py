"""How far this peer is on its way out of the run.

    staying --leave--> leaving --hand_over--> handing over --await_taker(member)--> awaiting(member)
    awaiting --await_nobody--> handing over             any but staying --handed_over--> leaving

    | from          | leave   | hand_over    | await_taker      | await_nobody | handed_over |
    |---------------|---------|--------------|------------------|--------------|-------------|
    | staying       | leaving | -            | -                | -            | -           |
    | leaving       | leaving | handing over | awaiting(member) | leaving      | leaving     |
    | handing over  | same    | handing over | awaiting(member) | handing over | leaving     |
    | awaiting      | same    | -            | -                | handing over | leaving     |

`-`: a bug of this package, which an assertion shows. This is apart from the states of an exchange (`exchange/slot.py`):
the exchange under way goes on while its peer leaves, and a member that is awaited may be answered while this peer's own
last move still waits to be added. A second `leave` goes on with what the first one had begun, so it changes nothing.
"""

from __future__ import annotations

from enum import Enum


class Way(Enum):
    """How far a peer is on its way out."""

    STAYING = "staying"
    LEAVING = "leaving"  # begins and answers no exchange any more; the one under way ends first
    HANDING_OVER = "handing over"  # the exchange under way, or the next one, is this peer's last
    AWAITING = "awaiting"  # a member is to take something from this peer


class Departure:
    """The state of a peer's way out. Belongs to the network thread; `leaving` may be read from any."""

    def __init__(self) -> None:
        self._way, self._awaited = Way.STAYING, ""

    @property
    def way(self) -> Way:
        """How far the peer is."""
        return self._way

    @property
    def leaving(self) -> bool:
        """Whether this peer is on its way out."""
        return self._way is not Way.STAYING

    @property
    def handing_over(self) -> bool:
        """Whether the exchange under way, or the next one, is this peer's last."""
        return self._way in (Way.HANDING_OVER, Way.AWAITING)

    @property
    def awaited(self) -> str | None:
        """The member that is to take something from this peer; None if none is."""
        return self._awaited if self._way is Way.AWAITING else None

    def leave(self) -> None:
        """Begin no exchange any more, and answer none but that of the member awaited."""
        if self._way is Way.STAYING:
            self._way = Way.LEAVING

    def hand_over(self) -> None:
        """From now on this peer's exchanges are its last."""
        self._move(Way.HANDING_OVER, Way.LEAVING, Way.HANDING_OVER)

    def await_taker(self, member: str) -> None:
        """Wait for a member to take something from this peer.

        Args:
            member: its peer id.
        """
        self._move(Way.AWAITING, Way.LEAVING, Way.HANDING_OVER)
        self._awaited = member

    def await_nobody(self) -> None:
        """Wait no more: the member took it, or did not in time."""
        assert self.leaving, "nobody was awaited by a peer that stays"
        if self._way is Way.AWAITING:
            self._way = Way.HANDING_OVER

    def handed_over(self) -> None:
        """Nothing more is handed over."""
        self._move(Way.LEAVING, Way.LEAVING, Way.HANDING_OVER, Way.AWAITING)

    def _move(self, to: Way, *sources: Way) -> None:
        assert self._way in sources, f"{to.value} after {self._way.value}"
        self._way = to
