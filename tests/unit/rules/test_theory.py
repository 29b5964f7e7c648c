"""What the papers prove, or compute without training, holds for the rule objects that peers and simulator use.

E1 to E6 of the reproducible claims (EASGD arXiv 1412.6651, Leader SGD arXiv 1905.10395, Elastic Gossip arXiv
1812.02407); the identities E7 run in the simulator. A step is linear in all of the quadratic examples, so its matrix is
read off by stepping the identity: row k of `x` holds the coefficients of variable k.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from p2p_elastic.rules.base import ExchangeRule, Facts
from p2p_elastic.rules.dynamic import Weighting, dynamic
from p2p_elastic.rules.pairwise import elastic, follow
from p2p_elastic.simulator.centre import Centre
from p2p_elastic.simulator.config import SimulationConfig, SimulationResult
from p2p_elastic.simulator.run import simulate
from p2p_elastic.tasks import Data, find_task

ME, YOU = Facts(step=1, loss=None, weight=1.0, asked=True), Facts(step=1, loss=None, weight=1.0)
DIGITS = 5e-5  # a number given to four digits after the point
REACHED = 1e-7


def pull_together(rule: ExchangeRule, x: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Moves of `x` [..., n] and of `centre` [n] in one exchange of each row of x with the same centre."""
    mine, _ = rule.move((centre - x).flatten(), None, mine=ME, theirs=YOU)
    theirs, _ = rule.move((x - centre).flatten(), None, mine=YOU, theirs=ME)
    return mine.view_as(x), theirs.view(-1, *centre.shape).sum(0)


def radius(matrix: Tensor) -> float:
    """The spectral radius."""
    return float(torch.linalg.eigvals(matrix).abs().max())


# ---------------------------------------------------------------- E1: round-robin EASGD on x^2/2


def easgd_turn(p: int, eta: float, alpha: float, worker: int) -> Tensor:
    """One worker's turn: gradient and pull both at its old parameters. State x^1..x^p, x~."""
    state = torch.eye(p + 1, dtype=torch.float64)
    mine, centres = pull_together(elastic(alpha), state[worker], state[p])
    after = state.clone()
    after[worker] += mine - eta * state[worker]
    after[p] += centres
    return after


def easgd_round_robin(p: int, eta: float, alpha: float) -> Tensor:
    """The composition of everybody's turn, worker 1 first."""
    matrix = torch.eye(p + 1, dtype=torch.float64)
    for worker in range(p):
        matrix = easgd_turn(p, eta, alpha, worker) @ matrix
    return matrix


def largest_stable_alpha(eta: float) -> float:
    """Where the spectral radius of the map with p = 1 crosses 1, by bisection."""
    low, high = 0.01, 0.99
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if radius(easgd_round_robin(1, eta, middle)) <= 1.0 else (low, middle)
    return low


@pytest.mark.parametrize(("eta", "threshold"), [(0.5, 0.8571), (1.0, 0.6667)])
def test_e1_one_worker_becomes_unstable_exactly_where_the_paper_says(eta: float, threshold: float) -> None:
    assert largest_stable_alpha(eta) == pytest.approx((4 - 2 * eta) / (4 - eta), abs=1e-7)
    assert largest_stable_alpha(eta) == pytest.approx(threshold, abs=DIGITS)


def test_e1_round_robin_is_stable_within_the_region_for_any_number_of_workers() -> None:
    """Each turn is symmetric, so the composition of contractions is one."""
    rng = random.Random(1)
    for _ in range(300):
        p, eta = rng.randint(1, 8), rng.uniform(0, 2)
        alpha = rng.uniform(0, (4 - 2 * eta) / (4 - eta)) * (1 - 1e-9)
        turn = easgd_turn(p, eta, alpha, rng.randrange(p))
        assert torch.equal(turn, turn.T)
        assert radius(easgd_round_robin(p, eta, alpha)) <= 1 + 1e-12


# ---------------------------------------------------------------- E2: where synchronous EASGD is stable


def easgd_together(p: int, eta: float, alpha: float) -> Tensor:
    """EASGD eq. 3-6 on x^2/2: all meet the centre at once, everything at the old values."""
    state = torch.eye(p + 1, dtype=torch.float64)
    mine, centres = pull_together(elastic(alpha), state[:p], state[p])
    after = state.clone()
    after[:p] += mine - eta * state[:p]
    after[p] += centres
    return after


