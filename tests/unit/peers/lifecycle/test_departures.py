"""Hearing the goodbyes of others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch
from helpers.peer_parts import GOSSIP, goodbye, introduce, parts_in, record, serve, step, talk, train, values_of
from helpers.topologies import EASGD, gossip

from p2p_elastic.errors import ExchangeError
from p2p_elastic.peers.centre.strategy import CentreStrategy
from p2p_elastic.peers.gossip.admission import Admission
from p2p_elastic.peers.gossip.answering import Answering
from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.lifecycle.announcer import Presence
from p2p_elastic.peers.lifecycle.departures import Goodbyes
from p2p_elastic.peers.lifecycle.donor import Donor
from p2p_elastic.peers.lifecycle.giving import Giving
from p2p_elastic.protocol.exchange import say_goodbye
from p2p_elastic.protocol.messages import Heard
from p2p_elastic.rules.policy import Policy
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

PULL = gossip("gossip-pull")


async def no_look() -> None:
    return


class Farewell:
    """The peer "b" leaves and stays to be asked; "a" hears of it. Both train."""

    def __init__(self, policy: Policy = GOSSIP, *, known: bool = True) -> None:
        self.network = SimulatedNetwork()
        self.hearer, self.leaver = parts_in(self.network, policy), parts_in(self.network, policy, "b")
        if known:
            introduce(self.hearer, self.leaver)

    def say(self, *, train_hearer: bool = True, **said: Any) -> Heard | None:
        """The answer."""
        hearer, leaver = self.hearer, self.leaver

        async def main() -> Heard | None:
            leaver.local.departure.leave()
            leaver.local.departure.await_taker("a")
            there, here = Admission(leaver.local), Admission(hearer.local)
            donor = Donor(leaver.local, leaver.limits, no_look)
            await serve(leaver, Answering(leaver.local, leaver.limits, there), Giving(leaver.local, there, donor))
            presence = Presence(hearer.local, self.network.directory("a"))
            await serve(hearer, Goodbyes(hearer.local, here, presence, hearer.initiator, hearer.own))
            for parts in (leaver, hearer) if train_hearer else (leaver,):
                step(parts)
                training.append(asyncio.ensure_future(train(parts)))
            heard = await talk(self.network, "b", "a", say_goodbye(goodbye(**said)))
            await asyncio.sleep(1.0)
            for task in training:
                task.cancel()
            return heard

        training = list[asyncio.Task[None]]()
        return run_virtual(main())


def test_who_says_goodbye_is_no_member_any_more_and_older_records_do_not_bring_it_back() -> None:
    farewell = Farewell()
    heard = farewell.say()
    assert heard is not None
    assert not heard.took
    members = farewell.hearer.local.members
    assert not members.known
    members.look([record("b", 5)], 1.0)
    assert not members.known
    members.look([record("b", 6)], 1.0)
    assert set(members.known) == {"b"}


def test_of_strangers_nothing_is_remembered() -> None:
    farewell = Farewell(known=False)
    assert farewell.say(seconds=5.0) is not None
    assert farewell.hearer.local.members.departed == ()


def test_a_goodbye_to_another_run_changes_nothing() -> None:
    farewell = Farewell()
    assert farewell.say(run="other") is None
    assert set(farewell.hearer.local.members.known) == {"b"}


def test_nobody_says_goodbye_for_another() -> None:
    farewell = Farewell()
    farewell.hearer.local.members.look([record("b"), record("c")], 0.0)
    with pytest.raises(ExchangeError):
        farewell.say(peer="c")
    assert set(farewell.hearer.local.members.known) == {"b", "c"}


# -- what it has for us ------------------------------------------------------------------------------------------------


def test_where_only_the_asker_moves_a_member_asks_the_leaver_for_its_last_parameters() -> None:
    farewell = Farewell(PULL)
    ours, theirs = values_of(farewell.hearer), values_of(farewell.leaver)
    heard = farewell.say(seconds=8.0)
    assert heard is not None
    assert heard.took
    torch.testing.assert_close(values_of(farewell.hearer), (ours + theirs) / 2.0)
    assert not farewell.hearer.local.members.known


def drain(parts: StrategyParts) -> None:
    parts.local.own.condition.drain()


def leave(parts: StrategyParts) -> None:
    parts.local.departure.leave()


@pytest.mark.parametrize("case", ["both move", "drained", "leaves", "not begun", "no time"])
def test_in_other_cases_nothing_is_taken(case: str) -> None:
    farewell = Farewell(GOSSIP if case == "both move" else PULL)
    before = values_of(farewell.hearer)
    change = {"drained": drain, "leaves": leave}.get(case)
    if change is not None:
        change(farewell.hearer)
    heard = farewell.say(seconds=0.001 if case == "no time" else 8.0, train_hearer=case != "not begun")
    assert heard is not None
    assert not heard.took
    assert torch.equal(values_of(farewell.hearer), before)


def test_the_heir_of_a_centre_takes_its_place_and_says_so_at_once() -> None:
    farewell = Farewell(EASGD)
    heir = farewell.hearer.local.run.topology
    assert isinstance(heir, CentreStrategy)
    heir.centre.give_up("b")
    heard = farewell.say(seconds=8.0, heir="a", centre={"term": 1, "clock": 0})
    assert heard is not None
    assert heard.took
    assert heir.here
    announced, _ = farewell.network.records["a"]
    assert announced.centre == heir.centre.claim()


def test_an_heir_that_cannot_take_the_place_keeps_the_leaver_as_a_member() -> None:
    farewell = Farewell(EASGD)
    drain(farewell.hearer)
    heard = farewell.say(seconds=8.0, heir="a", centre={"term": 1, "clock": 0})
    assert heard is not None
    assert not heard.took
    assert set(farewell.hearer.local.members.known) == {"b"}
