"""A training loop of the user's own, as a peer sees it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, SupportsFloat

import torch
from torch import Tensor, nn

from p2p_elastic.checkpoint.loop_state import Stateful
from p2p_elastic.common.metrics import finite_metrics
from p2p_elastic.errors import ConfigError
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.peer import Peer
from p2p_elastic.rules.trial import Estimate, Trial
from p2p_elastic.tasks.batch import Batch
from p2p_elastic.tasks.measures import Loss
from p2p_elastic.training import schedule_free
from p2p_elastic.training.losses import LossReader
from p2p_elastic.training.meter import Meter
from p2p_elastic.training.trials import Trials
from p2p_elastic.training.undone import UndoneMoves


class Stepped(NamedTuple):
    """What an optimizer step brought.

    Attributes:
        moved: whether the model was pulled towards a partner, a centre or a leader, or replaced.
        replaced: whether a partner's parameters took the place of the model's: what the optimizer gathered was dropped.
    """

    moved: bool
    replaced: bool


NOTHING = Stepped(moved=False, replaced=False)


class OwnLoop:
    """Counts the steps and hears the losses of a loop that somebody else runs. Belongs to the thread that trains.

    Args:
        model: what is trained, on its device.
        optimizers: that train it; a step of the last one counts.
        states: what else is saved with a checkpoint, by name.
        vector: of the model.
        measured: how parameters are tried; None: they are not.
        sign: 1.0 if a lower loss is better, -1.0 if a higher one is.

    Attributes:
        model: as given.
        optimizers: as given.
        states: as given.
        vector: as given.
        meter: progress as others see it.
        moved: called after each move, with what it brought.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        states: Mapping[str, Stateful],
        vector: ParameterVector,
        measured: Measured | None = None,
        *,
        sign: float = 1.0,
    ) -> None:
        self.model, self.optimizers, self.states, self._sign = model, optimizers, states, sign
        self.meter = Meter(None, time.monotonic)
        self.moved: list[Callable[[Stepped], object]] = []
        self._losses = LossReader(lambda loss: self.meter.saw(sign * loss), time.monotonic)
        self._reports_old = False  # the next loss is of a model that was replaced
        self.vector, self._undone = vector, UndoneMoves(vector)
        self._trials, self._examples = None, () if measured is None else measured.examples
        if measured is not None:
            loss_of = measured.loss
            self._trials = Trials(model, vector, lambda other, batch: sign * loss_of(other, batch))
        self._moves, self._told_undone = 0, False

    def report(self, loss: Tensor | float, batch: Batch | None = None) -> None:
        """Hear the loss of a batch.

        Args:
            loss: a number, or a tensor whose mean is the loss; one on a GPU is not waited for.
            batch: on which partners' parameters may be tried; None: not known.
        """
        if batch is not None and self._trials is not None:
            self._trials.remember(batch)
        if self._reports_old:
            self._reports_old = False
        else:
            self._losses.take(loss)

    def measured(self, metrics: Mapping[str, SupportsFloat]) -> None:
        """Hear what the loop measured, such as on a validation split.

        Args:
            metrics: by name.

        Raises:
            ConfigError: if names are none, or there are too many.
        """
        self.meter.measured(finite_metrics(metrics))

    def stepped(self, peer: Peer) -> Stepped:
        """Count an optimizer step, and let the peer exchange.

        Args:
            peer: in a run.

        Returns:
            What came of it.
        """
        self._reports_old = False
        if self.meter.loss is not None:
            peer.report_loss(self.meter.loss)
        self.meter.stepped()
        self._undone.stepped()
        parameters = self._undone.look() if peer.move_waits else None
        with schedule_free.moving_along(self.optimizers, waits=peer.move_waits):
            replaced = peer.after_step()
        before, self._moves = self._moves, peer.moves
        moved = before != self._moves  # also by those added before a checkpoint
        if moved and parameters is not None:
            self._undone.moved(parameters)
        if replaced:
            self.replaced()
            self._reports_old = True
        return Stepped(moved, replaced) if moved or replaced else NOTHING

    def tell(self, result: Stepped) -> None:
        """Tell those that want to hear of moves.

        Args:
            result: what a step brought.
        """
        if result.moved:
            for hear in self.moved:
                hear(result)

    def followed(self, result: Stepped) -> None:
        """Count an optimizer step of a rank that takes rank 0's parameters over, once it has them.

        Args:
            result: what the step brought on rank 0.
        """
        self.meter.stepped()
        if result.replaced:
            self.replaced()
        self.tell(result)

    def is_found_to_undo(self) -> bool:
        """Whether the optimizer is found now to take back every move, as one with copies of the parameters does.

        Returns:
            True once; never if somebody hears of moves, to copy them.
        """
        if self._told_undone or self.moved or not self._undone.undone:
            return False
        self._told_undone = True
        return True

    @contextmanager
    def hooked(self, stepped: Callable[[], None]) -> Iterator[None]:
        """Call `stepped` after each step of the last optimizer.

        A fused optimizer is called by a `GradScaler` also for steps that its kernel then skips. These do not count if
        that is known without waiting for a GPU.

        Args:
            stepped: does what is due then.

        Yields:
            Nothing.
        """
        if not self.optimizers:
            yield
            return

        def ended(last: torch.optim.Optimizer, *_: object) -> None:
            found = getattr(last, "found_inf", None)  # set by a GradScaler for the time of the step
            if not (isinstance(found, Tensor) and found.device.type == "cpu" and bool(found)):
                stepped()

        handle = self.optimizers[-1].register_step_post_hook(ended)
        try:
            yield
        finally:
            handle.remove()

    def replaced(self) -> None:
        """Forget what was gathered about the model before: a partner's parameters replaced it."""
        schedule_free.forget(self.optimizers)
        self.meter.forget()
        self._losses.forget()

    def untrained_loss(self) -> float | None:
        """Measure the model as it is on this peer's own examples.

        Returns:
            The mean loss in nats; None without a loss or without examples.
        """
        estimate = self.own_loss(self.vector.snapshot(self.vector.empty()))
        return None if estimate is None else estimate.mean

    def own_loss(self, values: Tensor) -> Estimate | None:
        """Try parameters on this peer's own examples; before training, for any thread.

        Args:
            values: [D].

        Returns:
            The mean loss in nats and its standard error; None without a loss or without examples.
        """
        if self._trials is None or not self._examples:
            return None
        return self._trials.loss_on(self._examples, values)

    def loss_at(self, values: Mapping[str, Tensor]) -> Estimate:
        """Try other parameters on the latest batches that were reported; for the training thread.

        Args:
            values: tensors by name, as `ParameterVector.views` gives them.

        Returns:
            The mean loss in nats, and its standard error; not numbers without a loss.
        """
        return Estimate(math.nan, math.nan) if self._trials is None else self._trials.loss_at(values)

    def unseen_loss(self) -> float:
        """Estimate the loss of the parameters by the training loss.

        Returns:
            In nats; 0 before the first.
        """
        return self.meter.loss or 0.0

    def examiner(self) -> Callable[[Tensor, Tensor], Trial | None] | None:
        """Build what tries parameters against others, for any thread.

        Returns:
            A function of (their parameters [D], this peer's [D]); None without a loss.
        """
        return None if self._trials is None else self._trials.examiner(self._examples[0] if self._examples else None)


