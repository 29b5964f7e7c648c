"""Dynamic weighting among simulated workers: who counts, who is trusted, and what that is good for."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from p2p_elastic.rules.methods import RULES
from p2p_elastic.simulator.config import SimulationResult
from p2p_elastic.simulator.judging import CENTRE, Judging
from p2p_elastic.simulator.options import build
from p2p_elastic.simulator.run import simulate
from p2p_elastic.tasks import Data, cross_entropy, find_task

WORKERS, BATCH = 3, 32
GOOD, BAD = torch.tensor([4.0, -4.0]), torch.tensor([-4.0, 4.0])


class OneInput(nn.Module):
    """Two classes by the sign of one number: parameters [D = 2] are the weights of the classes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.weight


def batches(active: int = WORKERS) -> list[tuple[Tensor, Tensor]]:
    inputs = torch.randn(active, BATCH, 1, generator=torch.Generator().manual_seed(3))
    return list(zip(inputs, (inputs[..., 0] < 0).long(), strict=True))


def judging(active: int = WORKERS, losses: tuple[float, ...] = (1.0,) * WORKERS) -> Judging:
    made = Judging(OneInput(), cross_entropy, WORKERS)
    made.observe(batches(active), losses, [10] * WORKERS)
    return made


def meet(made: Judging, rows: list[Tensor], pairs: list[tuple[int, int]], centre: Tensor = GOOD) -> dict[object, float]:
    flat = [*rows, centre]
    mine, theirs = (torch.stack([flat[pair[end]] for pair in pairs]) for end in (0, 1))
    verdicts = made.judge(mine, theirs, pairs, [(0, 2)] * len(pairs), limited=False)  # GOOD and BAD are far apart
    return {pair: verdict.trust for pair, verdict in verdicts.items()}


# ---------------------------------------------------------------- trust


def test_a_row_that_does_clearly_worse_is_not_trusted_and_no_longer_trusts_itself() -> None:
    made = judging()
    trusts = meet(made, [GOOD, GOOD, BAD], [(0, 1), (1, 0), (0, 2), (2, 0)])
    assert trusts == {(0, 1): 1.0, (1, 0): 1.0, (0, 2): 0.0, (2, 0): 1.0}
    made.observe(batches(), (1.0,) * WORKERS, [20] * WORKERS)
    assert made.weights == [1.0, 1.0, 0.0]


def test_who_is_far_away_is_followed_only_where_distances_say_nothing() -> None:
    rows, parts = torch.stack([GOOD, GOOD]), [(0, 2)]
    for limited, trust in ((True, 0.0), (False, 1.0)):
        assert judging().judge(rows[:1], 1.5 * rows[1:], [(0, 1)], parts, limited=limited)[0, 1].trust == trust


def test_parameters_that_are_not_finite_are_not_trusted() -> None:
    nothing = torch.full((2,), torch.nan)
    assert meet(judging(), [GOOD, nothing, GOOD], [(0, 1), (1, 0)]) == {(0, 1): 0.0, (1, 0): 1.0}


def test_each_judges_by_its_own_examples() -> None:
    made = Judging(OneInput(), cross_entropy, WORKERS)
    drawn = batches()
    drawn[2] = (drawn[2][0], 1 - drawn[2][1])
    made.observe(drawn, (1.0,) * WORKERS, [10] * WORKERS)
    trusts = meet(made, [GOOD, GOOD, BAD], [(0, 2), (2, 0)])
    assert trusts == {(0, 2): 0.0, (2, 0): 0.0}


def test_who_has_no_batch_in_this_step_judges_nobody() -> None:
    made = judging(active=2)
    assert meet(made, [GOOD, GOOD, BAD], [(2, 0), (0, 2)]) == {(2, 0): 1.0, (0, 2): 0.0}


