"""Each method's round against the equations of its paper, written down anew in numpy.

Both sides get the same starting points, gradients, losses and schedule (`stepwise`); who meets whom, and in which
order, is read back from the simulator. Every step is: moves at the old parameters, a gradient step at the old
parameters, then what is settled after it. Methods with a centre variable are in test_centre_reference.py.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from helpers.stepwise import SIZE, STEP_SIZE, STEPS, Array, Setting, each_size
from torch import nn

from p2p_elastic.rules.methods import RULES
from p2p_elastic.rules.outer import Outer
from p2p_elastic.simulator.leader import Leader
from p2p_elastic.simulator.looped import LoopedWorkers
from p2p_elastic.simulator.outer import OuterSteps
from p2p_elastic.simulator.rounds import Ask, Nobody, Pairs
from p2p_elastic.simulator.workers import Optimization

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

    def squares(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return (model(batch[0]) - batch[1]).square().flatten()

    model, batch = nn.Linear(SIZE, 1, bias=False), 4
    start = rng.normal(size=SIZE).astype(np.float32)
    model.weight.data.copy_(torch.tensor(start)[None])
    replicas = LoopedWorkers(model, squares, workers, Optimization())
    x = start.astype(np.float64)
    for _ in range(STEPS):
        a = rng.normal(size=(workers, batch, SIZE)).astype(np.float32)
        b = rng.normal(size=(workers, batch, 1)).astype(np.float32)
        replicas.gradients(list(zip(torch.tensor(a), torch.tensor(b), strict=True)))
        replicas.average_gradients(range(workers))
        replicas.step(STEP_SIZE)
        gradients = [
            2 / batch * ai.T @ (ai @ x - bi[:, 0]) for ai, bi in zip(a.astype(float), b.astype(float), strict=True)
        ]
        x = x - STEP_SIZE * np.mean(gradients, 0)
        np.testing.assert_allclose(replicas.flat.numpy(), np.tile(x, (workers, 1)), rtol=1e-4, atol=1e-5)
        assert torch.equal(replicas.flat, replicas.flat[:1].expand_as(replicas.flat))


# ---------------------------------------------------------------- everybody


@each_size
def test_diloco(workers: int) -> None:
    """Algorithm 1: the mean of what all gained is the gradient of an outer SGD with Nesterov momentum.

    As torch.optim.SGD has it: v <- a v + d; phi <- phi - b (d + a v), d = mean of phi - theta^i.
    """
    here, (a, b) = Setting(workers, same_start=True), (0.9, 0.7)
    round_ = here.build("diloco", period=3)
    outer = OuterSteps(Outer(learning_rate=b, momentum=a), here.flat, SIZE)
    theta, phi, v = here.start.copy(), here.start[0].copy(), np.zeros(SIZE)
    for step in range(1, STEPS + 1):
        gradients, losses = here.draw(everybody=True)
        due = here.due if step % 3 == 0 else []
        moves = round_.moves(here.flat, due, here.connected, step)
        assert moves == {}
        here.descend(gradients)
        round_.settle_(here.flat, due, here.connected, step, losses)
        outer.step_(here.flat, moves, due)
        theta = theta - STEP_SIZE * gradients
        if due:
            d = np.mean(phi - theta, 0)
            v = a * v + d
            phi = phi - b * (d + a * v)
            theta = np.tile(phi, (workers, 1))
        here.agree(theta)
    assert round_.traffic.worker_bytes == STEPS // 3 * 2 * (workers - 1) * SIZE * 8


def test_who_is_not_reached_keeps_what_it_has_when_all_take_their_mean() -> None:
    here = Setting(4)
    round_ = here.build("diloco")
    round_.settle_(here.flat, [0, 1, 3], [0, 2, 3], 1, [])
    expected = here.start.copy()
    expected[[0, 3]] = here.start[[0, 3]].mean(0)
    here.agree(expected)


def test_every_method_is_compared() -> None:
    assert set(RULES) == {
        *("elastic-gossip", "gossip-pull", "gossip-push", "gosgd"),
        *("easgd", "eamsgd", "easgd-sync", "downpour", "mvadownpour"),
        *("lsgd", "all-reduce", "diloco", "none"),
    }
