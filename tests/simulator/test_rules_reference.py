"""Each method's round against the equations of its paper, written down anew in numpy.

Both sides get the same starting points, gradients, losses and schedule; who meets whom, and in which order, is read
back from the simulator. Every step is: moves at the old parameters, a gradient step at the old parameters, then what is
settled after it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from p2p_elastic.rules import RULES
from p2p_elastic.simulator.config import SimulationConfig
from p2p_elastic.simulator.rounds import Accumulated, Ask, Centre, Leader, Nobody, Pairs, Round, build_round
from p2p_elastic.simulator.workers import LoopedWorkers, Optimization

Array = NDArray[np.float64]
STEPS, SIZE, STEP_SIZE = 12, 6, 0.1
each_size = pytest.mark.parametrize("workers", [2, 3, 5, 8])


class Recorder(random.Random):
    """Remembers the last order that it made."""

    order: list[int]

    def shuffle(self, x: list[int]) -> None:  # type: ignore[override]
        super().shuffle(x)
        self.order = list(x)


class Setting:
    """Starting points, and per step: gradients, losses, who is due and who can be reached."""

    def __init__(self, workers: int, seed: int = 0, *, same_start: bool = False) -> None:
        self.workers, self.rng = workers, np.random.default_rng([workers, seed])
        self.start = self.rng.normal(size=(1 if same_start else workers, SIZE)).repeat(workers if same_start else 1, 0)
        self.flat = torch.tensor(self.start)
        self.due: list[int] = []
        self.connected: list[int] = []

    def draw(self, *, everybody: bool = False) -> tuple[Array, list[float]]:
        """The next step: gradients and losses."""
        self.due = [i for i in range(self.workers) if everybody or self.rng.random() < 0.7]
        self.connected = [i for i in range(self.workers) if everybody or self.rng.random() < 0.8]
        losses = [float(x) for x in self.rng.random(self.workers)]
        if not everybody and self.rng.random() < 0.3:
            losses[int(self.rng.integers(self.workers))] = float("nan")
        return self.rng.normal(size=(self.workers, SIZE)), losses

    @property
    def meeting(self) -> list[int]:
        return [i for i in self.due if i in self.connected]

    def descend(self, gradients: Array) -> None:
        self.flat -= STEP_SIZE * torch.tensor(gradients)

    def build(self, rule: str, **options: object) -> Round:
        config = SimulationConfig.model_validate({"rule": rule, "workers": self.workers, **options})
        return build_round(config, self.flat)

    def agree(self, reference: Array) -> None:
        np.testing.assert_allclose(self.flat.numpy(), reference, rtol=1e-10, atol=1e-12)


# ---------------------------------------------------------------- gossip


def neighbours(asks: Iterable[Ask], workers: int) -> list[set[int]]:
    """K_i: whom i asked, and who asked i; a mutual choice counts once (Elastic Gossip)."""
    found: list[set[int]] = [set() for _ in range(workers)]
    for i, k in asks:
        found[i].add(k)
        found[k].add(i)
    return found


def elastic_gossip(x: Array, asks: list[Ask], alpha: float, *, capped: bool) -> Array:
    """s_i = alpha sum over K_i of (x^i - x^k); capped, which is ours: alpha at most 1 / the larger of both degrees."""
    near, displacement = neighbours(asks, len(x)), np.zeros_like(x)
    for i, partners in enumerate(near):
        for k in partners:
            rate = min(alpha, 1 / max(len(near[i]), len(near[k]))) if capped else alpha
            displacement[i] += rate * (x[i] - x[k])
    return -displacement


@each_size
@pytest.mark.parametrize(("alpha", "capped"), [(0.1, False), (0.5, True), (0.9, True)])
@pytest.mark.parametrize("partners", [1, 2])
def test_elastic_gossip(workers: int, alpha: float, capped: bool, partners: int) -> None:
    """alpha 0.1 is below 1/7: there, the paper's equation as it stands."""
    here = Setting(workers)
    round_ = here.build("elastic-gossip", moving_rate=alpha, partners=min(partners, workers - 1))
    assert isinstance(round_, Pairs)
    x = here.start.copy()
    for step in range(1, STEPS + 1):
        gradients, _ = here.draw()
        asks = round_.draw(here.due, here.connected)
        assert {i for i, _ in asks} <= set(here.meeting)
        assert {k for _, k in asks} <= set(here.connected)
        before = here.flat.clone()
        moves = round_.exchange(here.flat, asks, step)
        assert torch.equal(here.flat, before)
        here.descend(gradients)
        for row, move in moves.items():
            here.flat[row] += move
        x = x - STEP_SIZE * gradients + elastic_gossip(x, asks, alpha, capped=capped)
        here.agree(x)


