"""Progress of the training: steps, losses, speed, and the last evaluations."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from p2p_elastic.status.schema import TrainingStatus
from p2p_elastic.tasks import Evaluation

LOSS_STEPS = 50  # the loss shown is the mean of these last steps
RATE_SECONDS = 10.0  # the speed shown is that of this last time

Clock = Callable[[], float]


class Meter:
    """Progress as others see it. Written by the training thread, read from any: each value is replaced whole.

    Args:
        steps_total: at which training ends; None if that is not known.
        clock: monotonic seconds.
        metrics: names of those that will be measured, as far as they are known.

    Attributes:
        step: optimizer steps done.
        epoch: passes over the data.
        validation: the last evaluation on the validation split; None before it.
        test: the evaluation on the test split; None before it.
        loss: mean of the last LOSS_STEPS steps, in nats; None before the first.
    """

    def __init__(self, steps_total: int | None, clock: Clock, metrics: Iterable[str] = ()) -> None:
        self._clock, self._steps_total, self._names = clock, steps_total, tuple(metrics)
        self.step = 0
        self.epoch = 0.0
        self.validation: Evaluation | None = None
        self.test: Evaluation | None = None
        self._losses: deque[float] = deque(maxlen=LOSS_STEPS)
        self._marks: deque[tuple[float, int]] = deque([(clock(), 0)])
        self.loss: float | None = None

    def begin(self) -> None:
        """Begin to measure the speed: what came before does not count for it."""
        self._marks = deque([(self._clock(), self.step)])

    def saw(self, loss: float) -> None:
        """Take in a loss.

        Args:
            loss: of a batch, in nats.
        """
        self._losses.append(loss)
        self.loss = sum(self._losses) / len(self._losses)

    def measured(self, metrics: Mapping[str, float]) -> None:
        """Take in what somebody else's loop measured.

        Args:
            metrics: by name.
        """
        self.validation = Evaluation(math.nan if self.loss is None else self.loss, metrics)

    def stepped(self, loss: float | None = None) -> None:
        """Count an optimizer step, once its gradient is there.

        Args:
            loss: of its batch, in nats; None if `saw` is told.
        """
        if loss is not None:
            self.saw(loss)
        self.step += 1
        now = self._clock()
        if now - self._marks[-1][0] > RATE_SECONDS / 20:
            self._marks.append((now, self.step))
            while len(self._marks) > 2 and now - self._marks[0][0] > RATE_SECONDS:
                self._marks.popleft()

    def forget(self) -> None:
        """Forget the losses: the model was replaced, and the loss of this step, too, says nothing about the new one."""
        self._losses.clear()
        self.loss = None

    def resume(self, step: int, losses: Sequence[float]) -> None:
        """Go on from a checkpoint.

        Args:
            step: optimizer steps done.
            losses: of the last steps, in nats.
        """
        self.step = step
        self._losses.extend(losses)
        self.loss = sum(self._losses) / len(self._losses) if self._losses else None

    @property
    def losses(self) -> tuple[float, ...]:
        """Losses of the last steps, in nats."""
        return tuple(self._losses)

    def status(self) -> TrainingStatus:
        """What others see, from any thread.

        Returns:
            The progress; its phase is filled in elsewhere.
        """
        marks, now = tuple(self._marks), self._clock()
        (t0, n0), (t1, n1) = marks[0], marks[-1]
        return TrainingStatus(
            step=self.step,
            steps_total=self._steps_total,
            epoch=self.epoch,
            steps_per_second=(n1 - n0) / (t1 - t0) if t1 > t0 else None,
            loss=self.loss,
            validation_accuracy=self.validation.accuracy if self.validation else None,
            test_accuracy=self.test.accuracy if self.test else None,
            metrics=dict(self.validation.metrics if self.validation else dict.fromkeys(self._names)),
            test_metrics=dict(self.test.metrics) if self.test else {},
            seconds_since_step=now - t1 if self.step else None,
        )
