"""Outer optimizers: the equations of their papers, and the laws that hold whichever pairs met."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from p2p_elastic.errors import ConfigError
from p2p_elastic.rules.outer import CHUNK, OUTER, Outer, OuterState, find_outer

checked = settings(max_examples=25)
NAMED = [outer for outer in OUTER.values() if outer is not None]
every_form = pytest.mark.parametrize("nesterov", [True, False], ids=["nesterov", "noloco"])
every_outer = pytest.mark.parametrize("outer", NAMED, ids=str)
NUMBERS = st.floats(-(2.0**60), 2.0**60, width=32)
TRIPLES = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=5)


def peers(count: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, generator=generator, dtype=torch.float64) for _ in range(count)]


# ---------------------------------------------------------------- one peer


@every_form
@given(values=TRIPLES)
@checked
def test_a_rate_of_one_without_momentum_changes_no_bit_of_what_an_exchange_made(
    nesterov: bool, values: list[tuple[float, float, float]]
) -> None:
    theta, slow, buffer = torch.tensor(values, dtype=torch.float32).T
    after, state = Outer(1.0, 0.0, nesterov).update(theta, OuterState(slow, buffer))
    assert torch.equal(after, theta)
    assert torch.equal(state.slow, theta)


def test_nesterov_is_that_of_torch_on_what_was_gained() -> None:
    """DiLoCo's outer optimizer, torch.optim.SGD(nesterov=True), whose gradient is phi - theta."""
    outer = Outer(learning_rate=0.7, momentum=0.9)
    (start,) = peers(1, seed=0)
    phi = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.SGD([phi], lr=0.7, momentum=0.9, nesterov=True)
    theta, state = start.clone(), outer.init(start)
    for gained in peers(8, seed=1):
        theta, state = outer.update(theta + gained, state)
        phi.grad = -gained
        optimizer.step()
        torch.testing.assert_close(theta, phi.detach(), rtol=1e-12, atol=1e-12)


def test_noloco_is_the_papers_equation_with_one_vector_each_way() -> None:
    """delta_i <- a delta_i + b mean(theta - phi) + b (mean(phi) - phi_i), over the pair; phi_i <- phi_i + delta_i."""
    a, b = 0.5, 0.7
    outer = Outer(learning_rate=b, momentum=a, nesterov=False)
    phi = peers(4, seed=0)
    delta = [torch.zeros(3, dtype=torch.float64) for _ in phi]
    states, rng = [outer.init(one) for one in phi], random.Random(0)
    for step in range(6):
        theta = [slow + gained for slow, gained in zip(phi, peers(4, seed=1 + step), strict=True)]
        order = rng.sample(range(4), 4)
        for i, k in (order[:2], order[2:]):
            gained = ((theta[i] - phi[i]) + (theta[k] - phi[k])) / 2
            middle, agreed = (phi[i] + phi[k]) / 2, (theta[i] + theta[k]) / 2
            for end in (i, k):
                delta[end] = a * delta[end] + b * gained + b * (middle - phi[end])
            for end in (i, k):
                phi[end] = phi[end] + delta[end]
                mine, states[end] = outer.update(agreed, states[end])
                torch.testing.assert_close(mine, phi[end], rtol=1e-12, atol=1e-12)


@every_outer
def test_what_is_gained_is_counted_once_however_late_the_move_comes(outer: Outer) -> None:
    """Steps while an exchange is under way: the same gains, whether before or after the move was computed."""
    (start, early, late, move) = peers(4, seed=2)
    at_once, _ = outer.update(start + early + late + move, outer.init(start))
    delayed, _ = outer.update((start + early) + late + move, outer.init(start))
    torch.testing.assert_close(at_once, delayed)


@every_outer
def test_steady_gains_are_multiplied_by_the_rate_over_one_minus_the_momentum(outer: Outer) -> None:
    theta, gained = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    state = outer.init(theta)
    for _ in range(200):
        before = theta
        theta, state = outer.update(theta + gained, state)
    assert (theta - before).item() == pytest.approx(outer.learning_rate / (1 - outer.momentum))


@every_outer
def test_a_step_in_place_is_the_pure_one_over_vectors_of_any_length(outer: Outer) -> None:
    generator = torch.Generator().manual_seed(0)
    theta, slow, buffer = (torch.randn(2 * CHUNK + 3, generator=generator) for _ in range(3))
    expected, (_, momentum) = outer.update(theta, OuterState(slow.clone(), buffer.clone()))
    state = OuterState(slow, buffer)
    outer.step_(theta, state)
    assert torch.equal(theta, expected)
    assert torch.equal(state.slow, expected)
    assert torch.equal(state.buffer, momentum)


