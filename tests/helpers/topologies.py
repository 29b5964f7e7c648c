"""Swarms of each topology in virtual time, and what is asked of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from helpers.swarm import Member

from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.rules.methods import Flow, Topology, find_method
from p2p_elastic.rules.pairwise import elastic, follow
from p2p_elastic.rules.policy import Policy
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.status.schema import CentreStatus, LeaderStatus
from p2p_elastic.testing.faults import Judge, Verdict
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

NAMES = ["a", "b", "c", "d"]
EASGD = Policy(elastic(0.2), Schedule(period=5), topology=Topology.CENTRE)
LSGD = Policy(follow(0.5), Schedule(period=10), topology=Topology.LEADER, flow=Flow.PULL)


def gossip(name: str, rate: float = 0.5) -> Policy:
    method = find_method(name)
    return Policy(method.rule(rate), Schedule(probability=1 / 4), method.topology, method.flow)


async def kill(member: Member, network: SimulatedNetwork, life: asyncio.Task[None]) -> None:
    """As kill -9 does: no goodbye."""
    life.cancel()
    member.stopped = True
    await network.transport(member.peer.peer).close()


async def until(condition: Callable[[], bool], seconds: float) -> float:
    """Wait for it; the time that it took. Fails after so many seconds."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while not condition():
        assert loop.time() - begun < seconds, "it never came"
        await asyncio.sleep(0.05)
    return loop.time() - begun


def completed(member: Member) -> int:
    return member.peer.exchanges().by_outcome.get(Outcome.COMPLETED, 0)


def centre_of(member: Member) -> CentreStatus:
    status = member.peer.centre()
    assert status is not None
    return status


def leaders_of(member: Member) -> LeaderStatus:
    status = member.peer.leaders()
    assert status is not None
    return status


def living(members: list[Member], scenario: Callable[[list[asyncio.Task[None]]], Awaitable[None]]) -> None:
    """Let all members live and train without end while the scenario runs."""

    async def main() -> None:
        lives = [asyncio.ensure_future(m.peer.run()) for m in members]
        training = [asyncio.ensure_future(m.train(10**9)) for m in members]
        await scenario(lives)
        for task in [*lives, *training]:
            task.cancel()

    run_virtual(main())


def with_loss(member: Member, loss: float) -> Member:
    """A member whose published loss is always that one."""

    original = member.peer.report_loss
    member.peer.report_loss = lambda _loss: original(loss)  # type: ignore[method-assign]
    return member


def seeded(seed: int, probability: float, verdict: Verdict) -> Judge:
    """A network that gives `verdict` to a share of everything sent."""
    rng = random.Random(seed)
    return lambda event: verdict if event.kind in ("open", "piece") and rng.random() < probability else Verdict()
