"""Each method with a centre variable against the equations of its paper; see test_rules_reference.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.stepwise import STEP_SIZE, STEPS, Setting, each_size

from p2p_elastic.simulator.centre import Centre
from p2p_elastic.simulator.restarting import Accumulated


@each_size
@pytest.mark.parametrize("rule", ["easgd", "eamsgd"])
@pytest.mark.parametrize("delta", [0.0, 0.9])
def test_asynchronous_easgd(workers: int, rule: str, delta: float) -> None:
    """Algorithm 1 and, with momentum delta, the closed form of Algorithm 2; each worker meets the centre when due.

    x^i <- x^i + v - alpha (x^i - x~), v = delta v - eta g;   x~ <- x~ + alpha (x^i - x~), all at the old x^i.
    """
    here, alpha = Setting(workers, same_start=True), 0.9 / workers
    round_, recorder = here.build_recorded(rule, moving_rate=alpha)
    assert isinstance(round_, Centre)
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
    """ALGORITHMS 4.4: u = log ||x^i - x~|| at contacts, a = sum c_j (u_t-j - u_t-j-1), w = clip((a - .25) / .75, 0, 1);

    x^i <- x^i - (alpha + (1 - alpha) w)(x^i - x~);   x~ <- x~ + alpha (1 - w)(x^i - x~). Distances jump now and then.
    """
    here, alpha = Setting(workers, same_start=False), 0.1
    round_, recorder = here.build_recorded("eamsgd", moving_rate=alpha, weighting="dynamic")
    assert isinstance(round_, Centre)
    x, centre, seen = here.start.copy(), here.start[0].copy(), [[] for _ in range(workers)]
    lags = []
    for step in range(1, 40):
        here.draw()
        jump = np.exp(np.random.default_rng(step).normal(0.1, 1.2, size=(workers, 1)))
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
            w = min(max((a - 0.25) / 0.75, 0.0), 1.0)
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
    round_, recorder = here.build_recorded("downpour")
    assert isinstance(round_, Accumulated)
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


@each_size
def test_mvadownpour(workers: int) -> None:
    """DOWNPOUR, and z <- (1 - a) z + a x~ with the centre before each of its updates; z is what is evaluated."""
    here, a = Setting(workers, same_start=True), 0.3
    round_, recorder = here.build_recorded("mvadownpour", moving_rate=a)
    assert isinstance(round_, Accumulated)
    x, centre, z, v = here.start.copy(), here.start[0].copy(), here.start[0].copy(), np.zeros_like(here.start)
    for step in range(1, STEPS + 1):
        gradients, losses = here.draw()
        here.descend(gradients)
        round_.settle_(here.flat, here.due, here.connected, step, losses)
        x, v = x - STEP_SIZE * gradients, v - STEP_SIZE * gradients
        for i in recorder.order:
            z = (1 - a) * z + a * centre
            centre = centre + v[i]
            x[i], v[i] = centre, 0.0
        here.agree(x)
        np.testing.assert_allclose(round_.centre.numpy(), z, rtol=1e-10, atol=1e-12)
