"""Leaving a run: the last exchange, the hand-over and the goodbyes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import torch
from helpers.peer_parts import GOSSIP, introduce, parts_in, serve, step, train, values_of
from helpers.topologies import EASGD, LSGD, gossip

from p2p_elastic.peers.answered import answered_by
from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.lifecycle.announcer import Presence
from p2p_elastic.peers.lifecycle.leave import Farewell
from p2p_elastic.rules.policy import Policy
from p2p_elastic.status.schema import FarewellStatus
from p2p_elastic.testing.faults import Event, Verdict
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual


class Swarm:
    """The peer "a" leaves; the others train and answer."""

    def __init__(self, names: str = "abc", policy: Policy = GOSSIP) -> None:
        self.network = SimulatedNetwork()
        self.peers = {name: parts_in(self.network, policy, name) for name in names}
        self.leaver = self.peers["a"]
        for name in names[1:]:
            topology = self.peers[name].local.run.topology
            if topology.here:
                topology.centre.give_up("a")  # type: ignore[attr-defined]
        introduce(*self.peers.values())
        self.seconds = 0.0  # that it took
        self.said: list[FarewellStatus] = []

    def leave(
        self, seconds: float = 10.0, *, times: int = 1, change: Callable[[StrategyParts], None] = lambda _leaver: None
    ) -> FarewellStatus:
        async def main() -> FarewellStatus:
            tasks = list[asyncio.Task[None]]()
            for name, parts in self.peers.items():
                presence = Presence(parts.local, self.network.directory(name))
                await presence.announce()
                answered = answered_by(parts, presence, presence.refresh)
                await serve(parts, *answered)
                step(parts)
                tasks.append(asyncio.ensure_future(train(parts)))
                if name == "a":
                    farewell = Farewell(parts, self.network.directory(name), presence)
            change(self.leaver)
            begun = asyncio.get_running_loop().time()
            for _ in range(times):
                self.said.append(await farewell.say(seconds))
            self.seconds = asyncio.get_running_loop().time() - begun
            await asyncio.sleep(0.1)  # the last moves are added
            for task in tasks:
                task.cancel()
            return self.said[-1]

        return run_virtual(main())

    @property
    def members_left(self) -> dict[str, set[str]]:
        """Whom each of the others still knows."""
        return {name: set(parts.local.members.known) for name, parts in self.peers.items() if name != "a"}


def test_everybody_hears_it_and_one_gets_what_was_learnt_last() -> None:
    swarm = Swarm()
    total = sum(values_of(parts) for parts in swarm.peers.values())
    status = swarm.leave()
    assert (status.members, status.told, status.withdrawn, status.reason) == (2, 2, True, None)
    assert status.handed_to in ("b", "c")
    assert swarm.members_left == {"b": {"c"}, "c": {"b"}}
    assert swarm.network.records["a"][0].left
    torch.testing.assert_close(sum(values_of(parts) for parts in swarm.peers.values()), total)
    assert swarm.seconds < 2.0


def test_where_only_the_asker_moves_the_taker_asks() -> None:
    swarm = Swarm("ab", gossip("gossip-pull"))
    middle = (values_of(swarm.leaver) + values_of(swarm.peers["b"])) / 2.0
    assert swarm.leave().handed_to == "b"
    torch.testing.assert_close(values_of(swarm.peers["b"]), middle)


def test_the_centre_hands_its_place_to_an_heir_and_all_hear_who_it_is() -> None:
    swarm = Swarm(policy=EASGD)
    status = swarm.leave()
    assert status.centre_to in ("b", "c")
    heir = swarm.peers[status.centre_to or ""].local.run.topology
    assert heir.here
    assert torch.equal(heir.value(), swarm.leaver.local.run.topology.value())  # type: ignore[arg-type]
    assert (status.told, swarm.leaver.local.run.topology.here) == (2, False)


@pytest.mark.parametrize(
    ("policy", "names", "state", "reason"),
    [
        (GOSSIP, "a", "", "nobody is there to take it"),
        (LSGD, "abc", "", "this rule hands nothing over"),
        (GOSSIP, "abc", "drained", "drained"),
        (GOSSIP, "abc", "broken", "it counts for nobody"),
        (GOSSIP, "abc", "handed", "nothing new since the last exchange"),
    ],
)
def test_where_there_is_nothing_to_hand_over_it_says_why_and_goodbye(
    policy: Policy, names: str, state: str, reason: str
) -> None:
    def change(leaver: StrategyParts) -> None:
        if state == "drained":
            leaver.local.own.condition.drain()
        leaver.local.own.broken = state == "broken"
        if state == "handed":
            leaver.local.slot.handed_step = leaver.local.own.progress.step

    swarm = Swarm(names, policy)
    before = {name: values_of(parts) for name, parts in swarm.peers.items()}
    status = swarm.leave(change=change)
    assert (status.reason, status.handed_to, status.withdrawn) == (reason, None, True)
    assert status.told == len(names) - 1
    assert all(torch.equal(values_of(parts), before[name]) for name, parts in swarm.peers.items())


def test_a_farewell_ends_in_time_whatever_the_members_do() -> None:
    def silent(event: Event) -> Verdict:
        return Verdict(seconds=1000.0) if event.kind == "open" else Verdict()

    swarm = Swarm()
    swarm.network.judge = silent
    status = swarm.leave(3.0)
    assert swarm.seconds <= 3.1
    assert (status.told, status.withdrawn, status.handed_to) == (0, True, None)
    assert status.reason is not None


def test_a_second_farewell_hands_nothing_over_again() -> None:
    swarm = Swarm("ab")
    swarm.leave(times=2)
    first, second = swarm.said
    assert first == second
    assert swarm.leaver.local.journal.totals(0.0).by_outcome == {"completed": 1}
