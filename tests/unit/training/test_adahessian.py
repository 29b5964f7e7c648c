"""AdaHessian against the full Hessian of small models, and what it takes to be an optimizer of PyTorch."""

from __future__ import annotations

import copy
import gc
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from p2p_elastic.errors import ConfigError
from p2p_elastic.tasks import Batches, evaluate, find_task, initial_model
from p2p_elastic.training.adahessian import DEFAULT_LEARNING_RATE, AdaHessian, block_average, precondition, rademacher

Draw = Callable[[], Tensor]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


# ---------------------------------------------------------------- against the whole Hessian


class Reference:
    """AdaHessian as the formulas are written, with the whole Hessian [D, D] of one loss; slow, and of no other use."""

    def __init__(self, values: dict[str, Tensor], lr: float, wd: float, power: float, seed: int) -> None:
        self.values = {name: value.detach().clone() for name, value in values.items()}
        self.m = {name: torch.zeros_like(value) for name, value in values.items()}
        self.v = {name: torch.zeros_like(value) for name, value in values.items()}
        self.t, self.lr, self.wd, self.power, self.signs = 0, lr, wd, power, seeded(seed)

    def step(self, loss: Callable[[dict[str, Tensor]], Tensor]) -> None:
        names = list(self.values)
        z = torch.cat([rademacher(self.values[name], self.signs).flatten() for name in names])
        gradients = torch.func.grad(loss)(self.values)
        # Not torch.func.hessian: forward over reverse is wrong in torch 2.15 for BatchNorm (finite differences say so).
        blocks = torch.func.jacrev(torch.func.grad(loss))(self.values)
        sizes = [self.values[name].numel() for name in names]
        rows = [torch.cat([blocks[a][b].reshape(self.values[a].numel(), -1) for b in names], dim=1) @ z for a in names]
        assert [len(row) for row in rows] == sizes
        self.t += 1
        for name, row in zip(names, rows, strict=True):
            d = row.abs().view(self.values[name].shape)
            if d.dim() == 4:
                for i in range(d.shape[0]):
                    for j in range(d.shape[1]):
                        d[i, j] = d[i, j].sum() / d[i, j].numel()
            self.m[name] = 0.9 * self.m[name] + 0.1 * gradients[name]
            self.v[name] = 0.999 * self.v[name] + 0.001 * d**2
            denominator = (self.v[name].sqrt() / math.sqrt(1 - 0.999**self.t)) ** self.power + 1e-4
            direction = (self.m[name] / (1 - 0.9**self.t)) / denominator + self.wd * self.values[name]
            self.values[name] = self.values[name] - self.lr * direction


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(18, 4), nn.Tanh(), nn.Linear(4, 3))


def convolutions() -> nn.Module:
    layers = (nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 2), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(8, 3))


@pytest.mark.parametrize("make", [perceptron, convolutions])
@pytest.mark.parametrize(("weight_decay", "power"), [(0.0, 1.0), (0.1, 1.0), (0.01, 0.5), (0.0, 0.0)])
def test_steps_are_those_of_the_formulas(make: Callable[[], nn.Module], weight_decay: float, power: float) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = make().double()
    optimizer = AdaHessian(model.parameters(), lr=0.05, weight_decay=weight_decay, hessian_power=power, seed=5)
    reference = Reference(dict(model.named_parameters()), 0.05, weight_decay, power, seed=5)
    for number in range(4):
        inputs, labels = randn(6, 2, 3, 3, seed=number), torch.tensor([0, 1, 2, 0, 1, 2])

        def loss(values: dict[str, Tensor], inputs: Tensor = inputs, labels: Tensor = labels) -> Tensor:
            buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
            return nn.functional.cross_entropy(functional_call(model, (values, buffers), (inputs,)), labels)

        reference.step(loss)
        optimizer.zero_grad()
        optimizer.backward(nn.functional.cross_entropy(model(inputs), labels))
        optimizer.step()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.detach(), reference.values[name])


