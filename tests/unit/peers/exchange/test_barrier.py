"""Whether two models that trained apart can meet in the middle."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from p2p_elastic.peers.exchange.barrier import guards, landing, with_barrier
from p2p_elastic.protocol.chunks import Vectors
from p2p_elastic.rules.base import Facts, Stake
from p2p_elastic.rules.merging import merging
from p2p_elastic.rules.pairwise import elastic
from p2p_elastic.rules.trial import Trial
from p2p_elastic.testing.virtual_time import run_virtual

QUIET = Facts(1, None, 1.0)
APART = QUIET._replace(apart=Stake(steps=10))
RULE = merging(elastic(0.5))


def test_moves_are_tried_first_where_one_end_was_apart_and_the_rule_merges() -> None:
    assert guards(RULE, APART, QUIET)
    assert guards(RULE, QUIET, APART)
    assert not guards(RULE, QUIET, QUIET)
    assert not guards(elastic(0.5), APART, APART)


def test_the_landing_is_where_the_rule_leads_and_nothing_moves_yet() -> None:
    vectors = Vectors(torch.zeros(3), torch.ones(3))
    longer = APART._replace(apart=Stake(steps=30))
    assert landing(RULE, RULE.init(vectors.mine), vectors, longer, APART).tolist() == [0.25] * 3
    assert vectors.mine.tolist() == [0.0] * 3
    assert vectors.theirs.tolist() == [1.0] * 3


@pytest.mark.parametrize(
    ("ends", "worse"), [(Trial(theirs=2.0, mine=1.0), [1.0, 1.0]), (Trial(theirs=1.0, mine=2.0), [0.0, 0.0])]
)
@pytest.mark.parametrize(("loss", "barrier"), [(2.0, False), (9.0, True)])
def test_a_landing_that_does_clearly_worse_than_the_worse_end_is_a_barrier(
    ends: Trial, worse: list[float], loss: float, barrier: bool
) -> None:
    where, vectors = torch.full((2,), 0.5), Vectors(torch.zeros(2), torch.ones(2))
    compared = list[list[float]]()

    async def examine(tried: Tensor, against: Tensor) -> Trial:
        compared.extend([tried.tolist(), against.tolist()])
        return Trial(theirs=loss, mine=2.0, error=0.01)

    assert run_virtual(with_barrier(examine, where, vectors, ends, None)) == ends._replace(barrier=barrier)
    assert compared == [[0.5, 0.5], worse]


def test_without_examples_there_is_no_barrier() -> None:
    async def examine(_tried: Tensor, _against: Tensor) -> None:
        return None

    ends, vectors = Trial(2.0, 1.0), Vectors(torch.zeros(2), torch.ones(2))
    assert not run_virtual(with_barrier(examine, torch.ones(2), vectors, ends, 2.3)).barrier
