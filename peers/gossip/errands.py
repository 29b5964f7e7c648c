"""What a peer is to do on its own: exchanges that are due, and were not begun while another one was under way."""

from __future__ import annotations

import random
from collections import deque

from p2p_elastic.peers.exchange.journal import Journal, Skip
from p2p_elastic.peers.state.current_run import CurrentRun
from p2p_elastic.peers.state.topology import Errand

NOT_OWED: tuple[Skip, ...] = ("drained", "no partner")


class Errands:
    """What is due, in order. Belongs to the training thread, but for `postpone`; `current` may be read from any.

    Args:
        run: the run that this peer is in.
        journal: counts what was due in vain.
        coin: the random numbers of the schedule.
    """

    def __init__(self, run: CurrentRun, journal: Journal, coin: random.Random) -> None:
        self._run, self._journal, self.coin = run, journal, coin
        self._owed: deque[Errand] = deque()
        self.current: Errand = "exchange"  # the one under way
        self._later: tuple[Errand, float] | None = None  # to be begun again, and when

    @property
    def owed(self) -> bool:
        """Whether something waits to be begun."""
        return bool(self._owed)

    def due(self, step: int) -> tuple[Errand, ...]:
        """Say what is due after a step that ended; to be asked once per step.

        Args:
            step: optimizer steps so far.

        Returns:
            The errands, in order.
        """
        return tuple(self._run.topology.due(step, self.coin))

    def owe(self, due: tuple[Errand, ...], held: Skip | None) -> None:
        """Remember what is due.

        Args:
            due: what `due` gave.
            held: why nothing is begun now; None if it can be. What is due while one of NOT_OWED is not owed later.
        """
        for errand in due:
            if held in NOT_OWED or self._is_owed(errand):
                self._journal.skipped[held or "busy"] += 1
            else:
                self._owed.append(errand)

    def postpone(self, until: float) -> None:
        """Begin the errand that is under way once more. For the network thread.

        Args:
            until: when, in seconds of the event loop's clock.
        """
        self._later = self.current, until

    def resume(self, now: float) -> None:
        """Owe what was postponed, if its time has come.

        Args:
            now: in seconds of the event loop's clock.
        """
        later = self._later
        if later is not None and now >= later[1]:
            self._owed.appendleft(later[0])
            self._later = None

    def _is_owed(self, errand: Errand) -> bool:
        return errand in self._owed or (self._later is not None and self._later[0] == errand)

    def begin(self) -> None:
        """Begin the next errand: it is under way."""
        self.current = self._owed.popleft()