def test_elastic_gossip_counts_a_mutual_choice_once() -> None:
    here = Setting(3)
    round_ = here.build("elastic-gossip", moving_rate=0.3)
    assert isinstance(round_, Pairs)
    moves = round_.exchange(here.flat, [(0, 1), (1, 0)])
    assert sorted(moves) == [0, 1]
    np.testing.assert_allclose(moves[0].numpy(), 0.3 * (here.start[1] - here.start[0]))
    np.testing.assert_allclose(moves[1].numpy(), 0.3 * (here.start[0] - here.start[1]))
    assert round_.traffic.exchanges == 1


def test_elastic_gossip_with_a_moving_rate_of_zero_is_no_communication() -> None:
    here = Setting(5)
    for move in here.build("elastic-gossip", moving_rate=0.0).moves(here.flat, range(5), range(5), 1).values():
        assert not bool(move.any())


@each_size
@pytest.mark.parametrize("rate", [0.5, 0.2])
def test_pull_gossip(workers: int, rate: float) -> None:
    """s_i = (x^i - x^peer) / 2 if i drew a peer, else 0."""
    here = Setting(workers)
    round_ = here.build("gossip-pull", moving_rate=rate)
    assert isinstance(round_, Pairs)
    x = here.start.copy()
    for step in range(1, STEPS + 1):
        gradients, _ = here.draw()
        asks = round_.draw(here.due, here.connected)
        moves = round_.exchange(here.flat, asks, step)
        here.descend(gradients)
        for row, move in moves.items():
            here.flat[row] += move
        after = x - STEP_SIZE * gradients
        for i, peer in asks:
            after[i] -= rate * (x[i] - x[peer])
        x = after
        here.agree(x)


@each_size
@pytest.mark.parametrize("rate", [0.5, 0.2])
def test_push_gossip(workers: int, rate: float) -> None:
    """The receiver averages itself with what it received, one message after the other; senders sent what they had."""
    here = Setting(workers)
    round_ = here.build("gossip-push", moving_rate=rate)
    assert isinstance(round_, Pairs)
    x = here.start.copy()
    for step in range(1, STEPS + 1):
        gradients, _ = here.draw()
        asks = round_.draw(here.due, here.connected)
        moves = round_.exchange(here.flat, asks, step)
        here.descend(gradients)
        for row, move in moves.items():
            here.flat[row] += move
        mixed = x.copy()
        for sender, receiver in asks:
            mixed[receiver] = (1 - rate) * mixed[receiver] + rate * x[sender]
        x = mixed - STEP_SIZE * gradients
        here.agree(x)