@every_outer
def test_who_begins_anew_gained_nothing_so_far(outer: Outer) -> None:
    start, copied, other = peers(3, seed=3)
    _, state = outer.update(start + other, outer.init(start))
    outer.restart_(copied, state)
    fresh = outer.init(copied)
    for mine, expected in zip(outer.update(copied + other, state), outer.update(copied + other, fresh), strict=True):
        torch.testing.assert_close(mine, expected, rtol=0, atol=0)
    assert torch.equal(outer.update(copied, outer.init(copied))[0], copied)


# ---------------------------------------------------------------- many peers


@every_outer
@given(seed=st.integers(0, 2**20), rate=st.floats(0.0, 0.9))
@checked
def test_the_mean_of_all_takes_the_step_of_one_peer_alone_whoever_met_whom(
    outer: Outer, seed: int, rate: float
) -> None:
    rng, theta = random.Random(seed), peers(6, seed)
    states = [outer.init(one) for one in theta]
    mean = torch.stack(theta).mean(0)
    of_mean = outer.init(mean)
    for step in range(5):
        theta = [one + gained for one, gained in zip(theta, peers(6, seed + step + 1), strict=True)]
        mean = mean + torch.stack(peers(6, seed + step + 1)).mean(0)
        order = rng.sample(range(6), 6)
        for i, k in zip(order[::2], order[1::2], strict=True):
            move = rate * (theta[k] - theta[i])
            theta[i], theta[k] = theta[i] + move, theta[k] - move
        stepped = [outer.update(one, state) for one, state in zip(theta, states, strict=True)]
        theta, states = [one for one, _ in stepped], [state for _, state in stepped]
        mean, of_mean = outer.update(mean, of_mean)
        torch.testing.assert_close(torch.stack(theta).mean(0), mean, rtol=1e-9, atol=1e-9)


@every_outer
def test_peers_that_only_exchange_come_together(outer: Outer) -> None:
    """Distances are in the pseudo-gradients too, so they are multiplied by the outer step: it must not amplify them."""
    rng, theta = random.Random(0), peers(8, seed=0)
    states = [outer.init(one) for one in theta]
    for _ in range(1000):
        i, k = rng.sample(range(8), 2)
        middle = (theta[i] + theta[k]) / 2
        for end in (i, k):
            theta[end], states[end] = outer.update(middle, states[end])
    mean = torch.stack(theta).mean(0)
    assert max(float((one - mean).norm()) for one in theta) < 1e-6


@every_outer
@pytest.mark.parametrize("curvature", [0.01, 0.3, 1.0])
def test_one_peer_on_a_quadratic_finds_its_minimum(outer: Outer, curvature: float) -> None:
    theta = torch.ones(1, dtype=torch.float64)
    state = outer.init(theta)
    for _ in range(2000):
        theta, state = outer.update((1.0 - curvature) * theta, state)
    assert abs(theta.item()) < 1e-3


# ---------------------------------------------------------------- options


def test_an_outer_optimizer_has_its_defaults_unless_told_otherwise() -> None:
    assert find_outer("none") is None
    assert find_outer(None) is None
    assert find_outer("nesterov") == OUTER["nesterov"]
    assert find_outer(None, 0.5, default=Outer(0.7, 0.9)) == Outer(0.5, 0.9)
    assert find_outer("none", default=Outer(0.7, 0.9)) is None
    assert find_outer("noloco", 1.0, 0.0) == Outer(1.0, 0.0, nesterov=False)


@pytest.mark.parametrize(
    ("name", "rate", "momentum", "key"),
    [
        ("adam", None, None, "outer"),
        ("nesterov", 0.0, None, "outer-lr"),
        ("nesterov", -0.7, None, "outer-lr"),
        ("nesterov", math.nan, None, "outer-lr"),
        ("nesterov", math.inf, None, "outer-lr"),
        ("nesterov", None, 1.0, "outer-momentum"),
        ("nesterov", None, -0.1, "outer-momentum"),
        ("nesterov", None, math.nan, "outer-momentum"),
        ("none", 0.7, None, "outer-lr"),
        (None, None, 0.5, "outer-momentum"),
    ],
)
def test_an_outer_optimizer_that_cannot_be_is_refused(
    name: str | None, rate: float | None, momentum: float | None, key: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        find_outer(name, rate, momentum)
    assert caught.value.key == key
