"""A simulated swarm for tests: the production `Peer`, a tiny model, virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from p2p_elastic.health.operator import Condition
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.centre.strategy import CentreStrategy
from p2p_elastic.peers.centre.variable import Centre
from p2p_elastic.peers.leader.election import Following
from p2p_elastic.peers.leader.strategy import LeaderStrategy
from p2p_elastic.peers.membership.run_context import RunContext
from p2p_elastic.peers.peer import Peer
from p2p_elastic.peers.session.conversation import Limits
from p2p_elastic.peers.state.context import LocalContext, assembled
from p2p_elastic.peers.state.current_run import CurrentRun
from p2p_elastic.protocol.software import OURS, Software
from p2p_elastic.rate_limit import Budget
from p2p_elastic.rules.pairwise import elastic
from p2p_elastic.rules.policy import Policy
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.status.events import EventLog
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual


def tiny_model(seed: int, width: int = 8) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(width, width)


def values(model: nn.Module) -> Tensor:
    vector = ParameterVector(model)
    return vector.snapshot(vector.empty())


def centre_at(peer: Peer) -> Centre:
    """The centre variable as that peer has it."""
    strategy = peer.parts.run.topology
    assert isinstance(strategy, CentreStrategy)
    return strategy.centre


def following_at(peer: Peer) -> Following:
    """Whom that peer follows."""
    strategy = peer.parts.run.topology
    assert isinstance(strategy, LeaderStrategy)
    return strategy.following


@dataclass
class Member:
    """One simulated peer and its model; `stopped` freezes its training, not its network."""

    peer: Peer
    model: nn.Module
    step_seconds: float
    steps: int = 0
    stopped: bool = False
    replaced: int = 0  # times that a partner's parameters replaced the model
    loss: float = 1.0
    on_step: Callable[[nn.Module], None] = field(default=lambda model: None)

    async def train(self, steps: int) -> None:
        while self.steps < steps:
            await asyncio.sleep(self.step_seconds)
            if not self.stopped:
                self.on_step(self.model)
                self.steps += 1
                self.peer.report_loss(self.loss)
                self.replaced += self.peer.after_step()


def build_member(
    network: SimulatedNetwork,
    name: str,
    *,
    model: nn.Module | None = None,
    seed: int = 0,
    schedule: Schedule | None = None,
    moving_rate: float = 0.5,
    policy: Policy | None = None,
    group: str = "",
    standby: bool = False,
    step_seconds: float = 0.01,
    run: str = "test",
    newcomer: bool = False,
    limits: Limits | None = None,
    events: EventLog | None = None,
    codec: str = "none",
    fragments: int = 1,
    streams: int | None = None,
    budget: Budget | None = None,
    announce_seconds: float = 1.0,
    refresh_seconds: float = 0.5,
    software: Software = OURS,
) -> Member:
    model = model if model is not None else tiny_model(seed)
    peer = Peer(
        vector=ParameterVector(model),
        policy=policy or Policy(elastic(moving_rate), schedule or Schedule(probability=1 / 8)),
        transport=network.transport(name),
        directory=network.directory(name),
        context=RunContext(
            run=run,
            codec=codec,
            fragments=fragments,
            streams=streams,
            group=group,
            standby=standby,
            newcomer=newcomer,
            software=software,
            announce_seconds=announce_seconds,
            refresh_seconds=refresh_seconds,
        ),
        seed=seed,
        limits=limits,
        events=events,
        budget=budget,
    )
    return Member(peer, model, step_seconds)


def build_parts(policy: Policy, **context: object) -> LocalContext:
    """The parts of a peer "a" without any network."""
    options = {"run": "test", "announce_seconds": 1.0, **context}
    run = CurrentRun("a", ParameterVector(tiny_model(0)), RunContext(**options), policy)  # type: ignore[arg-type]
    events = EventLog(lambda: 0.0)
    return assembled(run, Condition(lambda: 0.0, events=events), events, limits=Limits())


def begin_as_equals(members: Iterable[Member]) -> None:
    """All begin together: nobody copies another first, as a newcomer would."""
    for member in members:
        member.peer.restore(member.peer.memory().model_copy(update={"newcomer": False}))


def far_ahead(member: Member, step: int = 10**6) -> None:
    """It has trained before, alone."""
    member.peer.restore(member.peer.memory().model_copy(update={"step": step}))


@dataclass
class Switch:
    """A schedule that a test turns on and off."""

    schedule: Schedule
    on: bool = True

    @property
    def period(self) -> int | None:
        return self.schedule.period

    @property
    def mean_period(self) -> float:
        return self.schedule.mean_period

    def due(self, step: int, rng: random.Random) -> bool:
        return self.on and self.schedule.due(step, rng)


async def run_members(members: list[Member], *, steps: int, settle_seconds: float = 60.0) -> None:
    """Announce everybody, train all of them, then let the last exchanges end and their moves be added."""
    tasks = [asyncio.ensure_future(m.peer.run()) for m in members]
    try:
        for member in members:
            await member.peer.announce()
        for member in members:
            await member.peer.refresh()
        await asyncio.gather(*(m.train(steps) for m in members))
        await asyncio.gather(*(m.peer.leave(settle_seconds) for m in members))
        for member in members:
            member.peer.settle()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def simulate(network: SimulatedNetwork, names: list[str], *, steps: int = 400, **options: object) -> list[Member]:
    """Build and run one member per name, each with its own seed and start."""

    async def main() -> list[Member]:
        members = [
            build_member(network, name, seed=i, step_seconds=0.01 + 0.001 * i, **options)  # type: ignore[arg-type]
            for i, name in enumerate(names)
        ]
        await run_members(members, steps=steps)
        return members

    return run_virtual(main())
