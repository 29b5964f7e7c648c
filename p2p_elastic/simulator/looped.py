"""Many workers with the same model, one plain module after another: the reference for the stacked ones."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.simulator.workers import Optimization, Rows
from p2p_elastic.tasks.batch import Batch
from p2p_elastic.tasks.measures import Loss, mean_of
from p2p_elastic.training.adahessian import AdaHessian, set_gradients
from p2p_elastic.training.muon import Muon
from p2p_elastic.training.optimizers import SGD


class LoopedWorkers(Rows):
    """W modules with plain autograd and one of torch's optimizers each; their values are views into `flat`.

    Args:
        model: with which each begins; it is copied.
        loss: of model and batch, the losses [B] of its examples, in nats.
        workers: W.
        settings: of the optimizers.

    Raises:
        ConfigError: if the model is not in float32, or two of its tensors share memory.
    """

    def __init__(self, model: nn.Module, loss: Loss, workers: int, settings: Optimization) -> None:
        super().__init__(model, workers)
        self._loss, self._settings = loss, settings
        self._modules = [copy.deepcopy(model).train() for _ in range(workers)]
        for row, module in zip(self.flat, self._modules, strict=True):
            _point_into(row, module)
        self._optimizers = [self._optimizer(row) for row in range(workers)]
        self._active = 0

    def _optimizer(self, row: int) -> torch.optim.Optimizer:
        # The learning rate is set at each step.
        parameters, settings = self._modules[row].parameters(), self._settings
        if settings.optimizer == "adahessian":
            return AdaHessian(parameters, weight_decay=settings.weight_decay, seed=settings.seed + row)
        if settings.optimizer == "muon":
            return Muon(self._modules[row], weight_decay=settings.weight_decay)
        if settings.build is not None:
            return settings.build([p for p in parameters if p.requires_grad], settings)
        return SGD(
            parameters,
            lr=0.0,
            momentum=settings.momentum,
            nesterov=settings.nesterov and settings.momentum > 0.0,
            weight_decay=settings.weight_decay,
        )

    def gradients(self, batches: Sequence[Batch]) -> Tensor:
        """Compute and keep the gradients of the first n workers, one after the other.

        Args:
            batches: prepared, [n].

        Returns:
            Their losses [n], in nats.
        """
        self._active = len(batches)
        losses = []
        for module, optimizer, batch in zip(self._modules, self._optimizers, batches, strict=False):
            optimizer.zero_grad()
            losses.append(set_gradients(optimizer, partial(self._loss_of, module, batch)))
            if self._settings.clip is not None:
                nn.utils.clip_grad_norm_(module.parameters(), self._settings.clip)
        return torch.stack(losses)

    def _loss_of(self, module: nn.Module, batch: Batch) -> Tensor:
        return mean_of(self._loss, module, batch)

    def average_gradients(self, rows: Sequence[int]) -> None:
        """Replace what `gradients` kept by the mean over some workers, for each of them.

        Args:
            rows: of these workers; of fewer than two nothing changes.
        """
        if len(rows) < 2:
            return
        with torch.no_grad():
            for same in zip(*(self._modules[row].parameters() for row in rows), strict=True):
                _share_mean([p.grad for p in same if p.grad is not None])
                _share_mean([c for row, p in zip(rows, same, strict=True) for c in self._curvature(row, p)])

    def _curvature(self, row: int, parameter: Tensor) -> list[Tensor]:
        """What AdaHessian keeps of a parameter for its next step."""
        optimizer = self._optimizers[row]
        kept = optimizer.curvature if isinstance(optimizer, AdaHessian) else {}
        return [kept[parameter]] if parameter in kept else []

    def step(self, learning_rate: float) -> None:
        """Make one optimizer step of those workers that `gradients` was for.

        Args:
            learning_rate: of this step.
        """
        for optimizer in self._optimizers[: self._active]:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()

    def reset(self, row: int) -> None:
        """Forget what the optimizer of one worker has gathered.

        Args:
            row: of the worker.
        """
        self._optimizers[row].state.clear()


def _point_into(row: Tensor, module: nn.Module) -> None:
    """Make the parameters and float buffers of a module views into `row` [D], which has their values already."""
    for slot in ParameterVector(module).slots:
        view = row[slot.start : slot.stop].view(slot.tensor().shape)
        tensor = getattr(slot.owner, slot.attribute)
        if isinstance(tensor, nn.Parameter):
            tensor.data = view
        else:
            setattr(slot.owner, slot.attribute, view)


def _share_mean(tensors: list[Tensor]) -> None:
    if tensors:
        mean = torch.stack(tensors).mean(dim=0)
        for tensor in tensors:
            tensor.copy_(mean)
