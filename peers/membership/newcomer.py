"""A newcomer's way to where it counts: it copies, and then shows that its own loss is in range of the others'.

Written by one thread at a time: that of the network until training begins, then that which trains. `status` is replaced
whole, so that any may read it.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from p2p_elastic.health import signals
from p2p_elastic.peers.membership.liveness import Members
from p2p_elastic.protocol.messages import Stamp
from p2p_elastic.status.schema import JoiningStatus

STEPS_MIN = 5  # of its own after copying: the mean of fewer losses says little
STEPS_MAX = 200  # after so many it counts as its signals say, whatever its loss: nobody is left out for ever


class Measured(NamedTuple):
    """The loss, in nats, that parameters give on examples of our own, and its standard error."""

    loss: float
    error: float = 0.0


class CaughtUp(NamedTuple):
    """Parameters [D] to begin with, from whom, the step and loss (nats) that they claim, and what we measured."""

    values: Tensor
    donors: tuple[str, ...]
    step: int
    loss: float | None
    measured: float | None
    stamp: Stamp | None  # where it is the centre variable


class Fetching(NamedTuple):
    """How far it is."""

    parts: int
    parts_all: int
    nbytes: int
    donors: int
    seconds: float


class Arrival:
    """Since when this peer, a newcomer, counts for others; nothing to say of any other."""

    def __init__(self, *, newcomer: bool) -> None:
        self.status: JoiningStatus | None = JoiningStatus() if newcomer else None
        self.proving = False  # it copied, and its loss is still to be seen
        self._steps = 0  # since it copied
        self._began_at: float | None = None

    def began(self, now: float) -> None:
        """The peer is there, `now` in monotonic seconds; said again, nothing changes."""
        self._began_at = now if self._began_at is None else self._began_at

    def fetching(self, progress: Fetching) -> None:
        """So much is here."""
        self._update(
            parts=progress.parts, parts_all=progress.parts_all, bytes_received=progress.nbytes, seconds=progress.seconds
        )

    def caught_up(self, caught: CaughtUp, nbytes: int, now: float) -> None:
        """It begins with those parameters."""
        self._update(
            caught_up=True,
            reason=None,
            seconds=self._since(now),
            bytes_received=nbytes,
            donors=caught.donors,
            donors_step=caught.step,
            loss=caught.measured if caught.measured is not None else caught.loss,
        )
        self.copied()

    def not_caught_up(self, reason: str, nbytes: int, now: float) -> None:
        """It begins with what it has."""
        self._update(reason=reason, seconds=self._since(now), bytes_received=nbytes)

    def untrained(self, loss: float) -> None:
        """What the parameters that nobody trained give, in nats."""
        self._update(untrained_loss=loss)

    def copied(self) -> None:
        """The parameters are another's now."""
        self._steps, self.proving = 0, True

    def stepped(self, loss: float | None, initial: float | None, members: Members, now: float) -> bool:
        """One step more; True where it counts from now on, which is said once. `members`: those that are alive."""
        if not self.proving:
            return False
        self._steps += 1
        others = [m.record.loss for m in members.values() if not m.record.drained and m.record.weight > 0.0]
        if self._steps < STEPS_MIN or (self._steps < STEPS_MAX and not signals.in_range(loss, others, initial)):
            return False
        self.proving = False
        if self.status is not None and self.status.useful_seconds is None:
            self._update(useful_seconds=self._since(now), useful_steps=self._steps)
        return True

    def _since(self, now: float) -> float:
        return 0.0 if self._began_at is None else now - self._began_at

    def _update(self, **changes: object) -> None:
        if self.status is not None:
            self.status = self.status.model_copy(update=changes)