def test_e2_synchronous_easgd_is_stable_exactly_in_the_region_of_the_paper() -> None:
    rng, compared, stable, mismatches = random.Random(2), 0, 0, 0
    for p, points in {1: 4000, 2: 4000, 3: 4000, 4: 4000, 6: 2500, 8: 2500}.items():
        maps, inside, clear = [], [], []
        for _ in range(points):
            eta, alpha = rng.uniform(1e-3, 2.5), rng.uniform(1e-3, min(0.999, 2.5 / p))
            product = (2 - eta) * (2 - p * alpha) - 2 * alpha
            total = (2 - eta) + (2 - p * alpha) - alpha
            maps.append(easgd_together(p, eta, alpha))
            inside.append(product > 0 and total > 0)
            clear.append(abs(product) > 1e-9 and abs(total) > 1e-9)
        radii = torch.linalg.eigvals(torch.stack(maps)).abs().amax(1)
        said, kept = torch.tensor(inside), torch.tensor(clear)
        compared += int(kept.sum())
        stable += int(said[kept].sum())
        mismatches += int(((radii < 1) != said)[kept].sum())
    assert compared >= 20_000
    assert compared * 0.2 < stable < compared * 0.8  # both kinds are there
    assert mismatches == 0


def test_e2_eigenvalues_of_synchronous_easgd_are_those_of_the_paper() -> None:
    rng = random.Random(3)
    for _ in range(50):
        p, eta, alpha = rng.randint(1, 8), rng.uniform(0.01, 1), rng.uniform(0.01, 0.3)
        a, c2 = eta + (p + 1) * alpha, eta * p * alpha
        root = math.sqrt(a * a - 4 * c2)
        paper = [1 - (a - root) / 2, 1 - (a + root) / 2, *[1 - eta - alpha] * (p - 1)]
        found = torch.linalg.eigvals(easgd_together(p, eta, alpha))
        assert float(found.imag.abs().max()) < 1e-6
        expected = torch.tensor(sorted(paper), dtype=torch.float64)
        torch.testing.assert_close(found.real.sort().values, expected, rtol=0, atol=1e-6)


# ---------------------------------------------------------------- E3: round-robin ADMM diverges, EASGD does not


def admm_round_robin(p: int, eta: float, rho: float) -> Tensor:
    """EASGD paper eq. 9-11 on x^2/2, only as what EASGD is compared with. State lambda^1.., x^1.., x~.

    lambda^i <- lambda^i - (x^i - x~)
    x^i      <- (x^i - eta x^i + eta rho (lambda^i + x~)) / (1 + eta rho)     with the new lambda^i
    x~       <- mean over all i of (x^i - lambda^i)                           with the new values
    """
    state = torch.eye(2 * p + 1, dtype=torch.float64)
    multipliers, x, centre = state[:p].clone(), state[p : 2 * p].clone(), state[2 * p].clone()
    for i in range(p):
        multipliers[i] -= x[i] - centre
        x[i] = (x[i] - eta * x[i] + eta * rho * (multipliers[i] + centre)) / (1 + eta * rho)
        centre = (x - multipliers).mean(0)
    return torch.cat([multipliers, x, centre[None]])


@pytest.mark.parametrize(("p", "spectral_radius"), [(3, 1.00097), (8, 1.00226)])
def test_e3_round_robin_admm_diverges_where_easgd_converges(p: int, spectral_radius: float) -> None:
    eta, rho = 0.001, 2.5
    admm, easgd = admm_round_robin(p, eta, rho), easgd_round_robin(p, eta, eta * rho)
    assert radius(admm) == pytest.approx(spectral_radius, abs=5e-6)
    assert radius(easgd) < 1
    start = torch.full((2 * p + 1,), 1000.0, dtype=torch.float64)
    start[:p] = 0.0  # lambda = 0, x = x~ = 1000
    rounds = 20_000
    diverged = torch.linalg.matrix_power(admm, rounds) @ start
    converged = torch.linalg.matrix_power(easgd, rounds) @ start[p:]
    assert float(diverged.abs().max()) > 1e6
    assert float(converged.abs().max()) < 1.0


