"""Stacked and looped workers are the same workers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from p2p_elastic.errors import ConfigError
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.simulator.looped import LoopedWorkers
from p2p_elastic.simulator.workers import Optimization, StackedWorkers, Workers, loop_is_faster
from p2p_elastic.tasks import Batches, Shard, cross_entropy, find_task, initial_model, shard_indices

WORKERS, BATCH, CLASSES = 3, 8, 4
BOTH = (StackedWorkers, LoopedWorkers)
both_kinds = pytest.mark.parametrize("kind", BOTH)
SGD = Optimization("sgd", momentum=0.9, weight_decay=1e-3)
HEAVY_BALL = Optimization("sgd", momentum=0.9, nesterov=False)
PLAIN = Optimization("sgd")
ADAHESSIAN = Optimization("adahessian", weight_decay=1e-3, seed=5)
every_optimizer = pytest.mark.parametrize(
    "settings", [SGD, HEAVY_BALL, PLAIN, ADAHESSIAN], ids=["nesterov", "heavy-ball", "plain", "adahessian"]
)


def smooth() -> nn.Module:
    # Rounding errors grow exponentially where a ReLU may be on in one and off in the other.
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, CLASSES))


def with_batchnorm() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, bias=False),
        nn.BatchNorm2d(5),
        nn.Tanh(),
        nn.Conv2d(5, 4, 2, stride=2),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )


class Tied(nn.Module):
    """One weight used twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(12, 12)
        self.second = nn.Linear(12, 12)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x.flatten(1))))[:, :CLASSES]


SHAPES = {smooth: (2, 6), with_batchnorm: (3, 6, 6), Tied: (3, 4)}
every_model = pytest.mark.parametrize("model", SHAPES)


