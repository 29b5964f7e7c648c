"""The training loop of one peer: SGD or AdaHessian on its own data, with moves from the swarm added between steps."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from p2p_elastic.parameters.slots import copy_model
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.rules.trial import Trial
from p2p_elastic.tasks import (
    Batches,
    Data,
    Estimate,
    Evaluation,
    Recipe,
    Shard,
    Split,
    Task,
    evaluate,
    loss_at,
    losses_at,
    reestimate_batchnorm,
    shard_indices,
)
from p2p_elastic.training.adahessian import AdaHessian, set_gradients
from p2p_elastic.training.attach import Gossiping, attach
from p2p_elastic.training.meter import Clock, Meter
from p2p_elastic.training.optimizers import SGD

LIVE_VALIDATION_EXAMPLES = 2000  # while training; the test split is used whole, at the end
LIVE_VALIDATION_SECONDS = 1.0  # the least time between two
EVALUATION_BATCH = 50
TRIAL_EXAMPLES = 32  # on which a partner's parameters are tried
OWN_BATCHES = 8  # of EVALUATION_BATCH, on which a newcomer tries what it fetched
RECENT_BATCHES = 4  # kept to try a leader's parameters on


@dataclass(frozen=True)
class Settings:
    """How this peer trains.

    Attributes:
        steps: optimizer steps; None: `epochs` say how long.
        epochs: passes over its part of the data, if `steps` is None.
        batch_size: examples per step.
        learning_rate: before the recipe's decay.
        momentum: of SGD. AdaHessian has no use for it: it averages gradients with a decay of its own, 0.9.
        seed: of the order of examples, the augmentation and AdaHessian's vectors.
        shard: its part of the data; None: all.
        optimizer: "sgd" or "adahessian".
        weight_decay: None is the recipe's; SGD adds it to the gradient, AdaHessian shrinks by it times the rate.
    """

    steps: int | None
    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float
    seed: int
    shard: Shard | None = None
    optimizer: Literal["sgd", "adahessian"] = "sgd"
    weight_decay: float | None = None


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
        optimizer: of the model.
    """

    def __init__(
        self, model: nn.Module, task: Task, data: Data, settings: Settings, device: torch.device, clock: Clock
    ) -> None:
        self.model, self._task, self._data, self._device = model, task, data, device
        self._clock = clock
        part = None if settings.shard is None else shard_indices(len(data.train), settings.shard)
        self._batches = Batches(data.train, settings.batch_size, settings.seed, part)
        self._part = torch.arange(len(data.train)) if part is None else part
        self._steps = settings.steps or settings.epochs * self._batches.batches_per_epoch
        self.meter = Meter(self._steps, clock)
        self._augmentation = torch.Generator().manual_seed(settings.seed)
        self._live_split = Split(
            *(t[:LIVE_VALIDATION_EXAMPLES] for t in (data.validation.inputs, data.validation.labels))
        )
        self._validated_at = clock()
        self._recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=RECENT_BATCHES)
        self.optimizer, self._schedule = _optimizer(model, settings, task.recipe)

    @property
    def optimizers(self) -> tuple[torch.optim.Optimizer]:
        """The optimizer alone."""
        return (self.optimizer,)

    @property
    def states(self) -> dict[str, Trainer]:
        """What a checkpoint has to hold beside model and optimizer: what this object has."""
        return {"trainer": self}

    def train(self, peer: Gossiping, should_stop: Callable[[], bool], on_step: Callable[[], None]) -> None:
        """Train until the settings' length is reached or `should_stop` says so.

        Args:
            peer: exchanges after each step.
            should_stop: asked before each step and between batches of an evaluation.
            on_step: called after each step.
        """
        self.meter.begin()
        self.model.train()
        with attach(peer, self.optimizer, self.meter.forget):
            while self.meter.step < self._steps and not should_stop():
                loss = self._gradient()
                peer.report_loss(self.meter.loss if self.meter.loss is not None else loss)
                self.meter.stepped(loss)  # before a partner's parameters may replace the model that had this loss
                self.optimizer.step()
                if self._batches.drawn % self._batches.batches_per_epoch == 0:
                    self._schedule.step()
                    if self._clock() - self._validated_at >= LIVE_VALIDATION_SECONDS:
                        self._validate(peer, should_stop)
                self.meter.epoch = self._batches.drawn / self._batches.batches_per_epoch
                on_step()
            if not should_stop():
                self._validate(peer, should_stop)

    def state_dict(self) -> dict[str, Any]:
        """Copy what `load_state_dict` needs beside model and optimizer; for the training thread, between two steps.

        Returns:
            The place in the data, the schedule, the augmentation's generator and the last evaluation.
        """
        return {
            "drawn": self._batches.drawn,
            "schedule": self._schedule.state_dict(),
            "augmentation": self._augmentation.get_state(),
            "validation": None if self.meter.validation is None else asdict(self.meter.validation),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on exactly where a state was taken; before `train`.

        Args:
            state_dict: as it was taken.
        """
        self._batches.skip(state_dict["drawn"] - self._batches.drawn)
        self.meter.epoch = self._batches.drawn / self._batches.batches_per_epoch
        self._schedule.load_state_dict(state_dict["schedule"])
        self._augmentation.set_state(state_dict["augmentation"])
        validation = state_dict["validation"]
        self.meter.validation = None if validation is None else Evaluation(**validation)

    def replaced(self) -> None:
        """Forget what was gathered about the model before: a partner's parameters replaced it."""
        self.optimizer.state.clear()
        self.meter.forget()

    def _gradient(self) -> float:
        inputs, labels = next(self._batches)
        inputs, labels = inputs.to(self._device), labels.to(self._device)
        prepared = self._task.prepare(inputs, self._augmentation)
        self._recent.append((prepared, labels))
        self.optimizer.zero_grad()
        return float(set_gradients(self.optimizer, lambda: self._task.loss(self.model(prepared), labels)))

    def _validate(self, peer: Gossiping, should_stop: Callable[[], bool]) -> None:
        def serve_partners() -> bool:
            peer.during_evaluation()
            return should_stop()

        result = self._evaluate(self._live_split, serve_partners)
        self.meter.validation = result or self.meter.validation
        self._validated_at = self._clock()

    def loss_at(self, values: Mapping[str, Tensor]) -> Estimate:
        """Try other parameters on this peer's latest batches; for the training thread.

        Args:
            values: tensors by name, as `ParameterVector.views` gives them.

        Returns:
            The mean loss in nats, and its standard error.
        """
        return loss_at(self.model, self._task, values, self._recent)

    def untrained_loss(self) -> float:
        """Measure the model as it is on this peer's own batches, as the first steps would see it.

        Returns:
            The mean loss in nats.
        """
        model = copy_model(self.model).train()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):  # dropout draws from the global generator
            losses = [self._task.loss(model(inputs), labels) for inputs, labels in self._own_examples()]
        return float(torch.stack(losses).mean())

    def own_loss(self, values: Tensor) -> Estimate:
        """Try parameters on this peer's own examples; before training, for any thread.

        Args:
            values: [D].

        Returns:
            The mean loss in nats, and its standard error.
        """
        model = copy_model(self.model)
        return loss_at(model, self._task, ParameterVector(model).views(values), self._own_examples())

    def _own_examples(self) -> list[tuple[Tensor, Tensor]]:
        """The first batches of this peer's part, in the order in which they are stored, and as they are."""
        split, chosen = self._data.train, self._part[: OWN_BATCHES * EVALUATION_BATCH]
        chosen = chosen[: len(chosen) // EVALUATION_BATCH * EVALUATION_BATCH or None]  # no BatchNorm over one example
        batches = [
            (split.inputs[at].to(self._device), split.labels[at].to(self._device))
            for at in torch.split(chosen, EVALUATION_BATCH)
        ]
        return [(self._task.prepare(inputs, None), labels) for inputs, labels in batches]

    def examiner(self) -> Callable[[Tensor, Tensor], Trial | None]:
        """Build what tries parameters against others, by a model of its own.

        Returns:
            A function of (their parameters [D], this peer's [D]) that any thread may call; its trial is on the latest
            batch, or on unseen examples if there is none.
        """
        vector, lock = ParameterVector(self.model), threading.Lock()
        model = copy_model(self.model).eval()
        standby = self._task.prepare(self._live_split.inputs[:TRIAL_EXAMPLES].to(self._device), None)
        unseen = standby, self._live_split.labels[:TRIAL_EXAMPLES].to(self._device)

        def examine(theirs: Tensor, mine: Tensor) -> Trial | None:
            recent = list(self._recent)
            inputs, labels = recent[-1] if recent else unseen  # the centre's own peer may not train
            batch = inputs[:TRIAL_EXAMPLES], labels[:TRIAL_EXAMPLES]
            with lock:  # `functional_call` puts tensors into the model for a while
                both = [losses_at(model, self._task, vector.views(values), batch) for values in (theirs, mine)]
            return Trial.of(*both)

        return examine

    def unseen_loss(self) -> float:
        """Estimate the loss of this peer's parameters on examples that they were not trained on.

        Returns:
            In nats: the larger of the validation loss and the training loss.
        """
        validation = self.meter.validation.loss if self.meter.validation is not None else 0.0
        return max(validation, self.meter.loss or 0.0)

    def validate_now(self) -> None:
        """Evaluate the model as it is on a part of the validation split."""
        self.meter.validation = self._evaluate(self._live_split, bool) or self.meter.validation

    def test_values(self, values: Tensor, should_stop: Callable[[], bool]) -> Evaluation | None:
        """Evaluate other parameters on the test split, with BatchNorm statistics of their own.

        Args:
            values: [D].
            should_stop: asked between batches.

        Returns:
            The evaluation; None if it was stopped.
        """
        if should_stop():
            return None
        model = copy_model(self.model)
        ParameterVector(model).load_(values)
        reestimate_batchnorm(model, self._task, self._data.train, self._device)
        return evaluate(model, self._task, self._data.test, self._device, stop=should_stop)

    def test(self, should_stop: Callable[[], bool], grace_seconds: float) -> Evaluation | None:
        """Evaluate the model on the whole test split.

        Args:
            should_stop: asked between batches.
            grace_seconds: how long it may go on after that.

        Returns:
            The evaluation; None if it was not done in time.
        """
        stopped_at: float | None = None

        def over() -> bool:
            nonlocal stopped_at
            if stopped_at is None and should_stop():
                stopped_at = self._clock()
            return stopped_at is not None and self._clock() - stopped_at > grace_seconds

        self.meter.test = self._evaluate(self._data.test, over)
        return self.meter.test

    def _evaluate(self, split: Split, stop: Callable[[], bool]) -> Evaluation | None:
        # Small batches: between two of them partners are served, and Ctrl-C is seen.
        return evaluate(self.model, self._task, split, self._device, batch_size=EVALUATION_BATCH, stop=stop)


def _optimizer(
    model: nn.Module, settings: Settings, recipe: Recipe
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    weight_decay = recipe.weight_decay if settings.weight_decay is None else settings.weight_decay
    optimizer: torch.optim.Optimizer
    if settings.optimizer == "adahessian":
        optimizer = AdaHessian(
            model.named_parameters(), lr=settings.learning_rate, weight_decay=weight_decay, seed=settings.seed
        )
    else:
        optimizer = SGD(
            model.parameters(),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            nesterov=recipe.nesterov and settings.momentum > 0,
            weight_decay=weight_decay,
        )
    return optimizer, torch.optim.lr_scheduler.MultiStepLR(optimizer, list(recipe.milestones), recipe.decay)
