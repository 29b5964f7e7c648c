"""The end of exchanges with the centre variable."""

from __future__ import annotations

import asyncio

import pytest
import torch
from helpers.peer_parts import introduce, offer, parts_in, values_of
from helpers.topologies import EASGD

from p2p_elastic.peers.centre.endpoint import CentreEndpoint, judged_at
from p2p_elastic.peers.centre.variable import Centre
from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.session.conversation import Limits
from p2p_elastic.peers.state.endpoint import Refusal
from p2p_elastic.protocol.messages import DeclineReason, Offer, Stamp
from p2p_elastic.rules.base import Facts
from p2p_elastic.rules.policy import Policy
from p2p_elastic.rules.trial import Trial
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

FACTS = Facts(step=1, loss=1.0, weight=1.0)
GIVEN_UP = offer(centre={"term": 1, "clock": 1})
NOT_HERE = Refusal(DeclineReason.NOT_CENTRE)


def seat(
    *, here: bool = True, known: bool = True, policy: Policy = EASGD
) -> tuple[CentreEndpoint, Centre, StrategyParts]:
    network = SimulatedNetwork()
    parts = parts_in(network, policy)
    if known:
        introduce(parts, parts_in(network, policy, "b"))
    centre = Centre(values_of(parts), policy.rule, seated=here, announce_seconds=1.0)
    return CentreEndpoint(parts.local, centre, Limits()), centre, parts


def exchanged(made: CentreEndpoint, asked: Offer, trial: Trial | None = None) -> float | None:
    """The asker's parameters are one above the centre; the distance before the exchange."""

    async def main() -> float | None:
        assert await made.reserve(asked) is None
        vectors = made.vectors(asked)
        vectors.theirs.copy_(vectors.mine + 1.0)
        accept = made.accept(asked)
        assert accept.weight == 1.0
        return made.commit(asked, accept, trial, None)

    return run_virtual(main())


def test_the_centre_moves_at_once_and_is_free_for_the_next_one() -> None:
    made, centre, _ = seat()
    for clock in (1, 2):
        before = centre.value
        assert exchanged(made, offer()) == pytest.approx(72**0.5)
        torch.testing.assert_close(centre.value, before + 0.2)
        assert centre.stamp == Stamp(term=1, clock=clock)


def test_where_the_centre_is_elsewhere_the_asker_hears_that() -> None:
    made, _, _ = seat(here=False)
    assert run_virtual(made.reserve(offer())) == NOT_HERE


def test_who_waits_too_long_for_its_turn_hears_that_the_centre_is_busy() -> None:
    made, centre, _ = seat()

    async def main() -> None:
        await centre.reserve()
        assert await made.reserve(offer()) == Refusal(DeclineReason.BUSY)
        assert asyncio.get_running_loop().time() == Limits().snapshot_seconds
        made.free()
        assert await made.reserve(offer()) is None

    run_virtual(main())


def test_a_centre_that_goes_elsewhere_while_one_waits_declines_it_and_is_free() -> None:
    made, centre, _ = seat()

    async def main() -> None:
        await centre.reserve()
        waiting = asyncio.ensure_future(made.reserve(offer()))
        await asyncio.sleep(1.0)
        centre.give_up("b")
        centre.free()
        assert await waiting == NOT_HERE
        await asyncio.wait_for(centre.reserve(), 1.0)

    run_virtual(main())


def test_only_the_part_that_was_offered_moves() -> None:
    made, centre, _ = seat()
    before = centre.value
    exchanged(made, offer(part=(10, 20)))
    moved = centre.value - before
    torch.testing.assert_close(moved[10:20], torch.full((10,), 0.2))
    assert int(moved.count_nonzero()) == 10


# -- one that is given up ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("barrier", "share"), [(None, 1.0), (False, 1.0), (True, 0.0)])
def test_a_centre_that_is_given_up_is_taken_in_unless_a_barrier_is_between(barrier: bool | None, share: float) -> None:
    made, centre, _ = seat()
    before = centre.value
    exchanged(made, GIVEN_UP, None if barrier is None else Trial(1.0, 1.0, 0.1, barrier))
    torch.testing.assert_close(centre.value, before + share)


def test_it_is_taken_in_of_a_member_and_once() -> None:
    refused = Refusal(DeclineReason.NOT_CENTRE, "nothing to be taken in")
    of_stranger, _, _ = seat(known=False)
    assert run_virtual(of_stranger.reserve(GIVEN_UP)) == refused
    made, _, _ = seat()
    exchanged(made, GIVEN_UP)
    assert run_virtual(made.reserve(GIVEN_UP)) == refused


def test_what_is_tried_is_the_place_where_taking_it_in_leads() -> None:
    made, centre, parts = seat(policy=EASGD._replace(weighting="dynamic"))
    tried = list[torch.Tensor]()

    async def examine(theirs: torch.Tensor, _mine: torch.Tensor) -> Trial:
        tried.append(theirs.clone())
        return Trial(theirs=9.0, mine=1.0, error=0.01)

    async def main() -> Trial | None:
        parts.local.judge.examine_with(examine)
        exchange_behind = Stamp(term=1, clock=1)
        centre.behind = 1
        asked = offer(centre=exchange_behind.model_dump())
        assert await made.reserve(asked) is None
        vectors = made.vectors(asked)
        vectors.theirs.copy_(vectors.mine + 1.0)
        return await made.try_out(asked, made.accept(asked))

    trial = run_virtual(main())
    assert trial is not None
    assert trial.barrier
    torch.testing.assert_close(tried[0], centre.value + 0.5)  # as much is behind the one as behind the other


# -- trust -------------------------------------------------------------------------------------------------------------


def test_the_centre_trusts_by_its_own_measurements_where_the_run_weighs_by_them() -> None:
    good, bad = Trial(1.0, 1.0, 1e-6), Trial(9.0, 1.0, 1e-6)
    for policy, trust in ((EASGD, 1.0), (EASGD._replace(weighting="dynamic"), 0.0)):
        _, centre, parts = seat(policy=policy)
        judged_at(parts.local, centre, "b", FACTS, good)(1.0)
        verdict = judged_at(parts.local, centre, "b", FACTS, bad)(1.0)
        assert (1.0 if verdict is None else verdict.trust) == trust
        assert not parts.local.judge.verdicts  # those are of exchanges between equals