def batches(steps: int, shape: tuple[int, ...], workers: int = WORKERS) -> Iterator[list[tuple[Tensor, Tensor]]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        labels = torch.randint(CLASSES, (workers, BATCH), generator=generator)
        noise = torch.randn(workers, BATCH, *shape, generator=generator)
        yield list(zip(noise + labels.view(workers, BATCH, *(1,) * len(shape)), labels, strict=True))


def train(workers: Workers, steps: int, shape: tuple[int, ...], learning_rate: float = 0.01) -> Tensor:
    for drawn in batches(steps, shape):
        workers.gradients(drawn)
        workers.step(learning_rate)
    return workers.flat


@every_optimizer
@every_model
def test_stacked_and_looped_agree_to_rounding_over_100_steps(model, settings: Optimization) -> None:
    stacked, looped = (kind(model(), cross_entropy, WORKERS, settings) for kind in BOTH)
    start = stacked.flat.clone()
    a, b = (train(workers, 100, SHAPES[model]) for workers in (stacked, looped))
    # AdaHessian divides by the curvature: where there is almost none, rounding errors grow by up to 1/eps.
    assert float((a - b).abs().max()) < (3e-4 if settings.optimizer == "adahessian" else 1e-5)
    assert float((a - start).abs().max()) > 0.01
    assert float((a[0] - a[1]).abs().max()) > 0.001


def test_on_digits_stacked_and_looped_agree_to_rounding_over_100_steps() -> None:
    task = find_task("digits")
    data = task.load(None)
    parts = [shard_indices(len(data.train), Shard(i + 1, WORKERS)) for i in range(WORKERS)]
    feed = [Batches(data.train, 32, i, part) for i, part in enumerate(parts)]
    both = [kind(initial_model(task, 0), task.loss, WORKERS, SGD) for kind in BOTH]
    for _ in range(100):
        drawn = [task.prepare(next(one), None) for one in feed]
        losses = []
        for workers in both:
            losses.append(workers.gradients(drawn))
            workers.step(0.03)
        assert torch.allclose(*losses, rtol=1e-3, atol=1e-5)
    assert torch.allclose(both[0].flat, both[1].flat, atol=1e-4)


@both_kinds
@every_model
def test_rows_have_the_layout_of_a_models_vector(kind, model) -> None:
    workers = kind(model(), cross_entropy, WORKERS, PLAIN)
    vector = ParameterVector(model())
    assert torch.equal(workers.flat, vector.snapshot(vector.empty()).repeat(WORKERS, 1))


@every_optimizer
@both_kinds
def test_one_worker_is_the_model_with_torchs_optimizer(kind, settings: Optimization) -> None:
    model = with_batchnorm()
    workers = kind(model, cross_entropy, 1, settings)
    alone = LoopedWorkers(model, cross_entropy, WORKERS, settings)
    for drawn in batches(20, SHAPES[with_batchnorm]):
        workers.gradients(drawn[:1])
        alone.gradients(drawn)
        workers.step(0.01)
        alone.step(0.01)
    assert torch.allclose(workers.flat[0], alone.flat[0], atol=3e-4)


@both_kinds
def test_the_given_model_is_not_changed(kind) -> None:
    model = with_batchnorm()
    vector = ParameterVector(model)
    before = vector.snapshot(vector.empty())
    train(kind(model, cross_entropy, WORKERS, SGD), 2, SHAPES[with_batchnorm])
    assert torch.equal(vector.snapshot(vector.empty()), before)


@both_kinds
def test_what_is_written_into_flat_is_trained_on(kind) -> None:
    a, b = (kind(smooth(), cross_entropy, WORKERS, PLAIN) for _ in range(2))
    b.flat.mul_(0.5)
    assert not torch.equal(*(w.gradients(next(batches(1, (2, 6)))) for w in (a, b)))


@both_kinds
@every_optimizer
def test_with_fewer_batches_the_last_workers_stand_still(kind, settings: Optimization) -> None:
    workers = kind(with_batchnorm(), cross_entropy, WORKERS, settings)
    whole = kind(with_batchnorm(), cross_entropy, WORKERS, settings)
    start = workers.flat.clone()
    for drawn in batches(3, SHAPES[with_batchnorm]):
        assert workers.gradients(drawn[:2]).shape == (2,)
        workers.step(0.01)
        whole.gradients(drawn)
        whole.step(0.01)
    assert torch.equal(workers.flat[2], start[2])
    assert torch.allclose(workers.flat[:2], whole.flat[:2], atol=1e-4)


@both_kinds
@every_optimizer
def test_averaged_gradients_keep_those_who_average_together_the_same(kind, settings: Optimization) -> None:
    workers = kind(smooth(), cross_entropy, WORKERS, settings)
    for drawn in batches(5, (2, 6)):
        workers.gradients(drawn)
        workers.average_gradients([0, 2])
        workers.step(0.01)
    assert torch.allclose(workers.flat[0], workers.flat[2], atol=1e-7)
    assert not torch.allclose(workers.flat[0], workers.flat[1], atol=1e-4)


@every_optimizer
def test_averaged_gradients_agree_between_stacked_and_looped(settings: Optimization) -> None:
    both = [kind(with_batchnorm(), cross_entropy, WORKERS, settings) for kind in BOTH]
    for drawn in batches(10, SHAPES[with_batchnorm]):
        for workers in both:
            workers.gradients(drawn)
            workers.average_gradients(range(WORKERS))
            workers.step(0.01)
    assert torch.allclose(both[0].flat, both[1].flat, atol=1e-4)


def test_an_average_of_gradients_is_a_step_on_the_larger_batch() -> None:
    together = StackedWorkers(smooth(), cross_entropy, WORKERS, SGD)
    alone = LoopedWorkers(smooth(), cross_entropy, 1, SGD)
    for drawn in batches(10, (2, 6)):
        together.gradients(drawn)
        together.average_gradients(range(WORKERS))
        together.step(0.01)
        inputs, labels = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        alone.gradients([(inputs, labels)])
        alone.step(0.01)
    assert torch.allclose(together.flat, alone.flat.expand(WORKERS, -1), atol=1e-5)


@both_kinds
@pytest.mark.parametrize("settings", [SGD, HEAVY_BALL, PLAIN], ids=["nesterov", "heavy-ball", "plain"])
def test_a_worker_that_is_reset_goes_on_like_a_new_one(kind, settings: Optimization) -> None:
    used, fresh = (kind(smooth(), cross_entropy, WORKERS, settings) for _ in range(2))
    start = used.flat.clone()
    train(used, 5, (2, 6))
    used.flat.copy_(start)
    used.reset(1)
    a, b = (train(workers, 1, (2, 6)) for workers in (used, fresh))
    assert torch.equal(a[1], b[1])
    assert torch.equal(a[0], b[0]) is (settings.momentum == 0.0)


@both_kinds
def test_a_reset_adahessian_forgets_its_averages(kind) -> None:
    workers = kind(smooth(), cross_entropy, WORKERS, ADAHESSIAN._replace(weight_decay=0.0))
    train(workers, 5, (2, 6))
    workers.reset(1)
    before = workers.flat.clone()
    workers.gradients([(torch.zeros(BATCH, 2, 6), torch.zeros(BATCH, dtype=torch.long))] * WORKERS)
    workers.step(0.01)
    first_weights = slice(0, 12 * 9)  # inputs of zero give them no gradient: only momentum moves them
    assert torch.equal(workers.flat[1, first_weights], before[1, first_weights])
    assert not torch.equal(workers.flat[0, first_weights], before[0, first_weights])


@both_kinds
def test_moves_are_added_and_leave_variances_positive(kind) -> None:
    workers = kind(with_batchnorm(), cross_entropy, WORKERS, PLAIN)
    before = workers.flat.clone()
    workers.add_({1: torch.full_like(before[1], -10.0)})
    assert torch.equal(workers.flat[[0, 2]], before[[0, 2]])
    moved = workers.flat[1] - before[1]
    assert float(moved.min()) == -10.0
    losses = workers.gradients(next(batches(1, SHAPES[with_batchnorm])))
    assert bool(losses.isfinite().all())
    variances = (before[1] == 1.0) & (moved == -1.0)
    assert int(variances.sum()) == 5 + 4


def test_dropout_differs_between_workers_and_not_between_runs() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, CLASSES))
    drawn = next(batches(1, (2, 6)))[:1] * WORKERS
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        runs.append(StackedWorkers(model, cross_entropy, WORKERS, PLAIN).gradients(drawn))
    assert len(set(runs[0].tolist())) == WORKERS
    assert torch.equal(*runs)


@both_kinds
def test_a_model_in_other_than_single_precision_is_refused(kind) -> None:
    with pytest.raises(ConfigError):
        kind(smooth().double(), cross_entropy, WORKERS, PLAIN)


def test_on_a_cpu_convolutions_and_large_models_are_looped() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    large = nn.Linear(1024, 1024)
    assert [loop_is_faster(model, cpu) for model in (smooth(), with_batchnorm(), large)] == [False, True, True]
    assert not any(loop_is_faster(model, gpu) for model in (smooth(), with_batchnorm(), large))