# ---------------------------------------------------------------- E4: noise in synchronous EASGD

ETA, BETA, SIGMA = 0.1, 0.9, 10.0


def stationary_error(p: int) -> float:
    """p E x~^2 from the Lyapunov equation P = A P A' + Q, Q the gradient noise of the workers."""
    a = easgd_together(p, ETA, BETA / p)
    q = torch.zeros(p + 1, p + 1, dtype=torch.float64)
    q[range(p), range(p)] = (ETA * SIGMA) ** 2
    system = torch.eye((p + 1) ** 2, dtype=torch.float64) - torch.kron(a, a)
    return p * float(torch.linalg.solve(system, q.flatten())[-1])


def many_workers_error(eta: float, beta: float, sigma: float) -> float:
    """EASGD paper, the limit of p E x~^2 for p -> infinity, curvature 1."""
    first = beta * eta / ((2 - beta) * (2 - eta))
    return first * (2 - beta - eta + beta * eta) / (beta + eta - beta * eta) * sigma**2


@pytest.mark.parametrize(("p", "error"), [(4, 4.182), (8, 4.613)])
def test_e4_stationary_error_of_the_centre(p: int, error: float) -> None:
    assert stationary_error(p) == pytest.approx(error, abs=5e-4)


def test_e4_stationary_error_of_the_centre_for_many_workers() -> None:
    limit = many_workers_error(ETA, BETA, SIGMA)
    assert limit == pytest.approx(5.158, abs=5e-4)
    errors = [stationary_error(p) for p in (4, 8, 16)]
    assert errors == sorted(errors)
    # error(p) = limit - c/p + O(1/p^2): one Richardson step from p = 8, 16 gets within a percent.
    assert 2 * errors[2] - errors[1] == pytest.approx(limit, rel=0.01)


@pytest.mark.parametrize("p", [4, 8])
def test_e4_a_simulation_agrees_within_its_sampling_error(p: int) -> None:
    chains, rule = 8000, elastic(BETA / p)
    generator = torch.Generator().manual_seed(4)
    x, centre = torch.zeros(p, chains, dtype=torch.float64), torch.zeros(chains, dtype=torch.float64)
    for _ in range(150):
        noise = SIGMA * torch.randn(p, chains, generator=generator, dtype=torch.float64)
        mine, centres = pull_together(rule, x, centre)
        x, centre = x - ETA * (x + noise) + mine, centre + centres
    measured = p * float((centre**2).mean())
    assert measured == pytest.approx(stationary_error(p), rel=4 * math.sqrt(2 / chains))