@each_size
def test_gosgd(workers: int) -> None:
    """Who sends gives half of its weight; who receives is the weighted mean of itself and all messages."""
    here = Setting(workers)
    round_ = here.build("gosgd")
    assert isinstance(round_, Pairs)
    x, a = here.start.copy(), np.ones(workers)
    for step in range(1, STEPS + 1):
        gradients, _ = here.draw()
        asks = round_.draw(here.due, here.connected)
        moves = round_.exchange(here.flat, asks, step)
        weighted = a @ x
        messages = []
        for sender, receiver in asks:
            a[sender] /= 2
            messages.append((receiver, a[sender], x[sender].copy()))
        mixed, weights = a[:, None] * x, a.copy()
        for receiver, weight, sent in messages:
            mixed[receiver] += weight * sent
            weights[receiver] += weight
        x, a = mixed / weights[:, None], weights
        np.testing.assert_allclose(a @ x, weighted, rtol=1e-10, atol=1e-12)
        x -= STEP_SIZE * gradients
        here.descend(gradients)
        for row, move in moves.items():
            here.flat[row] += move
        here.agree(x)
        np.testing.assert_allclose(np.array(round_.states, dtype=float), a, rtol=1e-12)
        assert a.sum() == pytest.approx(workers)


# ---------------------------------------------------------------- a centre variable


@each_size
@pytest.mark.parametrize("rule", ["easgd", "eamsgd"])
@pytest.mark.parametrize("delta", [0.0, 0.9])
def test_asynchronous_easgd(workers: int, rule: str, delta: float) -> None:
    """Algorithm 1 and, with momentum delta, the closed form of Algorithm 2; each worker meets the centre when due.

    x^i <- x^i + v - alpha (x^i - x~), v = delta v - eta g;   x~ <- x~ + alpha (x^i - x~), all at the old x^i.
    """
    here, alpha = Setting(workers, same_start=True), 0.9 / workers
    round_ = here.build(rule, moving_rate=alpha)
    assert isinstance(round_, Centre)
    round_._rng = recorder = Recorder(1)
    x, centre, v = here.start.copy(), here.start[0].copy(), np.zeros_like(here.start)
    velocity = torch.zeros_like(here.flat)
    for step in range(1, STEPS + 1):
        gradients, _ = here.draw()
        moves = round_.moves(here.flat, here.due, here.connected, step)
        velocity = delta * velocity - STEP_SIZE * torch.tensor(gradients)
        here.flat += velocity
        for row, move in moves.items():
            here.flat[row] += move
        assert sorted(recorder.order) == here.meeting
        v = delta * v - STEP_SIZE * gradients
        after = x + v
        for i in recorder.order:
            difference = alpha * (x[i] - centre)
            after[i] -= difference
            centre = centre + difference
        x = after
        here.agree(x)
        np.testing.assert_allclose(round_.centre.numpy(), centre, rtol=1e-10, atol=1e-12)


@each_size
def test_easgd_with_dynamic_weights(workers: int) -> None:
    """ALGORITHMS 4.4: u = log ||x^i - x~|| at contacts, a = sum c_j (u_t-j - u_t-j-1), w = clip((a - .1) / .4, 0, 1);

    x^i <- x^i - (alpha + (1 - alpha) w)(x^i - x~);   x~ <- x~ + alpha (1 - w)(x^i - x~). Distances jump now and then.
    """
    here, alpha = Setting(workers, same_start=False), 0.1
    round_ = here.build("easgd-dynamic", moving_rate=alpha)
    assert isinstance(round_, Centre)
    round_._rng = recorder = Recorder(1)
    x, centre, seen = here.start.copy(), here.start[0].copy(), [[] for _ in range(workers)]
    lags = []
    for step in range(1, 40):
        here.draw()
        jump = np.exp(np.random.default_rng(step).normal(0.1, 0.8, size=(workers, 1)))
        x = centre + jump * (x - centre)
        here.flat.copy_(torch.tensor(x))
        moves = round_.moves(here.flat, here.due, here.connected, step)
        for row, move in moves.items():
            here.flat[row] += move
        for i in recorder.order:
            difference = x[i] - centre
            seen[i].append(np.log(np.linalg.norm(difference) + 1e-30))
            u = seen[i][::-1]
            a = sum(c * (u[j] - u[j + 1]) for j, c in enumerate((0.4, 0.3, 0.2, 0.1))) if len(u) > 4 else 0.0
            w = min(max((a - 0.1) / 0.4, 0.0), 1.0)
            lags.append(w)
            x[i] = x[i] - (alpha + (1 - alpha) * w) * difference
            centre = centre + alpha * (1 - w) * difference
        here.agree(x)
        np.testing.assert_allclose(round_.centre.numpy(), centre, rtol=1e-9, atol=1e-12)
    assert 0.0 in lags
    assert 1.0 in lags
    assert any(0.0 < w < 1.0 for w in lags)


