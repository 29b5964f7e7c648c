"""Many workers with the same model: stacked, all of them in each operation, or looped (`looped.py`), one after another.

Both hold all workers' values in `flat` [W, D] in the layout of `ParameterVector` and train on the same batches; they
agree to rounding as long as the model has no dropout. The loop is the reference, the stack is faster on most models.

A step is `gradients(batches)`, perhaps `average_gradients(rows)`, then `step(learning_rate)`. Batches of fewer
than W workers are for the first ones: the others neither compute nor step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vjp, vmap

from p2p_elastic.errors import ConfigError
from p2p_elastic.parameters.vector import WIRE_DTYPE, ParameterVector
from p2p_elastic.tasks.batch import Batch, stacked
from p2p_elastic.tasks.measures import Loss, mean_of
from p2p_elastic.training.adahessian import block_average, precondition, rademacher
from p2p_elastic.training.second_derivative import twice_differentiable
from p2p_elastic.training.trials import LossOf

Named = dict[str, Tensor]

BLOCK_ELEMENTS = 2**20  # 4 MiB; malloc maps large blocks anew each time, and caches are not larger
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


OptimizerName = Literal["sgd", "adamw", "adahessian", "muon"]
"""What workers train with; "sgd" is what the task brings, if it brings an optimizer."""


class Optimization(NamedTuple):
    """The optimizer of every worker.

    Attributes:
        optimizer: its name; "muon" is for looped workers only.
        momentum: of SGD.
        nesterov: whether the momentum is Nesterov's.
        weight_decay: SGD adds it to the gradient, the others shrink by it times the learning rate.
        seed: of AdaHessian's Rademacher vectors; worker i has seed + i.
        build: of parameters and these settings, an optimizer of the task's own; looped workers only.
        clip: the largest norm of a gradient; None: any; looped workers only.
        learning_rate: set anew at each step.
    """

    optimizer: OptimizerName = "sgd"
    momentum: float = 0.0
    nesterov: bool = True
    weight_decay: float = 0.0
    seed: int = 0
    build: Callable[..., torch.optim.Optimizer] | None = None
    clip: float | None = None
    learning_rate: float = 1.0


class Workers(Protocol):
    """What a simulation needs of its workers.

    Attributes:
        flat: [W, D], float32; it may be changed in place at any time.
        trainable: the first elements of D that are parameters; the others are buffers.
        seams: the first elements of the tensors in a row.
    """

    flat: Tensor
    trainable: int
    seams: tuple[int, ...]

    def gradients(self, batches: Sequence[Batch]) -> Tensor:
        """Compute and keep the gradients of the first n workers.

        Args:
            batches: prepared, [n], on the device of `flat`, n <= W.

        Returns:
            Their losses [n], in nats.
        """

    def average_gradients(self, rows: Sequence[int]) -> None:
        """Replace what `gradients` kept by the mean over some workers, for each of them.

        Args:
            rows: of these workers.
        """

    def step(self, learning_rate: float) -> None:
        """Make one optimizer step of those workers that `gradients` was for.

        Args:
            learning_rate: of this step.
        """

    def add_(self, moves: Mapping[int, Tensor]) -> None:
        """Add moves to rows; no row is left with a negative variance of BatchNorm.

        Args:
            moves: [D] by row.
        """

    def reset(self, row: int) -> None:
        """Forget what the optimizer of one worker has gathered, as after a restart.

        Args:
            row: of the worker.
        """


class Rows:
    """The rows and where in them the variances are, which no move may make negative. Both kinds of workers build on it.

    Args:
        model: whose values each row has at first.
        workers: W.

    Attributes:
        flat: [W, D], float32.
        trainable: the first elements of D that are parameters; the others are buffers.
        slots: where each tensor of the model is in a row.
        seams: the first elements of the slots.

    Raises:
        ConfigError: if the model is not in float32, or two of its tensors share memory.
    """

    def __init__(self, model: nn.Module, workers: int) -> None:
        vector = ParameterVector(model)
        self.slots, self.seams, self.trainable = vector.slots, vector.seams, vector.trainable
        for slot in self.slots:
            if slot.tensor().dtype != WIRE_DTYPE:
                raise ConfigError(slot.name, slot.tensor().dtype, "a model in float32")
            if slot.ties:  # the copies of a worker would be parted
                raise ConfigError(slot.ties[0].key, f"the memory of {slot.name}", "one parameter under both names")
        one = vector.snapshot(torch.empty(vector.elements, device=self.slots[0].tensor().device))
        self.flat = one.repeat(workers, 1)
        self._variances = [slice(s.start, s.stop) for s in self.slots if s.attribute == "running_var"]

    def add_(self, moves: Mapping[int, Tensor]) -> None:
        """Add moves to rows; no row is left with a negative variance of BatchNorm.

        Args:
            moves: [D] by row.
        """
        for row, move in moves.items():
            self.flat[row].add_(move)
        for variance in self._variances:
            # A move is as old as the parameters it was made for, and the statistics have changed since.
            self.flat[:, variance].clamp_(min=0.0)


def loop_is_faster(model: nn.Module, device: torch.device) -> bool:
    """Whether looped workers beat stacked ones: on a CPU, with large models (1.3 times) and convolutions (1.9 times).

    What stacking saves is the launching of small operations; many workers' kernels in one go defeat a CPU's caches, and
    convolutions become grouped ones. Measured with 3 M parameters and with PreActResNet18.

    Args:
        model: that each worker trains.
        device: on which they train.

    Returns:
        True if they are expected to.
    """
    large = sum(p.numel() for p in model.parameters()) >= BLOCK_ELEMENTS
    return device.type == "cpu" and (large or any(isinstance(m, CONVOLUTIONS) for m in model.modules()))


class StackedWorkers(Rows):
    """W workers as one: every tensor of the model is a view [W, ...] into `flat`, every operation is for all of them.

    Dropout draws different masks for each worker, from the global generator of the device. Buffers that a forward pass
    changes in place, such as BatchNorm's statistics, are kept per worker; a module that replaces them is not supported.

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
        self._loss = LossOf(copy.deepcopy(model).train(), partial(mean_of, loss))
        views = {s.key: self.flat[:, s.start : s.stop].view(workers, *s.tensor().shape) for s in self.slots}
        self._parameters: Named = {name: views[name] for name, _ in model.named_parameters() if name in views}
        # Whatever does not travel (such as BatchNorm's counters) is each worker's own as well.
        self._buffers: Named = {
            name: views[name] if name in views else buffer.detach().expand(workers, *buffer.shape).clone()
            for name, buffer in model.named_buffers()
        }
        self._update: _Sgd | _AdaHessian = (
            _AdaHessian(settings, self._parameters, workers, self.flat.device)
            if settings.optimizer == "adahessian"
            else _Sgd(settings, self._parameters)
        )
        self._gradients: Named = {}
        self._curvatures: Named = {}
        self._active = 0

    def gradients(self, batches: Sequence[Batch]) -> Tensor:
        """Compute and keep the gradients of the first n workers, all at once.

        Args:
            batches: prepared, [n], of the same shapes.

        Returns:
            Their losses [n], in nats.
        """
        active, batch = len(batches), stacked(batches)
        self._active = active
        parameters, buffers = _first(self._parameters, active), _first(self._buffers, active)
        if isinstance(self._update, _AdaHessian):
            compute: Callable[..., Any] = vmap(self._with_curvature, randomness="different")
            signs = self._update.signs(parameters)
            with twice_differentiable():
                self._gradients, losses, changed, products = compute(parameters, buffers, batch, signs)
            self._curvatures = {name: block_average(hz.abs_(), leading=1) for name, hz in products.items()}
        else:
            compute = vmap(grad_and_value(self._forward, has_aux=True), randomness="different")
            self._gradients, (losses, changed) = compute(parameters, buffers, batch)
        for name, values in changed.items():
            buffers[name].copy_(values)
        found: Tensor = losses.detach()
        return found

    def _forward(self, parameters: Named, buffers: Named, batch: Batch) -> tuple[Tensor, Named]:
        """Of one worker, the loss, and the buffers as the forward pass left them."""
        # A transformed function must not change what is outside of it.
        inside = {name: buffer.clone() for name, buffer in buffers.items()}
        return self._loss.at({**parameters, **inside}, batch), inside

    def _with_curvature(
        self, parameters: Named, buffers: Named, batch: Batch, signs: Named
    ) -> tuple[Named, Tensor, Named, Named]:
        """Of one worker, gradient, loss, buffers, and the Hessian times `signs`."""

        def gradient_of(inner: Named) -> tuple[Named, tuple[Tensor, Named]]:
            gradient, aux = grad_and_value(self._forward, has_aux=True)(inner, buffers, batch)
            return gradient, aux

        found: Any = vjp(gradient_of, parameters, has_aux=True)
        gradient, times_hessian, (loss, changed) = found
        with torch.no_grad():  # a third derivative is not needed, and vmap cannot do BatchNorm's
            (products,) = times_hessian(signs)
        return gradient, loss, changed, products

    def average_gradients(self, rows: Sequence[int]) -> None:
        """Replace what `gradients` kept by the mean over some workers, for each of them.

        Args:
            rows: of these workers; of fewer than two nothing changes.
        """
        if len(rows) < 2:
            return
        chosen = torch.tensor(rows, device=self.flat.device)
        for values in (*self._gradients.values(), *self._curvatures.values()):
            if len(rows) == len(values):
                values.copy_(values.mean(dim=0, keepdim=True).expand_as(values))
            else:
                values[chosen] = values[chosen].mean(dim=0)

    def step(self, learning_rate: float) -> None:
        """Make one optimizer step of those workers that `gradients` was for.

        Args:
            learning_rate: of this step.
        """
        parameters = _first(self._parameters, self._active)
        with torch.no_grad():
            self._update.step(parameters, self._gradients, self._curvatures, learning_rate)
        self._gradients, self._curvatures = {}, {}

    def reset(self, row: int) -> None:
        """Forget what the optimizer of one worker has gathered.

        Args:
            row: of the worker.
        """
        self._update.reset(row)