# ---------------------------------------------------------------- E5: what communication conserves


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.25, 0.5, 0.75])
def test_e5_elastic_gossip_keeps_the_mean_and_contracts_a_pair_by_one_minus_two_alpha(alpha: float) -> None:
    x = torch.randn(2, 100, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    first, second = pull_together(elastic(alpha), x[:1], x[1])
    after = torch.stack([x[0] + first[0], x[1] + second])
    torch.testing.assert_close(after.mean(0), x.mean(0), rtol=0, atol=1e-15)
    torch.testing.assert_close(after[1] - after[0], (1 - 2 * alpha) * (x[1] - x[0]), rtol=0, atol=1e-15)


def test_e5_pull_gossip_does_not_keep_the_mean() -> None:
    x = torch.tensor([[0.0], [8.0]], dtype=torch.float64)
    first, second = pull_together(follow(0.5), x[:1], x[1])
    assert (first.item(), second.item()) == (4.0, 0.0)
    assert (x[0] + first[0] + x[1] + second).item() / 2 == x.mean().item() + 2


# ---------------------------------------------------------------- E6: Leader against elastic averaging gradient descent

WORKERS, SIZE, STEP, LAMBDA = 8, 100, 0.4, 0.2  # the pull of a step is STEP * LAMBDA


class Completion:
    """Low-rank matrix completion: f(X) = |mask * (X X' - M)|^2 / 4 / observed, M with `rank` eigenvalues 1."""

    def __init__(self, rank: int, observed: float, seed: int) -> None:
        self.rank, self.generator = rank, torch.Generator().manual_seed(seed)
        basis, _ = torch.linalg.qr(self._normal(SIZE, rank))
        self.wanted = basis @ basis.T
        upper = torch.triu(torch.rand(SIZE, SIZE, generator=self.generator, dtype=torch.float64) < observed)
        self.mask = (upper | upper.T).double()
        self.observed = float(self.mask.mean())

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def starts(self, *, mirrored: bool) -> Tensor:
        """Random starting points; mirrored: the second half are the negatives of the first, equally good."""
        if mirrored:
            half = self._normal(WORKERS // 2, SIZE, self.rank) / SIZE**0.5
            return torch.cat([half, -half])
        return self._normal(WORKERS, SIZE, self.rank) / SIZE**0.5

    def residual(self, x: Tensor) -> Tensor:
        return self.mask * (x @ x.transpose(-1, -2) - self.wanted)

    def value(self, x: Tensor) -> Tensor:
        return (self.residual(x) ** 2).sum((-1, -2)) / 4 / self.observed

    def gradient(self, x: Tensor) -> Tensor:
        return self.residual(x) @ x / self.observed


Descent = Callable[[Completion, Tensor, Tensor], tuple[Tensor, Tensor]]


def leader_step(problem: Completion, x: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """LGD: pull and gradient at the old values; nobody uses the centre."""
    leader = x[problem.value(x).argmin()]
    moves, _ = follow(STEP * LAMBDA).move((leader - x).flatten(), None, mine=ME, theirs=YOU)
    return x + moves.view_as(x) - STEP * problem.gradient(x), centre


def averaging_step(problem: Completion, x: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """EAGD: workers and centre pull each other, gradient at the old values."""
    mine, centres = pull_together(elastic(STEP * LAMBDA), x, centre)
    return x + mine - STEP * problem.gradient(x), centre + centres


def descend(step: Descent, problem: Completion, x: Tensor, iterations: int = 60) -> list[float]:
    """f of the best worker before each iteration."""
    centre, best = x.mean(0), []
    for _ in range(iterations):
        best.append(float(problem.value(x).min()))
        x, centre = step(problem, x, centre)
    return best


def iterations_to(level: float, values: list[float]) -> int:
    return next((i for i, value in enumerate(values) if value < level), len(values))


E6 = pytest.mark.parametrize(("rank", "iterations", "stall"), [(1, 30, 1e-2), (10, 40, 1e-1)])


@E6
def test_e6_elastic_averaging_stalls_where_good_points_average_to_a_bad_one(
    rank: int, iterations: int, stall: float
) -> None:
    """Poster: 8 workers, EAGD stalls at 1e-2 (rank 1) and 1e-1 (rank 10), LGD is below 1e-7 within ~30 and ~40.

    The poster's set-up is not known. Ours: X X' with eigenvalues 1, size 100, all entries observed, step 0.4,
    lambda 0.2, half of the workers started at the mirror images of the others (f(X) = f(-X)), so that their average is
    worthless. Then EAGD rests where X'X = (1 - lambda) I, at f = rank * lambda^2 / 4: 0.01 and 0.1, and 0.5 and 1.0
    for ranks 50 and 100, where the poster has 0.6 and 1.2. That lambda = 0.2 was the poster's is our guess.
    """
    problem = Completion(rank, observed=1.0, seed=6)
    start = problem.starts(mirrored=True)
    averaged, led = descend(averaging_step, problem, start), descend(leader_step, problem, start)
    assert averaged[-1] == pytest.approx(stall, rel=1e-3)
    assert averaged[-1] == pytest.approx(rank * LAMBDA**2 / 4, rel=1e-3)
    assert iterations_to(REACHED, led) <= iterations


@E6
@pytest.mark.parametrize("seed", [0, 1])
def test_e6_leader_converges_linearly_where_elastic_averaging_stalls_from_random_starts(
    rank: int, iterations: int, stall: float, seed: int
) -> None:
    """The same with 0.9 of the entries observed and independent random starts, which is nearer to the statement.

    LGD keeps to the poster's counts: over 20 seeds 20 to 23 iterations (rank 1) and 32 to 37 (rank 10); with 0.8
    observed, rank 10 takes 39 to 47. The poster's stall levels do not reproduce with random starts, which cancel only
    partly: over the same seeds EAGD's best worker is at 5e-4 to 1e-2 (rank 1) and 5e-3 to 2e-2 (rank 10) after 60
    iterations, eight orders and more above LGD's. All of these are f of the best worker.
    """
    problem = Completion(rank, observed=0.9, seed=seed)
    start = problem.starts(mirrored=False)
    averaged, led = descend(averaging_step, problem, start), descend(leader_step, problem, start)
    assert iterations_to(REACHED, led) <= iterations
    assert averaged[-1] > stall / 50
    assert averaged[-1] > 1e7 * led[-1]
    ratios = [after / before for before, after in itertools.pairwise(led[25:]) if before > 1e-20]
    assert max(ratios) < 0.8  # linear: each iteration takes off its share, all the way down


# ---------------------------------------------------------------- E7: identities, in the simulator


@pytest.fixture(scope="module")
def data() -> Data:
    return find_task("digits").load(None)


def simulated(data: Data, rule: str, **options: object) -> SimulationResult:
    size = {"workers": 4, "batch_size": 8, "steps": 16, "evaluate_steps": 8}
    result = simulate(
        SimulationConfig.model_validate({"rule": rule, **size, **options}), data, "cpu", clock=lambda: 0.0
    )
    assert [point.step for point in result.points] == [8, 16]
    return result


def trained(data: Data, rule: str, **options: object) -> list[tuple[object, ...]]:
    """What a simulation measured of parameters and losses, bit for bit; not what it sent, nor a centre."""
    points = simulated(data, rule, **options).points
    return [(p.training_loss, p.consensus_distance, p.accuracies, p.average_accuracy) for p in points]


def test_e7_eamsgd_without_momentum_is_easgd(data: Data) -> None:
    options = {"moving_rate": 0.2, "period": 2}
    easgd = simulated(data, "easgd", **options).points
    assert easgd[0].centre_accuracy is not None
    assert simulated(data, "eamsgd", momentum=0.0, **options).points == easgd
    assert simulated(data, "eamsgd", momentum=0.9, **options).points != easgd


def test_e7_dynamic_weighting_without_lag_is_easgd() -> None:
    never, generator = Weighting(dead_zone=1e6, limit=2e6), torch.Generator().manual_seed(5)
    start = torch.randn(4, 30, generator=generator)
    drifts = torch.randn(20, 4, 30, generator=generator)

    def through(rule: ExchangeRule) -> tuple[Tensor, Tensor]:
        flat = start.clone()
        round_ = Centre(rule, flat, seed=1)
        for step, drift in enumerate(drifts, 1):
            moves = round_.moves(flat, range(4), range(4), step)
            flat += drift * step  # distances grow: a score that a smaller dead zone would call lag
            for row, move in moves.items():
                flat[row] += move
        return flat, round_.centre

    plain, weighted, lagging = (
        through(rule) for rule in (elastic(0.1), dynamic(elastic(0.1), never), dynamic(elastic(0.1)))
    )
    assert torch.equal(plain[0], weighted[0])
    assert torch.equal(plain[1], weighted[1])
    assert not torch.equal(plain[1], lagging[1])


def test_e7_leader_sgd_without_pulls_is_independent_sgd(data: Data) -> None:
    alone = trained(data, "none")
    options = {"period": 2, "global_period": 4, "groups": 2}
    assert trained(data, "lsgd", moving_rate=0.0, global_moving_rate=0.0, **options) == alone
    assert trained(data, "lsgd", moving_rate=0.0, global_moving_rate=0.1, **options) != alone
    assert trained(data, "lsgd", moving_rate=0.1, global_moving_rate=0.0, **options) != alone


@pytest.mark.parametrize(
    ("rule", "options"), [("elastic-gossip", {}), ("gossip-pull", {}), ("easgd", {"momentum": 0.5})]
)
def test_e7_a_moving_rate_of_zero_is_no_communication(data: Data, rule: str, options: dict[str, float]) -> None:
    """Elastic Gossip with alpha = 0; the others likewise."""
    alone = trained(data, "none", **options)
    assert trained(data, rule, moving_rate=0.0, period=1, **options) == alone
    assert trained(data, rule, moving_rate=0.1, period=1, **options) != alone