def test_many_vectors_average_to_the_diagonal_and_on_a_diagonal_hessian_each_one_gives_it() -> None:
    p = nn.Parameter(randn(6))
    curvatures = torch.tensor([1e-3, 0.5, -2.0, 0.0, 7.0, 1e3], dtype=torch.float64)
    optimizer = AdaHessian([p])
    for _ in range(3):
        optimizer.backward((curvatures * p * p).sum() / 2)
        torch.testing.assert_close(optimizer.curvature[p], curvatures.abs())
    a = randn(6, 6, seed=1)
    hessian, signs = a @ a.T, seeded(1)
    zs = [rademacher(p.detach(), signs) for _ in range(4000)]
    estimate = torch.stack([z * (hessian @ z) for z in zs]).mean(dim=0)
    torch.testing.assert_close(estimate, hessian.diagonal(), rtol=0.1, atol=0.3)


def _on_cpu(value: object) -> bool:
    return isinstance(value, Tensor) and value.device.type == "cpu"


class ToDevice(TorchDispatchMode):
    """Counts the bytes that leave the CPU."""

    nbytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.device.type == "meta" and _on_cpu(args[0]):
            self.nbytes += out.nbytes
        return out


def test_a_bit_for_each_sign_goes_to_the_device() -> None:
    with ToDevice() as sent:
        z = rademacher(torch.empty(1000, 100, device="meta"), seeded())
    assert (z.device.type, z.shape, z.dtype) == ("meta", (1000, 100), torch.float32)
    assert 100_000 / 8 <= sent.nbytes <= 100_000 / 8 + 1000


def test_rademacher_vectors_are_fair_signs_of_the_kind_asked_for() -> None:
    z = rademacher(torch.empty(10_000, dtype=torch.float16), seeded())
    assert z.dtype == torch.float16
    assert set(z.tolist()) == {-1.0, 1.0}
    assert abs(float(z.double().mean())) < 0.05
    assert torch.equal(z, rademacher(z, seeded()))
    assert not torch.equal(z, rademacher(z, seeded(1)))


# ---------------------------------------------------------------- blocks


def test_a_kernel_has_one_value_per_block_and_a_matrix_one_per_element() -> None:
    kernel = torch.arange(2 * 3 * 4 * 4, dtype=torch.float64).view(2, 3, 4, 4)
    averaged = block_average(kernel)
    assert averaged.shape == kernel.shape
    assert (averaged == averaged[:, :, :1, :1]).all()
    assert averaged[1, 2, 0, 0] == kernel[1, 2].mean()
    for unchanged in (torch.tensor(2.0), randn(3), randn(3, 4)):
        assert torch.equal(block_average(unchanged), unchanged)


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 5, 5), (2, 3, 2, 5, 5), (7,), (2, 3), ()])
def test_stacked_workers_are_averaged_each_for_itself(shape: tuple[int, ...]) -> None:
    stacked = randn(4, *shape).abs()
    expected = torch.stack([block_average(one) for one in stacked])
    assert torch.equal(block_average(stacked, leading=1), expected)
    assert (len(shape) > 2) == (not torch.equal(stacked, expected))


# ---------------------------------------------------------------- the arithmetic


def stepped(step: int | Tensor, lr: float | Tensor, theta: Tensor, **options: Any) -> list[Tensor]:
    shape = theta.shape
    tensors = [theta.clone(), *(randn(*shape, seed=s) for s in (1, 2, 3, 4))]
    tensors[2].abs_()
    tensors[4].abs_()
    precondition(*tensors, step, lr=lr, **options)
    return tensors


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.0)])
def test_stacked_workers_step_as_each_alone_even_where_one_has_fewer_steps_behind_it(
    betas: tuple[float, float],
) -> None:
    steps, rates = torch.tensor([1, 2, 1000]).view(3, 1, 1), torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    theta = randn(3, 4, 5)
    together = stepped(steps, rates.view(3, 1, 1), theta, betas=betas, weight_decay=0.1)
    for worker in range(3):
        alone = [theta[worker].clone(), *(randn(3, 4, 5, seed=s)[worker].clone() for s in (1, 2, 3, 4))]
        alone[2].abs_()
        alone[4].abs_()
        precondition(*alone, int(steps[worker]), lr=float(rates[worker]), betas=betas, weight_decay=0.1)
        for one, of_many in zip(alone, together, strict=True):
            torch.testing.assert_close(of_many[worker], one, rtol=1e-5, atol=1e-8)


def test_the_bias_correction_of_a_tensor_of_steps_is_exact_in_single_precision() -> None:
    theta = torch.zeros(2)
    start = [torch.zeros(2) for _ in range(2)]
    precondition(theta, torch.ones(2), torch.full((2,), 2.0), *start, torch.tensor([1.0, 1.0]), lr=1.0, eps=1e-12)
    torch.testing.assert_close(theta, torch.full((2,), -0.5), rtol=1e-6, atol=0.0)


