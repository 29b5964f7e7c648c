"""AdaHessian (Yao et al. 2021, arXiv:2006.00719): Adam with the Hessian's diagonal where Adam has the gradient.

The arithmetic is in functions of tensors, which a simulator applies to the stacked tensors of many workers too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from p2p_elastic.errors import ConfigError
from p2p_elastic.training.optimizers import EagerOptimizer
from p2p_elastic.training.second_derivative import refusal, refused, silent, twice_differentiable

DEFAULT_LEARNING_RATE = 0.02
"""Measured on the MLPs of this package, batch 32. The paper has 0.15 for ResNets with BatchNorm on CIFAR-10, batch 256.

Validation accuracy: digits after 600 steps 0.967, 0.978, 0.978, 0.967, 0.950 with 0.15, 0.05, 0.02, 0.01, 0.002; MNIST
(with dropout) after 800 steps 0.891, 0.906, 0.892 with 0.05, 0.02, 0.01, while 0.15 diverges within 200. Without
BatchNorm a unit that is off has a curvature near zero, and gradient over eps is then a step of any length.
"""
BETAS, EPS, HESSIAN_POWER = (0.9, 0.999), 1e-4, 1.0

DENSE = "AdaHessian takes dense ones: sparse=False, and nn.Embedding in the place of nn.EmbeddingBag"
EACH_BIT = torch.tensor([*(2**bit for bit in range(31)), -(2**31)], dtype=torch.int32)
KERNEL_RANKS = (3, 4, 5)  # output channels, input channels and one to three spatial dimensions


def rademacher(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw +1 or -1, equally likely, for each element.

    Args:
        like: gives shape, type and device.
        generator: one of the CPU, so that a seed means the same on every device.

    Returns:
        A tensor like `like`.
    """
    # Drawing 32 of them at once takes a third of the time, and to a GPU go bits, not floats.
    words = torch.randint(-(2**31), 2**31, (-(-like.numel() // 32), 1), generator=generator, dtype=torch.int32)
    bits = words.to(like.device).bitwise_and(EACH_BIT.to(like.device)).ne_(0).flatten()[: like.numel()]
    return bits.view(like.shape).to(like.dtype).mul_(2).sub_(1)


def block_average(hz_abs: Tensor, leading: int = 0) -> Tensor:
    """|Hz| as the preconditioner sees it, in the same shape: one value for each spatial k x k block of a kernel.

    Four dimensions are the kernel of a 2-D convolution [out, in, k, k]: the mean of the absolute values over k x k
    (section 3.3 of the paper; that the absolute value comes first is from the authors' code). Three and five are taken
    for kernels of 1-D and 3-D convolutions and averaged likewise; the paper has none of these, and the authors' code
    fails on them. Whatever has fewer dimensions stays as it is: its blocks have size one.

    Args:
        hz_abs: the absolute values of the Hessian times a Rademacher vector, for one parameter tensor.
        leading: the number of dimensions in front that are not the parameter's, such as 1 if workers are stacked.

    Returns:
        A tensor of the same shape; `hz_abs` itself if nothing is averaged.

    Example:
        >>> block_average(torch.tensor([[[1.0, 3.0]]]))
        tensor([[[2., 2.]]])
    """
    rank = hz_abs.dim() - leading
    if rank not in KERNEL_RANKS:
        return hz_abs
    spatial = tuple(range(leading + 2, hz_abs.dim()))
    return hz_abs.mean(dim=spatial, keepdim=True).expand_as(hz_abs).contiguous()


def precondition(
    theta: Tensor,
    grad: Tensor,
    hessian_abs: Tensor,
    exp_avg: Tensor,
    exp_hessian_sq: Tensor,
    step: int | Tensor,
    *,
    lr: float | Tensor,
    betas: tuple[float, float] = BETAS,
    eps: float = EPS,
    weight_decay: float = 0.0,
    hessian_power: float = HESSIAN_POWER,
) -> None:
    """One step of one parameter tensor, in place (Algorithm 1 of the paper, in the form of the authors' code).

        m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) D^2
        theta <- theta - lr [ (m / (1 - b1^t)) / ((sqrt(v) / sqrt(1 - b2^t))^k + eps) + wd theta ]

    All tensors have theta's shape. Call it with gradients switched off.

    Args:
        theta: the parameter; overwritten.
        grad: its gradient g.
        hessian_abs: D, from `block_average`.
        exp_avg: m, zeros before the first step; overwritten.
        exp_hessian_sq: v, likewise.
        step: t, 1 in the first step; as a tensor it is broadcast against theta, [W, 1, ...] for stacked workers.
        lr: as a tensor it is broadcast likewise.
        betas: b1 and b2, each from 0 up to but not 1.
        eps: keeps the denominator away from zero.
        weight_decay: wd; decoupled: a step shrinks theta by lr wd.
        hessian_power: k, from 0 (momentum SGD) to 1.
    """
    beta1, beta2 = betas
    exp_avg.mul_(beta1).add_(grad, alpha=1 - beta1)
    exp_hessian_sq.mul_(beta2).addcmul_(hessian_abs, hessian_abs, value=1 - beta2)
    denominator = exp_hessian_sq.div(_bias(beta2, step)).sqrt_()
    if hessian_power != 1:
        denominator.pow_(hessian_power)
    update = exp_avg.div(_bias(beta1, step)).div_(denominator.add_(eps))
    if weight_decay:
        update.add_(theta, alpha=weight_decay)
    theta.sub_(update.mul_(lr))


def _bias(beta: float, step: int | Tensor) -> float | Tensor:
    """1 - beta^step."""
    if not isinstance(step, Tensor):
        return 1.0 - beta**step
    # In single precision 1 - 0.999^t would lose five digits at the start.
    return -torch.expm1(step * (math.log(beta) if beta else -math.inf))


class AdaHessian(EagerOptimizer):
    """AdaHessian as a PyTorch optimizer (Yao et al., arXiv 2006.00719), for parameters that are dense and real.

        optimizer.zero_grad()
        with twice_differentiable():  # needed for attention only
            loss = ...
        optimizer.backward(loss)  # in the place of loss.backward()
        optimizer.step()

    `set_gradients` does it for this optimizer and any other.

    A step costs a second backward pass and, for as long as `backward` runs, the memory of a graph of the first. What
    may come between the two calls is what may between SGD's, such as clipping the gradients. Schedulers and hooks work
    as with any optimizer. Parameters that the loss does not depend on are left alone.

    Args:
        params: parameters or groups of them, as for any optimizer; `model.named_parameters()` gives errors their names.
        lr: learning rate; see `DEFAULT_LEARNING_RATE`. 0.15 is the paper's.
        betas: decay of the averages of gradient and squared curvature, each from 0 up to but not 1.
        eps: added to the denominator, above 0: the curvature can be zero.
        weight_decay: decoupled; each step shrinks a parameter by lr * weight_decay of itself. The authors pass
            5e-4 / lr for the 5e-4 that they report.
        hessian_power: 0 to 1; 1 is the paper's, smaller values trust the curvature less.
        seed: of the Rademacher vectors; the same on every device.

    Raises:
        ConfigError: an argument out of range, by its name.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = DEFAULT_LEARNING_RATE,
        betas: tuple[float, float] = BETAS,
        eps: float = EPS,
        weight_decay: float = 0.0,
        hessian_power: float = HESSIAN_POWER,
        seed: int = 0,
    ) -> None:
        _check("lr", lr, 0 <= lr < math.inf, "at least 0")
        _check("betas", betas, len(betas) == 2 and all(0 <= beta < 1 for beta in betas), "two, each from 0 to below 1")
        _check("eps", eps, 0 < eps < math.inf, "above 0")
        _check("weight-decay", weight_decay, 0 <= weight_decay < math.inf, "at least 0")
        _check("hessian-power", hessian_power, 0 <= hessian_power <= 1, "from 0 to 1")
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "hessian_power": hessian_power,
        }
        params = list(params)
        if params and isinstance(params[0], tuple):  # PyTorch before 2.6 takes names only in this form
            params = [{"params": [p for _, p in params], "param_names": [name for name, _ in params]}]
        super().__init__(params, defaults)
        self._generator = torch.Generator().manual_seed(seed)
        self._curvature: dict[Tensor, Tensor] = {}

    def backward(self, loss: Tensor) -> None:
        """Set the gradients of a scalar loss, and keep the |Hz| of a fresh Rademacher vector z for the next step.

        Unlike `loss.backward()` this replaces what an earlier call left: curvatures of parts of a batch do not add up.

        Args:
            loss: a scalar, with its graph.

        Raises:
            ConfigError: if something in the model cannot be differentiated twice, or has sparse gradients; by its name.
        """
        every = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        hidden = None if self.state else silent(loss)  # looked for at the first step
        if hidden is not None:
            raise refused(hidden, self._names())
        try:
            self._differentiate(loss, every)
        except RuntimeError as error:
            why = refusal(error, loss, self._names())
            if why is None:
                raise
            raise why from error

    def _differentiate(self, loss: Tensor, every: Sequence[Tensor]) -> None:
        # Not backward(create_graph=True): parameter and gradient would refer to each other, and never be freed.
        found = torch.autograd.grad(loss, every, create_graph=True, allow_unused=True)
        used = [(p, grad) for p, grad in zip(every, found, strict=True) if grad is not None]
        for p, grad in used:
            if grad.layout != torch.strided:
                raise ConfigError(self._names()[p], "a sparse gradient", DENSE)
        products = self._times_hessian([p for p, _ in used], [grad for _, grad in used])
        for p in every:
            p.grad = None
        for p, grad in used:
            p.grad = grad.detach()
        self._curvature = {p: block_average(hz.abs_()) for (p, _), hz in zip(used, products, strict=True)}

    def _names(self) -> dict[Tensor, str]:
        """Names of the parameters; their places and shapes if they were given without names."""
        return {
            p: name
            for number, group in enumerate(self.param_groups)
            for p, name in zip(
                group["params"],
                group.get("param_names")
                or [f"group {number}, parameter {at} {list(p.shape)}" for at, p in enumerate(group["params"])],
                strict=True,
            )
        }

    @property
    def curvature(self) -> Mapping[Tensor, Tensor]:
        """|Hz| of each parameter, from `backward` to the next step; its values may be changed in place meanwhile."""
        return self._curvature

    def _times_hessian(self, params: Sequence[Tensor], grads: Sequence[Tensor]) -> list[Tensor]:
        """Hz for each parameter; zero if no gradient depends on it."""
        signs = [rademacher(p, self._generator) for p in params]
        curved = [(grad, z) for grad, z in zip(grads, signs, strict=True) if grad.requires_grad]
        if not curved:
            return [torch.zeros_like(p) for p in params]
        of, along = zip(*curved, strict=True)
        products = torch.autograd.grad(of, params, grad_outputs=along, allow_unused=True)
        return [torch.zeros_like(p) if hz is None else hz for p, hz in zip(params, products, strict=True)]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step with what `backward` found.

        Args:
            closure: zeroes the gradients, calls `backward` and returns the loss. It runs in `twice_differentiable`.

        Returns:
            What the closure returned; None without one.

        Raises:
            RuntimeError: if a parameter has a gradient that `backward` has not set since the last step.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad(), twice_differentiable():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, group)
        self._curvature = {}
        return loss

    def _update(self, p: Tensor, group: dict[str, Any]) -> None:
        if p not in self._curvature:
            raise RuntimeError("AdaHessian needs optimizer.backward(loss) before each step, not loss.backward()")
        state = self.state[p]
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(p), exp_hessian_sq=torch.zeros_like(p))
        state["step"] += 1
        assert p.grad is not None
        precondition(
            p,
            p.grad,
            self._curvature[p],
            state["exp_avg"],
            state["exp_hessian_sq"],
            state["step"],
            lr=group["lr"],
            betas=group["betas"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            hessian_power=group["hessian_power"],
        )

    def state_dict(self) -> dict[str, Any]:
        """As for any optimizer, with the state of the random numbers.

        Returns:
            PyTorch's dictionary, and under "generator" a uint8 tensor.
        """
        return {**super().state_dict(), "generator": self._generator.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a `state_dict`, with the same random numbers.

        Args:
            state_dict: as `state_dict` gave it.
        """
        super().load_state_dict(state_dict)
        self._generator.set_state(state_dict["generator"].cpu())


def set_gradients(optimizer: torch.optim.Optimizer, forward: Callable[[], Tensor]) -> Tensor:
    """Set the gradients of a scalar loss, as this optimizer needs them. What raises is that of `AdaHessian.backward`.

    Args:
        optimizer: any; AdaHessian gets second derivatives, too.
        forward: computes the loss.

    Returns:
        The loss, detached.
    """
    if isinstance(optimizer, AdaHessian):
        with twice_differentiable():
            loss = forward()
        optimizer.backward(loss)
    else:
        loss = forward()
        loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def _check(key: str, got: float | tuple[float, ...], holds: bool, allowed: str) -> None:
    if not holds:
        raise ConfigError(key, got, f"allowed: {allowed}")