@each_size
def test_synchronous_easgd(workers: int) -> None:
    """Eq. 3-6: x~ <- (1 - beta) x~ + beta mean of x^i with beta = p alpha, everything at the old values."""
    beta = 0.9
    here, alpha = Setting(workers, same_start=True), beta / workers
    round_ = here.build("easgd-sync", moving_rate=alpha)
    assert isinstance(round_, Centre)
    x, centre = here.start.copy(), here.start[0].copy()
    for step in range(1, STEPS + 1):
        gradients, _ = here.draw(everybody=True)
        moves = round_.moves(here.flat, here.due, here.connected, step)
        here.descend(gradients)
        for row, move in moves.items():
            here.flat[row] += move
        x, centre = x - STEP_SIZE * gradients - alpha * (x - centre), (1 - beta) * centre + beta * x.mean(0)
        here.agree(x)
        np.testing.assert_allclose(round_.centre.numpy(), centre, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rule", ["easgd", "eamsgd", "easgd-sync"])
def test_workers_and_centre_together_keep_their_sum(rule: str) -> None:
    here = Setting(5, same_start=False)
    round_ = here.build(rule, moving_rate=0.2)
    assert isinstance(round_, Centre)
    before = here.start.sum(0) + round_.centre.numpy()
    for step in range(1, STEPS + 1):
        here.draw()
        for row, move in round_.moves(here.flat, here.due, here.connected, step).items():
            here.flat[row] += move
        np.testing.assert_allclose(here.flat.numpy().sum(0) + round_.centre.numpy(), before, rtol=1e-12, atol=1e-12)


@each_size
def test_downpour(workers: int) -> None:
    """Algorithm 3: what a worker learnt since its last meeting goes to the centre, and the worker restarts there."""
    here = Setting(workers, same_start=True)
    round_ = here.build("downpour")
    assert isinstance(round_, Accumulated)
    round_._rng = recorder = Recorder(1)
    x, centre, v = here.start.copy(), here.start[0].copy(), np.zeros_like(here.start)
    for step in range(1, STEPS + 1):
        gradients, losses = here.draw()
        assert round_.moves(here.flat, here.due, here.connected, step) == {}
        here.descend(gradients)
        round_.settle_(here.flat, here.due, here.connected, step, losses)
        x, v = x - STEP_SIZE * gradients, v - STEP_SIZE * gradients
        for i in recorder.order:
            centre = centre + v[i]
            x[i], v[i] = centre, 0.0
        assert sorted(recorder.order) == here.meeting
        here.agree(x)
        np.testing.assert_allclose(round_.centre.numpy(), centre, rtol=1e-10, atol=1e-12)


# ---------------------------------------------------------------- leaders


def best(candidates: Iterable[int], losses: list[float]) -> int | None:
    known = [i for i in candidates if not np.isnan(losses[i])]
    return min(known, key=lambda i: losses[i]) if known else None


@each_size
@pytest.mark.parametrize("groups", [1, 2])
def test_leader_sgd(workers: int, groups: int) -> None:
    """Algorithm of the poster, in lock step: gradient, pull to the best of the group, then to the best of all.

    The best of all is chosen by the same losses; its parameters are those after the pulls within groups. A leader is
    not moved by itself. With one group there is one pull.
    """
    local, everywhere, period = 0.1, 0.3, 3
    here = Setting(workers)
    options = {"global_moving_rate": everywhere, "global_period": period} if groups > 1 else {}
    round_ = here.build("lsgd", moving_rate=local, period=1, groups=groups, **options)
    assert isinstance(round_, Leader)
    x = here.start.copy()
    half = workers // 2
    members = [range(workers)] if groups == 1 else [range(half), range(half, workers)]
    for step in range(1, STEPS + 1):
        gradients, losses = here.draw()
        assert round_.moves(here.flat, here.due, here.connected, step) == {}
        here.descend(gradients)
        round_.settle_(here.flat, here.due, here.connected, step, losses)
        x = x - STEP_SIZE * gradients
        pulls = [(group, local) for group in members]
        if groups > 1 and step % period == 0:
            pulls.append((range(workers), everywhere))
        for group, rate in pulls:
            leader = best((i for i in group if i in here.connected), losses)
            if leader is not None:
                target = x[leader].copy()
                for i in group:
                    if i in here.meeting:
                        x[i] = (1 - rate) * x[i] + rate * target
        here.agree(x)


def test_leader_sgd_with_pulls_of_zero_is_no_communication() -> None:
    here = Setting(4)
    round_ = here.build("lsgd", moving_rate=0.0, global_moving_rate=0.0, period=1, global_period=2, groups=2)
    for step in range(1, STEPS + 1):
        _, losses = here.draw()
        round_.settle_(here.flat, here.due, here.connected, step, losses)
    here.agree(here.start)


# ---------------------------------------------------------------- gradients, and nothing


@each_size
@pytest.mark.parametrize("rule", ["none", "all-reduce"])
def test_who_exchanges_no_parameters_moves_nothing(workers: int, rule: str) -> None:
    here = Setting(workers)
    round_ = here.build(rule)
    assert type(round_) is Nobody
    _, losses = here.draw(everybody=True)
    assert round_.moves(here.flat, here.due, here.connected, 1) == {}
    round_.settle_(here.flat, here.due, here.connected, 1, losses)
    here.agree(here.start)
    assert round_.centre is None
    assert round_.traffic.worker_bytes == 0


@each_size
def test_all_reduce_averages_gradients_before_each_step(workers: int) -> None:
    """x <- x - eta mean of g^i: all replicas stay identical. Here on |a x - b|^2 of linear models."""
    rng = np.random.default_rng(workers)
    model, batch = nn.Linear(SIZE, 1, bias=False), 4
    start = rng.normal(size=SIZE).astype(np.float32)
    model.weight.data.copy_(torch.tensor(start)[None])
    replicas = LoopedWorkers(model, nn.functional.mse_loss, workers, Optimization())
    x = start.astype(np.float64)
    for _ in range(STEPS):
        a = rng.normal(size=(workers, batch, SIZE)).astype(np.float32)
        b = rng.normal(size=(workers, batch, 1)).astype(np.float32)
        replicas.gradients(torch.tensor(a), torch.tensor(b))
        replicas.average_gradients(range(workers))
        replicas.step(STEP_SIZE)
        gradients = [
            2 / batch * ai.T @ (ai @ x - bi[:, 0]) for ai, bi in zip(a.astype(float), b.astype(float), strict=True)
        ]
        x = x - STEP_SIZE * np.mean(gradients, 0)
        np.testing.assert_allclose(replicas.flat.numpy(), np.tile(x, (workers, 1)), rtol=1e-4, atol=1e-5)
        assert torch.equal(replicas.flat, replicas.flat[:1].expand_as(replicas.flat))


def test_every_method_is_compared() -> None:
    assert set(RULES) == {
        *("elastic-gossip", "gossip-pull", "gossip-push", "gosgd"),
        *("easgd", "eamsgd", "easgd-sync", "downpour", "easgd-dynamic"),
        *("lsgd", "all-reduce", "none"),
    }
