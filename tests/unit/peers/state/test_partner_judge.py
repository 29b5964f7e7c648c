"""How far partners are trusted, by trials on examples of our own."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.swarm import build_parts
from torch import Tensor

from p2p_elastic.health.trust import Judge
from p2p_elastic.protocol.chunks import Vectors
from p2p_elastic.rules.base import Facts, Stake
from p2p_elastic.rules.merging import merging
from p2p_elastic.rules.pairwise import elastic
from p2p_elastic.rules.policy import Policy
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.rules.trial import Trial
from p2p_elastic.testing.virtual_time import run_virtual

FIXED = Policy(elastic(0.5), Schedule(period=10))
DYNAMIC = FIXED._replace(weighting="dynamic")
PARTNER = Facts(step=9, loss=1.0, weight=1.0)
GOOD, BAD = Trial(theirs=1.0, mine=1.0, error=1e-6), Trial(theirs=9.0, mine=1.0, error=1e-6)
VECTORS = Vectors(torch.zeros(2), torch.ones(2))


async def examine(theirs: Tensor, mine: Tensor) -> Trial:
    return Trial(float(theirs.sum()), float(mine.sum()))


def test_parameters_are_tried_only_where_the_run_weighs_by_that_and_there_are_examples() -> None:
    async def main() -> None:
        judge = build_parts(DYNAMIC).judge
        assert await judge.try_out(VECTORS, PARTNER) is None
        judge.examine_with(examine)
        assert await judge.try_out(VECTORS, PARTNER) == Trial(2.0, 0.0)
        assert await judge.try_ours(VECTORS, PARTNER) == Trial(2.0, 0.0)
        assert await judge.try_ours(None, PARTNER) is None
        assert await judge.try_out(VECTORS, PARTNER._replace(weight=0.0)) is None  # it may have sent zeros
        judge.examine_with(None)
        assert await judge.try_out(VECTORS, PARTNER) is None
        fixed = build_parts(FIXED).judge
        fixed.examine_with(examine)
        assert await fixed.try_out(VECTORS, PARTNER) is None

    run_virtual(main())


def test_a_trial_that_fails_says_nothing() -> None:
    async def no_memory(_theirs: Tensor, _mine: Tensor) -> Trial:
        raise RuntimeError("no memory left")

    async def main() -> None:
        judge = build_parts(DYNAMIC).judge
        judge.examine_with(no_memory)
        assert await judge.try_out(VECTORS, PARTNER) is None

    run_virtual(main())


def test_after_a_partition_it_is_tried_where_the_exchange_would_lead() -> None:
    tried: list[list[float]] = []

    async def hill(theirs: Tensor, mine: Tensor) -> Trial:
        tried.append(theirs.tolist())
        return Trial(5.0 if theirs.tolist() == [0.5, 0.5] else 1.0, 1.0, 0.001)

    async def main() -> None:
        judge = build_parts(DYNAMIC._replace(rule=merging(elastic(0.5)))).judge
        judge.examine_with(hill)
        apart = Stake(steps=10, peers=2)
        trial = await judge.try_out(VECTORS, PARTNER._replace(apart=apart), PARTNER._replace(apart=apart))
        assert trial is not None
        assert trial.barrier
        assert tried == [[1.0, 1.0], [0.5, 0.5]]

    run_virtual(main())


def test_a_partner_that_does_badly_is_trusted_no_more_which_is_said_once() -> None:
    parts = build_parts(DYNAMIC)
    for trial in (GOOD, BAD, BAD):
        parts.judge.verdict("b", PARTNER, 1.0, trial)
    assert parts.judge.trust == {"b": 0.0}
    assert [event.data for event in parts.events.since(0) if event.kind == "trust"] == [{"partner": "b"}]


@pytest.mark.parametrize(
    ("policy", "facts", "distance"),
    [(FIXED, PARTNER, 1.0), (DYNAMIC, PARTNER._replace(weight=0.0), 1.0), (DYNAMIC, PARTNER, math.inf)],
)
def test_of_some_exchanges_nothing_is_to_be_said(policy: Policy, facts: Facts, distance: float) -> None:
    judge = build_parts(policy).judge
    assert judge.verdict("b", facts, distance, BAD) is None
    assert not judge.verdicts


def test_what_a_centre_measures_is_apart_from_what_equals_do() -> None:
    judge, centre = build_parts(DYNAMIC).judge, Judge()
    verdict = judge.verdict("b", PARTNER, 1.0, BAD, judge=centre)
    assert verdict is not None
    assert set(centre.verdicts) == {"b"}
    assert not judge.verdicts


def test_what_was_measured_is_kept_over_a_restart_and_ends_with_the_run() -> None:
    first, second = build_parts(DYNAMIC).judge, build_parts(DYNAMIC).judge
    for distance in (1.0, 2.0, 3.0):
        first.verdict("b", PARTNER, distance, GOOD)
    second.recall(first.memory())
    assert second.memory() == first.memory()
    first.forget()
    assert first.memory() != second.memory()
    assert not first.verdicts