def test_the_first_step_on_a_diagonal_quadratic_is_newtons() -> None:
    p = nn.Parameter(randn(5))
    curvatures = torch.tensor([0.1, 1.0, 10.0, 100.0, 1000.0], dtype=torch.float64)
    optimizer = AdaHessian([p], lr=1.0, eps=1e-12)
    optimizer.backward((curvatures * p * p).sum() / 2)
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.zeros_like(p), rtol=0.0, atol=1e-9)


def test_an_ill_conditioned_quadratic_converges_at_one_rate_in_all_directions() -> None:
    p = nn.Parameter(torch.ones(5, dtype=torch.float64))
    curvatures = torch.tensor([0.1, 1.0, 10.0, 100.0, 1000.0], dtype=torch.float64)
    optimizer = AdaHessian([p], lr=0.15)
    for _ in range(300):
        optimizer.backward((curvatures * p * p).sum() / 2)
        optimizer.step()
    assert float(p.detach().abs().max()) < 1e-4


def test_weight_decay_shrinks_apart_from_the_gradient() -> None:
    p = nn.Parameter(torch.tensor([2.0, -4.0]))
    optimizer = AdaHessian([p], lr=0.5, weight_decay=0.1)
    optimizer.backward((0.0 * p * p).sum())
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.tensor([1.9, -3.8]))


# ---------------------------------------------------------------- as an optimizer


def quadratic(p: Tensor) -> Tensor:
    return (torch.outer(p, p).sum() + (p**4).sum()) / 2


def test_gradients_are_those_of_backward_and_belong_to_no_graph() -> None:
    p = nn.Parameter(randn(4))
    quadratic(p).backward()  # type: ignore[no-untyped-call]
    expected, optimizer = p.grad, AdaHessian([p])
    optimizer.backward(quadratic(p))
    assert p.grad is not None
    torch.testing.assert_close(p.grad, expected)
    assert not p.grad.requires_grad
    assert not optimizer.curvature[p].requires_grad


def test_the_graph_is_free_without_the_garbage_collector() -> None:
    class Seen(torch.autograd.Function):
        alive = 0

        @staticmethod
        def forward(ctx: Any, value: Tensor) -> Tensor:
            Seen.alive += 1
            ctx.token = Token()
            return value.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad

    class Token:
        def __del__(self) -> None:
            Seen.alive -= 1

    p = nn.Parameter(randn(4))
    optimizer = AdaHessian([p])
    gc.disable()
    try:
        optimizer.backward(quadratic(Seen.apply(p)))
        optimizer.step()
        assert Seen.alive == 0
    finally:
        gc.enable()


def test_what_the_loss_does_not_depend_on_is_left_alone() -> None:
    used, unused, frozen = (nn.Parameter(randn(3, seed=s)) for s in range(3))
    frozen.requires_grad_(False)
    before = unused.detach().clone(), frozen.detach().clone()
    optimizer = AdaHessian([used, unused, frozen], lr=0.1, weight_decay=0.5)
    unused.grad = torch.ones(3, dtype=torch.float64)  # of an earlier loss
    optimizer.backward(quadratic(used + frozen))
    optimizer.step()
    assert unused.grad is frozen.grad is None
    assert torch.equal(unused, before[0])
    assert torch.equal(frozen, before[1])
    assert unused not in optimizer.state


def test_a_linear_loss_has_no_curvature_and_gradient_over_eps_for_a_step() -> None:
    p, q = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = AdaHessian([p, q], lr=0.1, eps=0.5)
    optimizer.backward(3.0 * p.sum() + 0.5 * (q * q).sum())
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.full((2,), 1 - 0.1 * 3 / 0.5))
    torch.testing.assert_close(q.detach(), torch.full((2,), 1 - 0.1 * 1 / 1.5))
    only = AdaHessian([p], lr=0.0)
    only.backward(p.sum())
    assert not only.curvature[p].any()