def _first(tensors: Named, count: int) -> Named:
    return {name: tensor[:count] for name, tensor in tensors.items()}


class _Sgd:
    """torch.optim.SGD for stacked tensors. A buffer of zeros gives its first step: 0 momentum + gradient."""

    def __init__(self, settings: Optimization, parameters: Named) -> None:
        self._settings = settings
        self._velocity = {n: torch.zeros_like(p) for n, p in parameters.items()} if settings.momentum else {}

    def step(self, parameters: Named, gradients: Named, curvatures: Named, learning_rate: float) -> None:
        for name, theta in parameters.items():
            for rows in _blocks(theta):
                velocity = self._velocity[name][: len(theta)][rows] if self._velocity else None
                self._step_rows(theta[rows], gradients[name][rows], velocity, learning_rate)

    def _step_rows(self, theta: Tensor, gradient: Tensor, velocity: Tensor | None, learning_rate: float) -> None:
        if self._settings.weight_decay:
            gradient.add_(theta, alpha=self._settings.weight_decay)
        if velocity is not None:
            momentum = self._settings.momentum
            velocity.mul_(momentum).add_(gradient)
            gradient = gradient.add_(velocity, alpha=momentum) if self._settings.nesterov else velocity
        theta.add_(gradient, alpha=-learning_rate)

    def reset(self, row: int) -> None:
        for velocity in self._velocity.values():
            velocity[row] = 0.0


