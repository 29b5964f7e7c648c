"""Partners whose offers came during an exchange, and wait for its end, in the order in which they came."""

from __future__ import annotations

WAITING_MAX = 4  # more are declined at once
IN_A_ROW_MAX = 4  # that are answered before an exchange of this peer's own


class WaitingPartners:
    """A queue of partners. Belongs to the network thread; `go_first` may be read from any."""

    def __init__(self) -> None:
        self._waiting: tuple[str, ...] = ()  # replaced whole: the training thread reads it
        self._answered = 0  # in a row

    @property
    def go_first(self) -> bool:
        """Whether the next exchange is with one that waits; after IN_A_ROW_MAX such ones it is this peer's own."""
        return bool(self._waiting) and self._answered < IN_A_ROW_MAX

    @property
    def present(self) -> bool:
        """Whether any partner waits."""
        return bool(self._waiting)

    def is_first(self, partner: str) -> bool:
        """Whether it is the turn of a partner, if none of this peer's own comes before.

        Args:
            partner: its peer id.

        Returns:
            False if another one came before, or if it does not wait.
        """
        return self._waiting[:1] == (partner,)

    def join(self, partner: str) -> bool:
        """Let a partner wait.

        Args:
            partner: its peer id.

        Returns:
            False if WAITING_MAX partners wait, or if this one does.
        """
        if partner in self._waiting or len(self._waiting) >= WAITING_MAX:
            return False
        self._waiting = (*self._waiting, partner)
        return True

    def leave(self, partner: str) -> None:
        """Let a partner wait no more.

        Args:
            partner: its peer id.
        """
        self._waiting = tuple(peer for peer in self._waiting if peer != partner)

    def put_first(self, partner: str) -> None:
        """Let a partner that waits go before all others.

        Args:
            partner: its peer id.
        """
        self._waiting = (partner, *(peer for peer in self._waiting if peer != partner))

    def answered(self) -> None:
        """Note that an exchange with a partner begins that waited."""
        self._answered += 1

    def asked(self) -> None:
        """Note that an exchange of this peer's own begins."""
        self._answered = 0
