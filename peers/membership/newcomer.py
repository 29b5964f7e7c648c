"""A newcomer's way to where it counts: it copies, and then shows that its own loss is in range of the others'.

Written by one thread at a time: that of the network until training begins, then the training thread. `status` is
replaced whole, so that any may read it.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from p2p_elastic.health import signals
from p2p_elastic.peers.membership.liveness import Members
from p2p_elastic.protocol.messages import Stamp
from p2p_elastic.status.schema import JoiningStatus

STEPS_MIN = 5  # of its own after copying: the mean of fewer losses says little
STEPS_MAX = 200  # after which it counts as its signals say, whatever its loss: no peer is left out for ever


class Measured(NamedTuple):
    """A loss that was measured on this peer's own examples.

    Attributes:
        loss: in nats.
        error: its standard error, in nats.
    """

    loss: float
    error: float = 0.0


class CaughtUp(NamedTuple):
    """Parameters to begin with, copied from others.

    Attributes:
        values: the parameters, `[D]`.
        donors: the ids of the peers that they came from.
        step: the step that the donors claim.
        loss: the loss that the donors claim, in nats; None if they claim none.
        measured: the loss that this peer measured, in nats; None if it did not.
        stamp: of the centre variable, if they are that; otherwise None.
    """

    values: Tensor
    donors: tuple[str, ...]
    step: int
    loss: float | None
    measured: float | None
    stamp: Stamp | None


class Fetching(NamedTuple):
    """How far the copying is.

    Attributes:
        parts: parts that are here.
        parts_all: parts in all.
        nbytes: bytes received so far.
        donors: peers that parts come from.
        seconds: since it began.
    """

    parts: int
    parts_all: int
    nbytes: int
    donors: int
    seconds: float


class Arrival:
    """Since when this peer counts for others, if it is a newcomer; of any other peer there is nothing to say.

    Args:
        newcomer: whether it joined a run that was under way.
    """

    def __init__(self, *, newcomer: bool) -> None:
        self.status: JoiningStatus | None = JoiningStatus() if newcomer else None
        self.proving = False  # it copied, and its loss is still to be seen
        self._steps = 0  # since it copied
        self._began_at: float | None = None

    def began(self, now: float) -> None:
        """Note that the peer is there; said again, nothing changes.

        Args:
            now: monotonic seconds.
        """
        self._began_at = now if self._began_at is None else self._began_at

    def fetching(self, progress: Fetching) -> None:
        """Note how far the copying is.

        Args:
            progress: what is here.
        """
        self._update(
            parts=progress.parts, parts_all=progress.parts_all, bytes_received=progress.nbytes, seconds=progress.seconds
        )

    def caught_up(self, caught: CaughtUp, nbytes: int, now: float) -> None:
        """Note that the peer begins with the parameters of others.

        Args:
            caught: the parameters, and where they came from.
            nbytes: bytes received for them.
            now: monotonic seconds.
        """
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
        """Note that the peer begins with what it has.

        Args:
            reason: why it could not copy, in words for people.
            nbytes: bytes received in vain.
            now: monotonic seconds.
        """
        self._update(reason=reason, seconds=self._since(now), bytes_received=nbytes)

    def untrained(self, loss: float) -> None:
        """Note what untrained parameters give, to compare with.

        Args:
            loss: in nats.
        """
        self._update(untrained_loss=loss)

    def copied(self) -> None:
        """Note that the parameters are another peer's now; its own loss has to be shown again."""
        self._steps, self.proving = 0, True

    def stepped(self, loss: float | None, initial: float | None, members: Members, now: float) -> bool:
        """Take in one step more, and decide whether the peer counts.

        Args:
            loss: its own loss, in nats; None if it is not known.
            initial: the loss with which training began, in nats; None if it is not known.
            members: those that are alive.
            now: monotonic seconds.

        Returns:
            True if it counts from now on; said once.
        """
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
