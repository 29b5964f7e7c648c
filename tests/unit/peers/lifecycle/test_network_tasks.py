"""What a peer does again and again while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import random

from helpers.peer_parts import parts_in

from p2p_elastic.peers.gossip.errands import Errands
from p2p_elastic.peers.lifecycle.announcer import Presence
from p2p_elastic.peers.lifecycle.network_tasks import NetworkTasks
from p2p_elastic.peers.lifecycle.other_models import OtherModels
from p2p_elastic.peers.state.topology import Errand, Strategy
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual


class Eager(Strategy):
    """Has something to attend to twice, and counts what it is asked to do."""

    def __init__(self) -> None:
        self.attended = self.stood_by = 0
        self.done: list[Errand] = []

    @property
    def pending(self) -> bool:
        return self.attended < 2

    async def attend(self) -> None:
        self.attended += 1

    async def stand_by(self) -> None:
        self.stood_by += 1

    async def run_due(self, errand: Errand) -> None:
        self.done.append(errand)


async def ran(seconds: float, *, standby: bool = False) -> tuple[Eager, int]:
    """The strategy and the number of announcements after a run of so many seconds, one exchange of which was due."""
    network, due, topology = SimulatedNetwork(), asyncio.Event(), Eager()
    parts = parts_in(network, standby=standby)
    local = parts.local
    local.run.topology = topology
    presence = Presence(local, network.directory("a"))
    tasks = NetworkTasks(local, presence, Errands(local.run, local.journal, random.Random(0)), due, OtherModels(parts))
    due.set()
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(tasks.run(), seconds)
    return topology, presence.sequence - local.run.context.first_sequence


def test_a_peer_announces_itself_at_once_soon_again_and_then_at_intervals() -> None:
    at_once = run_virtual(ran(0.1))[1]
    assert at_once >= 1
    assert run_virtual(ran(0.5))[1] == at_once + 1
    assert run_virtual(ran(2.5))[1] == at_once + 3


def test_what_is_due_is_done_once_and_what_is_pending_until_nothing_is() -> None:
    topology, _ = run_virtual(ran(20.0))
    assert (topology.done, topology.attended, topology.stood_by) == (["exchange"], 2, 0)


def test_only_a_standby_keeps_fresh_what_it_is_to_take_over() -> None:
    assert run_virtual(ran(5.5, standby=True))[0].stood_by > 3
