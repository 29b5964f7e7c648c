"""Giving our own parameters, in parts, to whoever joins late."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import torch
from helpers.peer_parts import GOSSIP, parts_in, record, train, values_of, wanted
from helpers.topologies import EASGD

from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.lifecycle.donor import FRESH_SECONDS, GIVEN_MAX, HELD_SECONDS, Donor, Shown
from p2p_elastic.peers.lifecycle.download import digest_of
from p2p_elastic.protocol.chunks import bytes_of
from p2p_elastic.protocol.messages import DeclineReason, Stamp
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

PART = (10, 20)
ASKED = wanted(part=PART)
Scenario = Callable[[Donor, StrategyParts], Awaitable[None]]


def donating(scenario: Scenario, policy: Any = GOSSIP, *, trains: bool = True, **context: Any) -> list[float]:
    """Let the peer "a", which knows "b", donate; when it looked into the directory, where "c" is listed as well."""
    parts, looks = parts_in(SimulatedNetwork(), policy, **context), list[float]()

    async def look() -> None:
        looks.append(asyncio.get_running_loop().time())
        parts.local.members.look([record("b", 2), record("c")], 0.0)

    async def main() -> None:
        parts.local.members.look([record("b")], 0.0)
        training = [asyncio.ensure_future(train(parts))] if trains else []
        await scenario(Donor(parts.local, parts.limits, look), parts)
        for task in training:
            task.cancel()

    run_virtual(main())
    return looks


async def shown(donor: Donor, **said: Any) -> Shown:
    found = await donor.show(ASKED.model_copy(update=said))
    assert isinstance(found, Shown), found
    return found


def test_a_member_is_shown_a_copy_with_the_digest_of_its_part() -> None:
    async def scenario(donor: Donor, parts: StrategyParts) -> None:
        parts.local.own.report_loss(0.5)
        copy = await shown(donor)
        assert torch.equal(copy.snapshot.vector, values_of(parts))
        given = await donor.given(ASKED, copy, PART)
        assert (given.origin, given.loss, given.centre) == ("a", 0.5, None)
        assert given.digest == await digest_of(bytes_of(copy.snapshot.vector[10:20]))

    assert donating(scenario) == []


def test_all_that_come_within_a_while_get_the_same_copy_and_who_began_with_one_goes_on_with_it() -> None:
    async def scenario(donor: Donor, _parts: StrategyParts) -> None:
        first = await shown(donor)
        await asyncio.sleep(0.8 * FRESH_SECONDS)
        assert await shown(donor) is first
        await asyncio.sleep(0.8 * FRESH_SECONDS)
        assert await shown(donor, step=first.snapshot.step) is first
        assert await shown(donor) is not first

    donating(scenario)


def test_a_copy_that_nobody_uses_is_dropped_and_not_while_it_is_on_its_way() -> None:
    async def scenario(donor: Donor, _parts: StrategyParts) -> None:
        await shown(donor)
        with donor.gives():
            await asyncio.sleep(2.5 * HELD_SECONDS)
            assert donor.held
        await asyncio.sleep(1.1 * HELD_SECONDS)
        assert not donor.held

    donating(scenario)


def test_for_those_that_are_not_known_the_directory_is_read_once_and_not_too_often() -> None:
    async def scenario(donor: Donor, _parts: StrategyParts) -> None:
        found = await asyncio.gather(*(donor.show(wanted(peer=peer, part=PART)) for peer in ("c", "x", "y")))
        assert isinstance(found[0], Shown)
        assert found[1:] == [DeclineReason.NO_SNAPSHOT] * 2
        await donor.show(wanted(peer="z", part=PART))

    first, second = donating(scenario)
    assert second - first >= 1.0


def test_a_peer_that_does_not_count_shows_nothing() -> None:
    async def scenario(donor: Donor, _parts: StrategyParts) -> None:
        assert await donor.show(ASKED) is DeclineReason.NO_SNAPSHOT

    donating(scenario, newcomer=True, trains=False)


def test_where_no_step_ends_there_is_no_copy() -> None:
    async def scenario(donor: Donor, _parts: StrategyParts) -> None:
        assert await donor.show(ASKED) is DeclineReason.NOT_TRAINING

    donating(scenario, trains=False)


def test_parameters_that_are_not_finite_are_not_shown_or_held() -> None:
    async def scenario(donor: Donor, parts: StrategyParts) -> None:
        parts.local.vector.load_(torch.full((72,), math.nan))
        assert await donor.show(ASKED) is DeclineReason.NOT_FINITE
        assert not donor.held

    donating(scenario)


@pytest.mark.parametrize(("under_way", "busy"), [(GIVEN_MAX - 1, False), (GIVEN_MAX, True)])
def test_so_many_parts_are_on_their_way_at_a_time(under_way: int, busy: bool) -> None:
    async def scenario(donor: Donor, _parts: StrategyParts) -> None:
        with contextlib.ExitStack() as giving:
            for _ in range(under_way):
                giving.enter_context(donor.gives())
            assert (await donor.show(ASKED) is DeclineReason.BUSY) is busy
        await shown(donor)

    donating(scenario)


def test_at_the_centre_its_value_is_shown_without_waiting_for_a_step() -> None:
    async def scenario(donor: Donor, parts: StrategyParts) -> None:
        copy = await shown(donor)
        assert copy.snapshot.vector is parts.local.run.topology.centre.value  # type: ignore[attr-defined]
        assert (await donor.given(ASKED, copy, PART)).centre == Stamp(term=1)

    donating(scenario, EASGD, trains=False)