class _AdaHessian:
    """`adahessian.AdaHessian` for stacked tensors."""

    def __init__(self, settings: Optimization, parameters: Named, workers: int, device: torch.device) -> None:
        self._settings = settings
        self._steps = torch.zeros(workers, device=device)
        self._averages = {n: torch.zeros_like(p) for n, p in parameters.items()}
        self._squares = {n: torch.zeros_like(p) for n, p in parameters.items()}
        self._generators = [torch.Generator().manual_seed(settings.seed + row) for row in range(workers)]
        self._on_device = None if device.type == "cpu" else torch.Generator(device).manual_seed(settings.seed)

    def signs(self, parameters: Named) -> Named:
        """Rademacher vectors. On an accelerator they are drawn there, and so are not those of the looped workers."""
        if self._on_device is not None:
            return {n: _signs_on_device(p, self._on_device) for n, p in parameters.items()}
        return {
            name: torch.stack([rademacher(one, g) for one, g in zip(theta, self._generators, strict=False)])
            for name, theta in parameters.items()
        }

    def step(self, parameters: Named, gradients: Named, curvatures: Named, learning_rate: float) -> None:
        active = len(next(iter(parameters.values())))
        self._steps[:active].add_(1)
        for name, theta in parameters.items():
            for rows in _blocks(theta):
                self._step_rows(rows, theta, gradients[name], curvatures[name], name, learning_rate)

    def _step_rows(
        self, rows: slice, theta: Tensor, gradient: Tensor, curvature: Tensor, name: str, learning_rate: float
    ) -> None:
        precondition(
            theta[rows],
            gradient[rows],
            curvature[rows],
            self._averages[name][: len(theta)][rows],
            self._squares[name][: len(theta)][rows],
            self._steps[: len(theta)][rows].view(-1, *(1,) * (theta.dim() - 1)),
            lr=learning_rate,
            weight_decay=self._settings.weight_decay,
        )

    def reset(self, row: int) -> None:
        self._steps[row] = 0.0
        for state in (*self._averages.values(), *self._squares.values()):
            state[row] = 0.0


def _blocks(theta: Tensor) -> list[slice]:
    """Rows to be handled at once: on a CPU few enough that they and intermediate values stay in its caches."""
    size = len(theta) if theta.device.type != "cpu" else max(1, BLOCK_ELEMENTS * len(theta) // max(1, theta.numel()))
    return [slice(start, start + size) for start in range(0, len(theta), size)]


def _signs_on_device(like: Tensor, generator: torch.Generator) -> Tensor:
    bits = torch.randint(0, 2, like.shape, generator=generator, device=like.device, dtype=torch.int8)
    return bits.to(like.dtype).mul_(2).sub_(1)