def test_the_centre_judges_by_the_examples_of_the_last_that_has_some() -> None:
    made = judging(active=2)
    pairs = [(CENTRE, 0), (CENTRE, 2), (0, CENTRE)]
    assert meet(made, [GOOD, GOOD, BAD], pairs) == {(CENTRE, 0): 1.0, (CENTRE, 2): 0.0, (0, CENTRE): 1.0}


# ---------------------------------------------------------------- weights


def test_a_worker_that_diverges_counts_for_nothing_until_it_is_well() -> None:
    made = judging()
    weights = []
    for loss in (1.0, 3.0, 1.9, 1.0):
        made.observe(batches(), (loss, 1.0, 1.0), [10] * WORKERS)
        weights.append(made.weights[0])
    assert weights[0] == weights[-1] == 1.0
    assert weights[1] == 0.0
    assert made.weights[1:] == [1.0, 1.0]


def test_a_worker_that_restarted_counts_again_once_it_met_one_that_counts() -> None:
    made = judging()
    made.restart([0])
    made.observe(batches(), (1.0,) * WORKERS, [10] * WORKERS)
    assert made.weights == [0.0, 1.0, 1.0]
    meet(made, [GOOD, GOOD, GOOD], [(1, 2)])
    made.observe(batches(), (1.0,) * WORKERS, [10] * WORKERS)
    assert made.weights[0] == 0.0
    meet(made, [GOOD, GOOD, GOOD], [(0, 1)])
    made.observe(batches(), (1.0,) * WORKERS, [10] * WORKERS)
    assert made.weights == [1.0, 1.0, 1.0]


def test_before_anything_is_measured_all_count() -> None:
    made = Judging(OneInput(), cross_entropy, WORKERS)
    made.observe(batches(), (torch.nan,) * WORKERS, [0] * WORKERS)
    assert made.weights == [1.0, 1.0, 1.0]


# ---------------------------------------------------------------- what it is good for


@cache
def digits() -> Data:
    return find_task("digits").load(None)


def run(**options: object) -> SimulationResult:
    given = {"workers": 4, "steps": 80, "evaluate_steps": 80, "period": 4, **options}
    return simulate(build(given), digits(), "cpu", clock=lambda: 0.0)


def healthy(result: SimulationResult) -> float:
    """The accuracy of the worst of the healthy."""
    ill = len(result.config.failures.faulty)
    return min(result.points[-1].accuracies[ill:])


def alone(**options: object) -> float:
    return healthy(run(**{"rule": "none", **options}))


@pytest.mark.parametrize("rule", ["elastic-gossip", "gosgd", "easgd", "lsgd"])
def test_where_all_are_well_it_costs_little(rule: str) -> None:
    fixed, dynamic = (run(rule=rule, weighting=w).points[-1].accuracy for w in ("fixed", "dynamic"))
    assert dynamic > fixed - 0.03


@pytest.mark.parametrize("rule", ["elastic-gossip", "gosgd", "eamsgd"])
@pytest.mark.parametrize("ill", [{"diverge": 1}, {"flipped": 1}], ids=["diverging", "flipped"])
def test_one_ill_worker_does_not_pull_down_the_others(rule: str, ill: dict[str, object]) -> None:
    fixed, dynamic = (healthy(run(rule=rule, weighting=w, **ill)) for w in ("fixed", "dynamic"))
    assert dynamic > fixed - 0.02
    assert dynamic > alone(**ill) - 0.05


@pytest.mark.parametrize("rule", sorted(RULES))
def test_every_rule_runs_with_it_and_repeats(rule: str) -> None:
    period = {"period": None} if rule == "all-reduce" else {"period": 2}
    options = {"rule": rule, "steps": 8, "evaluate_steps": 8, "diverge": 1, "nan": 1, "nan_step": 3, **period}
    first, again = (run(weighting="dynamic", **{k: v for k, v in options.items() if v is not None}) for _ in range(2))
    assert first.steps == 8
    assert repr(first) == repr(again)  # NaN is not itself
