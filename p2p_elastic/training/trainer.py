"""The training loop of one peer: any optimizer on its own data, with moves from the swarm added between steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from p2p_elastic.errors import ConfigError
from p2p_elastic.parameters.slots import copy_model
from p2p_elastic.rules.trial import Estimate, Trial
from p2p_elastic.tasks import Data, Evaluation, Task, accuracy, evaluate, reestimate_batchnorm
from p2p_elastic.tasks.base import is_iterable
from p2p_elastic.tasks.batch import Batch, to
from p2p_elastic.tasks.sampling import Batches, Stream, in_order, length, shard_indices
from p2p_elastic.training.attach import Gossiping, attach
from p2p_elastic.training.length import Length
from p2p_elastic.training.meter import Clock, Meter
from p2p_elastic.training.schedule_free import forget, switch
from p2p_elastic.training.settings import Settings
from p2p_elastic.training.stepping import Stepping
from p2p_elastic.training.trials import TRIAL_EXAMPLES, Trials

LIVE_VALIDATION_EXAMPLES = 2000  # while training; the test split is used whole, at the end
LIVE_VALIDATION_SECONDS = 1.0  # the least time between two
LIVE_VALIDATION_STEPS = 100  # between two at most, if epochs do not say how long training is;
LIVE_VALIDATIONS = 20  # so many then, if it is short
EVALUATION_BATCH = 50
OWN_BATCHES = 8  # of EVALUATION_BATCH, on which a newcomer tries what it fetched


class Trainer:
    """The loop that the command line runs. Use it from one thread.

    Args:
        model: on `device`; it is trained in place.
        task: says loss, preparation of examples, and recipe.
        data: all splits.
        settings: how this peer trains.
        device: on which it trains.
        clock: monotonic seconds.

    Attributes:
        model: what is trained.
        meter: progress as others see it.
        vector: what of the model travels.
        start_step: of the run, at which this peer began; its schedule follows the run.

    Raises:
        ConfigError: if it is not known how long training is to be, or the optimizer cannot do what the recipe says.
    """

    def __init__(
        self, model: nn.Module, task: Task, data: Data, settings: Settings, device: torch.device, clock: Clock
    ) -> None:
        self.model, self._task, self._data, self._device = model, task, data, device
        self._clock = clock
        self._batches = _batches(task, data, settings)
        self._steps = _steps(task, settings, self._batches.batches_per_epoch)
        self._length = Length(settings.seconds, clock)
        names = ("accuracy",) if task.metrics is accuracy else ()  # others are known once they are measured
        self.meter = Meter(self._steps if settings.seconds is None else None, clock, names)
        self._augmentation = torch.Generator().manual_seed(settings.seed)
        self._validated_at = clock()
        self._stepping = Stepping(model, task, settings, self._steps, self._epoch_after)
        self.vector = task.vector(model)
        self._trials = Trials(model, self.vector, task.loss)
        self.start_step = 0

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """That of the model."""
        return self._stepping.optimizer

    @property
    def optimizers(self) -> tuple[torch.optim.Optimizer]:
        """The optimizer alone."""
        return (self.optimizer,)

    @property
    def states(self) -> dict[str, Trainer]:
        """What a checkpoint has to hold beside model and optimizer: what this object has."""
        return {"trainer": self}

    def begin_at(self, step: int) -> None:
        """Follow the schedule of a run that others began, from the next step on; before `train`.

        Args:
            step: of the run, as the members that are ahead know it.
        """
        self.start_step = step
        self._stepping.begin_at(step)

    def train(self, peer: Gossiping, should_stop: Callable[[], bool], on_step: Callable[[], None]) -> None:
        """Train until the settings' length is reached or `should_stop` says so.

        Args:
            peer: exchanges after each step.
            should_stop: asked before each step and between batches of an evaluation.
            on_step: called after each step.
        """
        self.meter.begin()
        self.model.train()
        with self._in_training(), attach(peer, self.optimizer, self.meter.forget):
            self._length.begin()
            while not self._is_over and not should_stop():
                loss = self._stepping.gradient(self._draw)
                peer.report_loss(self.meter.loss if self.meter.loss is not None else loss)
                self.meter.stepped(loss)  # before a partner's parameters may replace the model that had this loss
                self._stepping.step(self._place)
                if self._is_time() and self._clock() - self._validated_at >= LIVE_VALIDATION_SECONDS:
                    self._validate(peer, should_stop)
                self.meter.epoch = self._batches.epoch
                on_step()
            if not should_stop():
                self._validate(peer, should_stop)

    @contextmanager
    def _in_training(self) -> Iterator[None]:
        """Have the parameters at which a schedule-free optimizer trains; after it, those that it evaluates."""
        switch(self.optimizer, "train")
        try:
            yield
        finally:
            switch(self.optimizer, "eval")

    @property
    def _is_over(self) -> bool:
        share = self._length.share
        return self.meter.step >= self._steps if share is None else share >= 1.0

    @property
    def _place(self) -> int:
        """Steps in the schedule: those of the run, or the share of them that the time has come to."""
        share = self._length.share
        return self.start_step + self.meter.step if share is None else int(share * self._steps)

    def state_dict(self) -> dict[str, Any]:
        """Copy what `load_state_dict` needs beside model and optimizer; for the training thread, between two steps.

        Returns:
            The place in the data, the schedule, the augmentation's generator and the last evaluation.
        """
        return {
            "drawn": self._batches.drawn,
            "start_step": self.start_step,
            "seconds": self._length.seconds,
            "augmentation": self._augmentation.get_state(),
            "validation": None if self.meter.validation is None else asdict(self.meter.validation),
            **self._stepping.state_dict(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on exactly where a state was taken; before `train`.

        Args:
            state_dict: as it was taken.
        """
        self._batches.skip(state_dict["drawn"] - self._batches.drawn)
        self.start_step = state_dict["start_step"]
        self._length.seconds_before = state_dict["seconds"]
        self.meter.epoch = self._batches.epoch
        self._stepping.load_state_dict(state_dict)
        self._augmentation.set_state(state_dict["augmentation"])
        validation = state_dict["validation"]
        self.meter.validation = None if validation is None else Evaluation(**validation)

    def replaced(self) -> None:
        """Forget what was gathered about the model before: a partner's parameters replaced it."""
        forget(self.optimizers)
        self.meter.forget()

    def _draw(self) -> Batch:
        batch = self._task.prepare(to(next(self._batches), self._device), self._augmentation)
        self._trials.remember(batch)
        return batch

    def _epoch_after(self, steps: int) -> float:
        """Passes over the data after a number of steps; 0 if nobody knows how long one is."""
        per_epoch = self._batches.batches_per_epoch
        return 0.0 if per_epoch is None else steps * self._task.recipe.accumulate / per_epoch

    def _is_time(self) -> bool:
        """Whether it may be evaluated after this step: after an epoch; if steps say how long it is, now and then."""
        if self._batches.batches_per_epoch is None or self._task.recipe.steps is not None:
            return self.meter.step % max(1, min(LIVE_VALIDATION_STEPS, self._steps // LIVE_VALIDATIONS)) == 0
        return self._batches.is_epoch_over

    def _validate(self, peer: Gossiping, should_stop: Callable[[], bool]) -> None:
        def serve_partners() -> bool:
            peer.during_evaluation()
            return should_stop()

        switch(self.optimizer, "eval")
        result = self._evaluate(self._data.validation, serve_partners, LIVE_VALIDATION_EXAMPLES)
        switch(self.optimizer, "train")
        self.meter.validation = result or self.meter.validation
        self._validated_at = self._clock()

    def loss_at(self, values: Mapping[str, Tensor]) -> Estimate:
        """Try other parameters on this peer's latest batches; for the training thread.

        Args:
            values: tensors by name, as `ParameterVector.views` gives them.

        Returns:
            The mean loss in nats, and its standard error.
        """
        return self._trials.loss_at(values)

    def untrained_loss(self) -> float:
        """Measure the model as it is on this peer's own batches, as the first steps would see it.

        Returns:
            The mean loss in nats.
        """
        model = copy_model(self.model).train()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):  # dropout draws from the global generator
            losses = [self._task.loss(model, batch).mean() for batch in self._own_examples()]
        return float(torch.stack(losses).mean())

    def own_loss(self, values: Tensor) -> Estimate:
        """Try parameters on this peer's own examples; before training, for any thread.

        Args:
            values: [D].

        Returns:
            The mean loss in nats, and its standard error.
        """
        return self._trials.loss_on(self._own_examples(), values)

    def _own_examples(self) -> list[Batch]:
        """The first batches of this peer's part, in the order in which they are stored, and as they are."""
        stored = self._batches.stored(self._evaluation_batch, OWN_BATCHES)
        return [self._task.prepare(to(batch, self._device), None) for batch in stored]

    def examiner(self) -> Callable[[Tensor, Tensor], Trial | None]:
        """Build what tries parameters against others, by a model of its own.

        Returns:
            A function of (their parameters [D], this peer's [D]) that any thread may call; its trial is on the latest
            batch, or on unseen examples if there is none.
        """
        unseen = self._data.train if self._data.validation is None else self._data.validation
        stored = next(in_order(unseen, TRIAL_EXAMPLES, self._task.collate))
        return self._trials.examiner(self._task.prepare(to(stored, self._device), None))

    def unseen_loss(self) -> float:
        """Estimate the loss of this peer's parameters on examples that they were not trained on.

        Returns:
            In nats: the larger of the validation loss and the training loss.
        """
        validation = self.meter.validation.loss if self.meter.validation is not None else 0.0
        return max(validation, self.meter.loss or 0.0)

    def validate_now(self) -> None:
        """Evaluate the model as it is on a part of the validation split."""
        result = self._evaluate(self._data.validation, bool, LIVE_VALIDATION_EXAMPLES)
        self.meter.validation = result or self.meter.validation

    def test_values(self, values: Tensor, should_stop: Callable[[], bool]) -> Evaluation | None:
        """Evaluate other parameters on the test split, with BatchNorm statistics of their own.

        Args:
            values: [D].
            should_stop: asked between batches.

        Returns:
            The evaluation; None if it was stopped, or there is no test split.
        """
        if self._data.test is None or should_stop():
            return None
        model = copy_model(self.model)
        self._task.vector(model).load_(values)
        reestimate_batchnorm(model, self._task, self._data.train, self._device)
        return evaluate(model, self._task, self._data.test, self._device, stop=should_stop)

    def test(self, should_stop: Callable[[], bool], grace_seconds: float) -> Evaluation | None:
        """Evaluate the model on the whole test split.

        Args:
            should_stop: asked between batches.
            grace_seconds: how long it may go on after that.

        Returns:
            The evaluation; None if it was not done in time, or there is no test split.
        """
        stopped_at: float | None = None

        def over() -> bool:
            nonlocal stopped_at
            if stopped_at is None and should_stop():
                stopped_at = self._clock()
            return stopped_at is not None and self._clock() - stopped_at > grace_seconds

        self.meter.test = self._evaluate(self._data.test, over)
        return self.meter.test

    @property
    def _evaluation_batch(self) -> int:
        """Small: between two of them partners are served, and Ctrl-C is seen."""
        return min(EVALUATION_BATCH, self._task.recipe.evaluation_batch)

    def _evaluate(
        self, split: Dataset[Any] | None, stop: Callable[[], bool], limit: int | None = None
    ) -> Evaluation | None:
        if split is None:
            return None
        size = self._evaluation_batch
        return evaluate(self.model, self._task, split, self._device, batch_size=size, limit=limit, stop=stop)


def _batches(task: Task, data: Data, settings: Settings) -> Batches | Stream:
    """The endless batches of this peer's part of the data."""
    size, collate, workers = settings.batch_size, task.collate, data.workers
    if is_iterable(data.train):
        return Stream(data.train, size, settings.shard, collate=collate, workers=workers)
    part = None if settings.shard is None else shard_indices(length(data.train), settings.shard)
    return Batches(data.train, size, settings.seed, part, collate=collate, workers=workers)


def _steps(task: Task, settings: Settings, batches_per_epoch: int | None) -> int:
    """How many there are in all."""
    if settings.steps is not None:
        return settings.steps
    if batches_per_epoch is None:
        raise ConfigError("steps", None, "a number: the data has no length, so that epochs have none")
    return max(1, settings.epochs * batches_per_epoch // task.recipe.accumulate)