@pytest.mark.parametrize("forgotten", ["never", "since the last step"])
def test_a_step_without_its_own_backward_is_an_error_that_says_so(forgotten: str) -> None:
    p = nn.Parameter(randn(3))
    optimizer = AdaHessian([p])
    if forgotten == "never":
        quadratic(p).backward()  # type: ignore[no-untyped-call]
    else:
        optimizer.backward(quadratic(p))
        optimizer.step()
    with pytest.raises(RuntimeError, match=r"needs optimizer.backward\(loss\) before each step"):
        optimizer.step()


def test_a_closure_hooks_groups_and_schedules_work_as_with_any_optimizer() -> None:
    p, q = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = AdaHessian([{"params": [p], "lr": 0.0}, {"params": [q]}], lr=0.5)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1], 0.1)
    heard: list[int] = []
    optimizer.register_step_post_hook(lambda *_: heard.append(1))

    def closure() -> float:
        optimizer.zero_grad()
        loss = (p * p + q * q).sum()
        optimizer.backward(loss)
        return float(loss.detach())

    assert optimizer.step(closure) == 4.0
    schedule.step()
    assert heard == [1]
    assert torch.equal(p.detach(), torch.ones(2))
    torch.testing.assert_close(q.detach(), torch.full((2,), 0.5), rtol=1e-3, atol=0.0)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.0, 0.05])


def run(p: nn.Parameter, optimizer: AdaHessian, steps: int) -> None:
    for _ in range(steps):
        optimizer.backward(quadratic(p))
        optimizer.step()


def test_training_goes_on_from_a_state_dict_as_if_it_had_never_stopped() -> None:
    p, q = nn.Parameter(randn(4)), nn.Parameter(randn(4))
    first = AdaHessian([p], lr=0.1, weight_decay=0.01, seed=3)
    run(p, first, 5)
    with torch.no_grad():
        q.copy_(p)
    second = AdaHessian([q], seed=99)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    run(p, first, 5)
    run(q, second, 5)
    assert torch.equal(p, q)


def test_a_seed_decides_all_and_the_global_random_numbers_nothing() -> None:
    results = []
    before = torch.get_rng_state()
    for seed in (1, 1, 2):
        p = nn.Parameter(randn(4))
        run(p, AdaHessian([p], lr=0.1, seed=seed), 3)
        results.append(p.detach())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"lr": -0.1}, "lr"),
        ({"lr": math.nan}, "lr"),
        ({"lr": math.inf}, "lr"),
        ({"betas": (1.0, 0.9)}, "betas"),
        ({"betas": (0.9, -0.1)}, "betas"),
        ({"betas": (0.9,)}, "betas"),
        ({"eps": 0.0}, "eps"),
        ({"weight_decay": -1.0}, "weight-decay"),
        ({"hessian_power": 1.5}, "hessian-power"),
        ({"hessian_power": math.nan}, "hessian-power"),
    ],
)
def test_what_is_out_of_range_is_named(options: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        AdaHessian([nn.Parameter(torch.ones(1))], **options)
    assert caught.value.key == key
    assert caught.value.allowed.startswith("allowed: ")


# ---------------------------------------------------------------- the tasks


def test_digits_are_learned() -> None:
    task = find_task("digits")
    data, model = task.load(None), initial_model(task, 0)
    optimizer = AdaHessian(model.parameters(), lr=DEFAULT_LEARNING_RATE)
    batches = Batches(data.train, 32, seed=0)
    for _ in range(150):
        inputs, labels = next(batches)
        optimizer.zero_grad()
        optimizer.backward(task.loss(model, task.prepare((inputs, labels), None)).mean())
        optimizer.step()
    result = evaluate(model, task, data.test, "cpu")
    assert result is not None
    assert result.accuracy > 0.9


@pytest.mark.parametrize(("name", "shape"), [("mnist", (28, 28)), ("cifar10", (3, 32, 32))])
def test_every_parameter_of_the_other_models_moves(name: str, shape: tuple[int, ...]) -> None:
    task = find_task(name)
    model = initial_model(task, 0)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = AdaHessian(model.parameters(), lr=0.01)
    inputs = torch.randint(0, 256, (4, *shape), generator=seeded(), dtype=torch.uint8)
    with torch.random.fork_rng(devices=[]):
        optimizer.backward(task.loss(model, task.prepare((inputs, torch.arange(4)), None)).mean())
    optimizer.step()
    for old, p in zip(before, model.parameters(), strict=True):
        assert torch.isfinite(p).all()
        assert not torch.equal(old, p.detach())