class Measured(NamedTuple):
    """How parameters are tried in a loop of the user's own.

    Attributes:
        loss: of model and batch, the losses [B] of its examples.
        examples: batches to try a newcomer's parameters on, before there are others.
    """

    loss: Loss
    examples: tuple[Batch, ...] = ()


def plain_optimizers(given: Any) -> tuple[torch.optim.Optimizer, ...]:
    """Take one optimizer, several, or none; look into wrappers that have an `optimizer`, such as accelerate's.

    Args:
        given: what the user gave.

    Returns:
        PyTorch's optimizers.

    Raises:
        ConfigError: if one is none, or has no hooks.
    """
    found = []
    for one in () if given is None else given if isinstance(given, (list, tuple)) else (given,):
        inner = one
        while hasattr(inner, "optimizer"):  # no optimizer of PyTorch has one: it is a wrapper
            inner = inner.optimizer
        if not isinstance(inner, torch.optim.Optimizer):
            allowed = "a torch.optim.Optimizer, a list of them, or None and a call of swarm.step() after each step"
            raise ConfigError("optimizer", type(one).__name__, allowed)
        found.append(inner)
    return tuple(found)


def is_compiled(model: nn.Module) -> bool:
    """Say whether a model, or a part of it, is under `torch.compile`: then its first step takes long.

    Args:
        model: plain or compiled.

    Returns:
        True for what `torch.compile(model)` gives, and after `model.compile()`.
    """
    marks = ("_orig_mod", "_compiled_call_impl")
    return any(getattr(module, mark, None) is not None for module in model.modules() for mark in marks)
