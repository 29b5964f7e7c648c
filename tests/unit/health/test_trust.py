"""What exchanges show of partners and of ourselves: trials against what is usual, and distances."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p_elastic.health.trust import CLIP_FACTOR, DRIFT, GATE_SHARE, PARTNERS_MAX, Judge, Scale, Verdict
from p2p_elastic.rules.trial import ERRORS, Trial, as_good_as, is_above

checked = settings(max_examples=100)
LOSSES = st.floats(1e-6, 1e6)
NAN, INF = math.nan, math.inf


def judge(ours: Judge, theirs: float, mine: float, error: float = 0.0, distance: float = 1.0) -> Verdict:
    return ours.judge("b", distance, Trial(theirs, mine, error))


@pytest.mark.parametrize(
    ("loss", "error", "above"),
    [(1.59, 0.0, False), (1.61, 0.0, True), (1.8, 0.1, False), (2.0, 0.1, True), (NAN, 0.0, True), (INF, 0.0, True)],
)
def test_a_claim_is_exceeded_by_what_is_clearly_more_than_one_and_a_half_times_as_much(
    loss: float, error: float, above: bool
) -> None:
    assert is_above(loss, error, as_good_as(1.0)) is above


def used(exchanges: int = 10) -> Judge:
    """One that has met partners which do as well as we do: a loss of 1."""
    ours = Judge()
    for _ in range(exchanges):
        judge(ours, 1.0, 1.0)
    return ours


# ---------------------------------------------------------------- trials


def test_a_partner_that_does_as_well_is_trusted_wholly_and_so_are_we() -> None:
    verdict = judge(used(), 1.1, 1.0)
    assert (verdict.trust, verdict.own, verdict.reasons) == (1.0, 1.0, ())


def test_a_partner_that_does_clearly_worse_is_not_trusted_and_the_losses_are_said() -> None:
    verdict = judge(used(), 4.0, 1.0)
    assert (verdict.trust, verdict.own) == (0.0, 1.0)
    assert "on this peer's data its parameters give a loss of 4, this peer's own 1" in verdict.reasons[0]
    assert verdict.excess == pytest.approx(3.0)


@pytest.mark.parametrize("objective", [5.0, -5.0])
@pytest.mark.parametrize(("worse_by", "trust"), [(0.1, 1.0), (16.0, 0.0)])
def test_an_objective_that_is_made_large_is_judged_as_a_loss_of_that_size(
    objective: float, worse_by: float, trust: float
) -> None:
    ours = Judge()
    for _ in range(10):
        judge(ours, objective, objective)
    assert judge(ours, objective + worse_by, objective).trust == trust


def test_the_worse_it_does_the_less_a_partner_is_trusted() -> None:
    found = [judge(used(), theirs, 1.0).trust for theirs in (1.2, 1.5, 1.8, 2.2)]
    assert found == sorted(found, reverse=True)
    assert found[0] == 1.0
    assert 0.0 < found[2] < found[1] < 1.0
    assert found[3] == 0.0


def test_where_a_partner_does_clearly_better_we_trust_it_and_not_ourselves() -> None:
    verdict = judge(used(), 0.3, 1.0)
    assert (verdict.trust, verdict.own, verdict.reasons) == (1.0, 0.0, ())
    assert 0.0 < judge(used(), 0.7, 1.0).own < 1.0


@given(mine=LOSSES, errors=st.floats(-ERRORS, ERRORS), error=st.floats(0.0, 1e3))
@checked
def test_what_may_be_chance_changes_nothing(mine: float, errors: float, error: float) -> None:
    theirs, ours = max(0.0, mine + 0.999 * errors * error), Judge()
    ours.begins_at(ERRORS * 1e3)
    verdict = judge(ours, theirs, mine, error)
    assert (verdict.trust, verdict.own, verdict.reasons) == (1.0, 1.0, ())


def test_chance_does_not_explain_more_than_the_loss_of_untrained_parameters() -> None:
    ours = Judge()
    ours.begins_at(2.3)
    assert judge(ours, 3.0, 1.0, error=6.0).trust == 1.0
    assert judge(ours, 12.0, 1.0, error=6.0).trust == 0.0


@pytest.mark.parametrize("initial", [2.3, -2.3])
def test_while_both_are_hardly_trained_a_trial_says_nothing(initial: float) -> None:
    ours = Judge()
    ours.begins_at(initial)
    for theirs, mine in ((initial + 0.1, initial - 0.1), (initial - 0.1, initial + 0.1)):
        verdict = judge(ours, theirs, mine)
        assert (verdict.trust, verdict.own, verdict.reasons) == (1.0, 1.0, ())
    assert judge(ours, initial + 20.0, initial).trust == 0.0


def test_late_in_training_tiny_losses_differ_by_factors_without_harm() -> None:
    ours = used()
    assert judge(ours, 0.01, 0.0001).trust == 1.0
    assert judge(Judge(), 0.01, 0.0001).trust == 0.0  # who began there would be harmed


def test_partners_with_other_data_do_worse_here_and_become_usual() -> None:
    ours = Judge()
    trusts = [judge(ours, 2.5, 1.0).trust for _ in range(60)]
    assert trusts[0] == 0.0
    assert trusts == sorted(trusts)
    assert trusts[-1] == 1.0
    assert next(n for n, trust in enumerate(trusts) if trust > 0.0) >= 5
    liar = judge(ours, 9.0, 1.0)
    assert liar.trust == 0.0


def test_a_liar_among_honest_partners_never_becomes_usual() -> None:
    ours = Judge()
    for _ in range(300):
        for _ in range(3):
            honest = ours.judge("honest", 1.0, Trial(1.0, 1.0))
        liar = ours.judge("liar", 1.0, Trial(8.0, 1.0))
        assert (honest.trust, liar.trust) == (1.0, 0.0)


def test_one_trial_shifts_what_is_usual_by_little_however_bad_it_is() -> None:
    ours = used()
    judge(ours, 1e9, 1.0)
    shift = 1.0 - (judge(ours, 1.0, 1.0).excess or 0.0)
    assert shift == pytest.approx(1.0 + DRIFT, rel=0.1)


@pytest.mark.parametrize(
    ("theirs", "mine", "trust", "own"),
    [(NAN, 1.0, 0.0, 1.0), (INF, 1.0, 0.0, 1.0), (1.0, NAN, 1.0, 0.0), (1.0, INF, 1.0, 0.0), (NAN, NAN, 0.0, 1.0)],
)
def test_what_gives_no_finite_loss_is_not_trusted_be_it_theirs_or_ours(
    theirs: float, mine: float, trust: float, own: float
) -> None:
    ours = used()
    verdict = judge(ours, theirs, mine)
    assert (verdict.trust, verdict.own, verdict.excess) == (trust, own, None)
    assert bool(verdict.reasons) == (trust < 1.0)
    assert judge(ours, 1.0, 1.0).trust == 1.0  # and leaves no trace


def test_without_a_trial_nothing_is_said() -> None:
    ours = Judge()
    for distance in (1.0, 1.0, 1.0, 1.0, 1.0, 1e6):
        assert ours.judge("b", distance, None)._replace(score=0.0) == Verdict(1.0, 1.0, (), 0.0, None)


# ---------------------------------------------------------------- distances


def jumped(theirs: float, mine: float) -> Verdict:
    """The verdict where the distance suddenly grew tenfold."""
    ours = used()
    return judge(ours, theirs, mine, distance=10.0)


def test_a_distance_that_suddenly_grew_tells_who_lags_by_the_trial() -> None:
    assert (jumped(1.1, 1.0).own, jumped(1.0, 1.1).trust) == (1.0, 1.0)
    assert 0.0 < jumped(1.1, 1.0).trust < 1.0
    assert 0.0 < jumped(1.0, 1.1).own < 1.0
    assert jumped(1.1, 1.0).reasons[0].startswith("its distance to this peer grew suddenly")


def test_a_distance_that_grew_is_nothing_where_both_do_the_same() -> None:
    verdict = jumped(1.0, 1.0)
    assert (verdict.trust, verdict.own) == (1.0, 1.0)
    assert verdict.score > 0.5


def test_each_partner_has_distances_of_its_own() -> None:
    ours = Judge()
    for _ in range(10):
        ours.judge("near", 1.0, Trial(1.0, 1.0))
        verdict = ours.judge("far", 100.0, Trial(1.1, 1.0))
    assert (verdict.trust, verdict.score) == (1.0, 0.0)


HONEST = "abcdefgh"


def among(ours: Judge, partner: str, distance: float, norm: float = 10.0, trial: Trial | None = None) -> Verdict:
    """The verdict of one of nine others."""
    return ours.judge(partner, distance, trial or Trial(1.0, 1.0), scale=Scale(norm, 9))


def acquainted(distances: Mapping[str, float]) -> Judge:
    ours = Judge()
    for partner, distance in distances.items():
        among(ours, partner, distance)
    return ours


def test_who_is_too_far_away_is_not_followed_whatever_it_does_and_says_nothing_of_us() -> None:
    ours = acquainted(dict.fromkeys(HONEST, 1.0))
    for trial in (Trial(1.0, 1.0), Trial(0.1, 1.0)):
        verdict = among(ours, "liar", 9.0, trial=trial)
        assert (verdict.trust, verdict.own) == (0.0, 1.0)
        assert verdict.reasons == ("it is too far away to be followed: 9, this peer's own norm is 10",)
    assert among(ours, "liar", 1.0).trust == 1.0  # it came back
    assert ours.judge("liar", 9.0, Trial(1.0, 1.0)).trust == 1.0  # where a distance says nothing


def test_before_any_distance_is_usual_the_share_of_the_norm_decides() -> None:
    assert among(Judge(), "a", 10.0 * GATE_SHARE).trust == 1.0
    assert among(Judge(), "a", 10.1 * GATE_SHARE).trust == 0.0


def test_where_all_are_far_away_the_first_ones_are_not_followed_and_then_all_are() -> None:
    ours = Judge()
    trusts = [among(ours, partner, 8.0).trust for partner in HONEST]
    assert trusts == [0.0] * 6 + [1.0] * 2  # two thirds of nine
    assert among(ours, "liar", 20.0).trust == 0.0


def test_liars_that_are_the_most_among_the_first_do_not_open_the_gate() -> None:
    liars, honest = dict.fromkeys("wxyz", 90.0), dict.fromkeys("ab", 1.0)
    ours = acquainted({**liars, **honest})
    assert among(ours, "w", 90.0).trust == 0.0
    for _ in range(100):
        assert among(ours, "w", 1e30).trust == 0.0
    assert among(ours, "a", 1.0)[:2] == (1.0, 1.0)


def test_what_passes_is_followed_as_far_as_is_usual() -> None:
    ours = acquainted(dict.fromkeys(HONEST, 1.0))
    assert among(ours, "a", CLIP_FACTOR).clip == 1.0
    verdict = among(ours, "b", 2.0 * CLIP_FACTOR)
    assert (verdict.trust, verdict.clip) == (1.0, 0.5)
    assert verdict.reasons == ("it is followed only as far as is usual: its distance is 2.5, the usual one 1",)


def test_who_diverged_itself_follows_whoever_does_well() -> None:
    ours = acquainted(dict.fromkeys(HONEST, 1.0))
    ours.begins_at(2.3)
    assert among(ours, "a", 1e6, norm=1e6, trial=Trial(1.0, 1e3))[:2] == (1.0, 0.0)


def test_distances_of_parts_are_compared_with_those_of_the_same_part() -> None:
    ours = Judge()
    for partner in HONEST:
        ours.judge(partner, 1.0, None, (0, 5), scale=Scale(10.0, 9))
        ours.judge(partner, 8.0, None, (5, 9), scale=Scale(10.0, 9))
    assert ours.judge("a", 8.0, None, (0, 5), scale=Scale(10.0, 9)).trust == 0.0
    assert ours.judge("a", 8.0, None, (5, 9), scale=Scale(10.0, 9)).trust == 1.0


# ---------------------------------------------------------------- bounds


@given(
    trials=st.lists(
        st.tuples(st.floats(width=32), st.floats(width=32), st.floats(0.0, 1e38), st.floats(0.0, 3.4e38)),
        max_size=12,
    )
)
@checked
def test_whatever_is_measured_verdicts_are_shares_and_later_ones_are_too(
    trials: list[tuple[float, float, float, float]],
) -> None:
    ours = Judge()
    for theirs, mine, error, distance in [*trials, (1.0, 1.0, 0.0, 1.0)]:
        verdict = judge(ours, theirs, mine, error, distance)
        assert 0.0 <= verdict.trust <= 1.0
        assert 0.0 <= verdict.own <= 1.0
        assert 1.0 in (verdict.trust, verdict.own)  # one of the two is better, if any
        assert math.isfinite(verdict.score)
        assert verdict.excess is None or math.isfinite(verdict.excess)


def test_however_many_partners_there_are_memory_is_bounded_and_the_latest_are_known() -> None:
    ours = Judge()
    for number in range(5000):
        ours.judge(f"p{number}", 1.0, Trial(1.0, 1.0))
    assert list(ours.verdicts) == [f"p{number}" for number in range(5000 - PARTNERS_MAX, 5000)]
    assert len(ours.memory().distances) == PARTNERS_MAX


def test_who_holds_the_verdicts_sees_no_later_ones() -> None:
    ours = used()
    seen = ours.verdicts
    before = dict(seen)
    judge(ours, 9.0, 1.0)
    assert seen == before != ours.verdicts


# ---------------------------------------------------------------- what a trial is


def test_a_trial_is_means_over_the_same_groups_and_the_error_of_their_difference() -> None:
    trial = Trial.of(torch.tensor([1.0, 3.0, 2.0, 2.0]), torch.tensor([1.0, 1.0, 1.0, 1.0]))
    assert (trial.theirs, trial.mine) == (2.0, 1.0)
    assert trial.error == pytest.approx(math.sqrt(2 / 3) / 2)
    assert Trial.of(torch.tensor([2.0, 4.0]), torch.tensor([1.0, 3.0])).error == 0.0  # harder for both alike
    assert trial.the_other_way_round == Trial(1.0, 2.0, trial.error)


def test_one_group_has_no_error_that_could_be_known() -> None:
    assert Trial.of(torch.tensor([2.0]), torch.tensor([1.0])) == Trial(2.0, 1.0, 0.0)


def test_who_joins_late_is_not_judged_by_differences_that_are_nothing_against_the_untrained_loss() -> None:
    late, lowest = Judge(), Trial(theirs=1e-4, mine=3e-4)
    late.begins_at(2.3)
    assert [late.judge("a", 1.0, lowest).own for _ in range(5)] == [1.0] * 5
    other = Judge()
    assert min(other.judge("a", 1.0, Trial(theirs=1e-4, mine=mine)).own for mine in (1e-4, 1e-3, 1e-3)) < 1.0
