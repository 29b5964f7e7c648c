"""EASGD at one peer: meeting the centre where it is here, and taking part in its succession."""

from __future__ import annotations

import pytest
import torch
from helpers.peer_parts import goodbye, introduce, parts_in, record, serve, step, values_of
from helpers.topologies import EASGD

from p2p_elastic.peers.centre.strategy import CentreStrategy
from p2p_elastic.peers.exchange.slot import DELIVERED
from p2p_elastic.peers.gossip.admission import Admission
from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.lifecycle.donor import Donor
from p2p_elastic.peers.lifecycle.giving import Giving
from p2p_elastic.protocol.messages import Stamp
from p2p_elastic.protocol.records import CentreClaim
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual


def strategy_of(parts: StrategyParts) -> CentreStrategy:
    strategy = parts.local.run.topology
    assert isinstance(strategy, CentreStrategy)
    return strategy


def at_the_centre() -> tuple[StrategyParts, CentreStrategy]:
    """A peer that is the centre, whose snapshot is there, and whose centre variable is one above its model."""
    parts = parts_in(SimulatedNetwork(), EASGD)
    strategy = strategy_of(parts)
    strategy.centre.value = values_of(parts) + 1.0
    step(parts, due=True)
    return parts, strategy


def test_where_the_centre_is_here_both_move_to_each_other_without_a_stream() -> None:
    parts, strategy = at_the_centre()
    model, centre = values_of(parts), strategy.centre.value
    assert run_virtual(strategy.meet_here()) is None
    assert parts.local.slot.state == DELIVERED
    step(parts)
    torch.testing.assert_close(values_of(parts), model + 0.2)
    torch.testing.assert_close(strategy.centre.value, centre - 0.2)
    assert strategy.centre.stamp == Stamp(term=1, clock=1)


def test_a_centre_that_is_busy_is_not_met() -> None:
    parts, strategy = at_the_centre()

    async def main() -> str | None:
        await strategy.centre.reserve()
        return await strategy.meet_here()

    assert run_virtual(main()) == "the centre was busy"
    assert parts.local.journal.skipped == {"centre busy": 1}


def test_a_due_exchange_at_the_centre_is_with_the_centre() -> None:
    parts, strategy = at_the_centre()
    run_virtual(strategy.run_due("exchange"))
    assert parts.local.slot.state == DELIVERED
    assert strategy.verdicts() == strategy.centre.judge.verdicts


def test_the_heir_has_the_freshest_copy_and_is_not_asked_twice() -> None:
    parts, strategy = at_the_centre()
    clocks = {"b": 3, "c": 9, "d": 5}
    claims = {peer: CentreClaim(stamp=Stamp(term=1, clock=clock), seated=False) for peer, clock in clocks.items()}
    parts.local.members.look([record(peer, centre=claim) for peer, claim in claims.items()], 0.0)

    async def main() -> list[str]:
        asked = set[str]()
        while (heir := strategy.resignation.heir(asked)) is not None:
            asked.add(heir.peer)
            order.append(heir.peer)
        return order

    order = list[str]()
    assert run_virtual(main()) == ["c", "d", "b"]


# -- taking a place over -----------------------------------------------------------------------------------------------


async def no_look() -> None:
    return


def heir_of(leaver: str = "b") -> tuple[StrategyParts, StrategyParts, SimulatedNetwork]:
    """A worker "a" that sees the centre at `leaver`, and that centre "b", whose value is all one."""
    network = SimulatedNetwork()
    worker, holder = parts_in(network, EASGD, newcomer=True), parts_in(network, EASGD, "b")
    strategy_of(holder).centre.value = torch.ones(72)
    strategy_of(holder).centre.stamp = Stamp(term=1, clock=8)
    introduce(worker, holder)
    strategy_of(worker).centre.holder = leaver
    return worker, holder, network


async def giving(holder: StrategyParts) -> None:
    admission = Admission(holder.local)
    holder.local.departure.leave()
    holder.local.departure.await_taker("a")
    await serve(holder, Giving(holder.local, admission, Donor(holder.local, holder.limits, no_look)))


def test_an_heir_fetches_the_value_and_takes_the_place_with_the_next_term() -> None:
    worker, holder, _ = heir_of()

    async def main() -> bool:
        await giving(holder)
        return await strategy_of(worker).inherit(goodbye(heir="a", centre={"term": 1, "clock": 8}))

    assert run_virtual(main())
    centre = strategy_of(worker).centre
    assert (centre.seated, centre.holder, centre.stamp) == (True, "a", Stamp(term=2, clock=8))
    assert torch.equal(centre.value, torch.ones(72))
    assert [event.text for event in worker.local.events.since(0) if event.kind == "centre"] == ["the centre is a"]


@pytest.mark.parametrize("case", ["no holder", "no stamp", "leaves itself", "nobody gives"])
def test_in_other_cases_the_place_is_not_taken(case: str) -> None:
    worker, holder, _ = heir_of("c" if case == "no holder" else "b")
    stamp = None if case == "no stamp" else {"term": 1, "clock": 8}
    if case == "leaves itself":
        worker.local.departure.leave()

    async def main() -> bool:
        if case != "nobody gives":
            await giving(holder)
        return await strategy_of(worker).inherit(goodbye(heir="a", centre=stamp))

    assert not run_virtual(main())
    assert not strategy_of(worker).here


def test_one_that_stands_by_keeps_its_copy_fresh() -> None:
    worker, holder, _ = heir_of()

    async def main() -> None:
        await giving(holder)
        await strategy_of(worker).stand_by()

    run_virtual(main())
    assert strategy_of(worker).centre.stamp == Stamp(term=1, clock=8)
    assert torch.equal(strategy_of(worker).centre.value, torch.ones(72))
    assert not strategy_of(worker).here
