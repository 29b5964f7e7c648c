"""Twelve varied runs in virtual time, and a digest of what each of them did: the same before and after a change of code
that is to change nothing.

`python tests/simulation/recorded.py` prints the digests of the tree as it is.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from chaos.learning import Learner, new_model
from chaos.plan import plan_of
from chaos.world import run_plan
from helpers.swarm import Member, build_member, tiny_model, values

from p2p_elastic.peers.exchange.snapshots import Snapshot, SnapshotLosses
from p2p_elastic.peers.membership.newcomer import Measured as TriedOut
from p2p_elastic.peers.peer import Peer
from p2p_elastic.rate_limit import Budget
from p2p_elastic.rules.methods import find_method
from p2p_elastic.rules.pairwise import follow
from p2p_elastic.rules.policy import Policy, rule_of
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.rules.trial import Trial
from p2p_elastic.status.events import EventLog
from p2p_elastic.testing.faults import Event, Verdict
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

CUT, HEALED, STEP, UNTRAINED = 5.0, 15.0, 0.05, 2.3


class Digests(NamedTuple):
    """Of the counts and the order of what happened at all peers; and of what machines may compute otherwise by a bit:
    their last parameters, the distances between them, and the bytes that losses take in a header."""

    happened: str
    exact: str


class Lived(NamedTuple):
    """One peer at the end of its run."""

    name: str
    peer: Peer
    events: EventLog
    parameters: Tensor


def digests(lives: Iterable[Lived]) -> Digests:
    """What these peers did and became."""
    happened, exact = hashlib.sha256(), hashlib.sha256()
    for life in lives:
        totals = life.peer.exchanges().model_dump(mode="json")
        del totals["durations"]  # younger than the runs
        totals = {name: count for name, count in totals.items() if name != "left_out" or count}  # that as well
        last = [record.model_dump(mode="json") for record in life.peer.last_exchanges()]
        events = [(event.kind, event.data) for event in life.events.since(0)]
        for said, numbers in ((happened, False), (exact, True)):
            facts = [life.name, life.peer.step, totals, last, life.peer.streams_refused(), events]
            said.update(repr(plain(facts, numbers=numbers)).encode())
        exact.update(life.parameters.numpy().tobytes())
        centre = life.peer.centre_value()
        exact.update(b"" if centre is None else centre.numpy().tobytes())
    return Digests(happened.hexdigest()[:16], exact.hexdigest()[:16])


def plain(facts: object, *, numbers: bool) -> object:
    """The same in one order, without texts for people, and without `numbers` that are measured."""
    if isinstance(facts, Mapping):
        left_out = {"reason"} if numbers else {"reason", "bytes_sent", "bytes_received"}
        return [(k, plain(facts[k], numbers=numbers)) for k in sorted(facts) if k not in left_out]
    if isinstance(facts, (list, tuple)):
        return [plain(one, numbers=numbers) for one in facts]
    return None if isinstance(facts, float) and not numbers else facts


def arithmetic() -> str:
    """The same on machines whose PyTorch computes the same to the last bit, as far as these runs go."""
    said, model = hashlib.sha256(torch.__version__.split("+")[0].encode()), new_model()
    learner = Learner(model, "arithmetic")
    losses = [learner.step() for _ in range(200)]
    one, other = values(tiny_model(1)), values(tiny_model(2))
    said.update(repr([losses, float(torch.linalg.vector_norm(one - other)), float(one.square().mean())]).encode())
    said.update(torch.cat([values(model), one.add(other, alpha=0.3), one.lerp(other, 0.3)]).numpy().tobytes())
    return said.hexdigest()[:16]


# -- chaos ------------------------------------------------------------------------------------------------------------


def chaos(seed: int) -> Callable[[], Digests]:
    """The run of this seed, with its faults."""

    def run() -> Digests:
        lives = run_plan(plan_of(seed)).lives
        return digests(
            Lived(life.owner, life.peer, life.events, life.vector.snapshot(life.vector.empty())) for life in lives
        )

    return run


# -- swarms with what chaos has not -----------------------------------------------------------------------------------


class Swarm:
    """Members that drift apart by a step each, on a network that is split for a while."""

    def __init__(self, side: str = "") -> None:
        def judge(event: Event) -> Verdict:
            crosses = event.kind != "announce" and (event.source in side) != (event.target in side)
            return Verdict("cut") if crosses and CUT <= event.now < HEALED else Verdict()

        self.network = SimulatedNetwork(judge=judge)
        self.members: list[Member] = []
        self._events: list[EventLog] = []
        self._tasks: list[asyncio.Task[None]] = []

    def add(self, name: str, policy: Policy, **options: object) -> Member:
        """One more, which does not live yet."""
        self._events.append(EventLog(lambda: 0.0))
        seed = len(self.members)
        member = build_member(
            self.network,
            name,
            seed=seed,
            policy=policy,
            events=self._events[-1],
            step_seconds=STEP * (1 + seed / 8),
            **options,  # type: ignore[arg-type]
        )
        member.loss = 1.0 + seed / 16
        member.on_step = lambda model: drift(model, (seed - 2) / 1024)
        self.members.append(member)
        return member

    def begin(self, member: Member, steps: int) -> None:
        """Let it live and train."""
        self._tasks.append(asyncio.ensure_future(member.peer.run()))
        self._tasks.append(asyncio.ensure_future(member.train(steps)))

    async def join(self, member: Member, steps: int) -> None:
        """The same of one that comes late."""
        self._tasks.append(asyncio.ensure_future(member.peer.run()))
        member.peer.report_untrained_loss(UNTRAINED)

        async def tried(_parameters: Tensor) -> TriedOut:
            return TriedOut(1.0, 0.01)

        caught = await member.peer.catch_up(UNTRAINED, tried)
        if caught is not None:
            member.peer.begin_with(caught)
        self._tasks.append(asyncio.ensure_future(member.train(steps)))

    async def leave(self, member: Member, seconds: float = 10.0) -> None:
        """It stops training and says goodbye."""
        member.stopped = True
        leaving = asyncio.ensure_future(member.peer.leave(seconds))
        while not leaving.done():
            member.peer.settle()
            await asyncio.sleep(0.01)
        await leaving
        member.peer.settle()

    def run(self, scenario: Callable[[], object]) -> Digests:
        """Until the scenario is over and all have left, one after the other."""

        async def main() -> None:
            await scenario()  # type: ignore[misc]
            for member in self.members:
                if not member.stopped:
                    await self.leave(member)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        run_virtual(main())
        pairs = zip(self.members, self._events, strict=True)
        return digests(Lived(m.peer.peer, m.peer, events, values(m.model)) for m, events in pairs)


def drift(model: nn.Module, by: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by)


def policy_of(name: str, schedule: Schedule, weighting: str = "dynamic") -> Policy:
    method = find_method(name)
    rule = rule_of(method, method.moving_rate, weighting)  # type: ignore[arg-type]
    return Policy(rule, schedule, method.topology, method.flow, weighting=weighting)  # type: ignore[arg-type]


async def examine(theirs: Tensor, mine: Tensor) -> Trial:
    """Two valleys, with a hill between them: coarse, so that no arithmetic tips what follows."""
    await asyncio.sleep(0.01)
    return Trial(*(round(float((v.square() - 1.0).square().mean()), 1) for v in (theirs, mine)), 0.001)


def pairs_judged_split_and_merged() -> Digests:
    """Elastic gossip, weighed by trials: a partition with a barrier, a model that breaks, a weight set, a late one."""
    swarm = Swarm("abc")
    policy = policy_of("elastic-gossip", Schedule(probability=1 / 4))
    for place, name in enumerate("abcdef"):
        member = swarm.add(name, policy, model=tiny_model(place))
        member.peer.examine_with(examine)

    async def scenario() -> None:
        for member in swarm.members:
            swarm.begin(member, 10**6)
        await asyncio.sleep(CUT + 5.0)
        for member in swarm.members:
            with torch.no_grad():
                for parameter in member.model.parameters():
                    parameter.fill_(1.0 if member.peer.peer in "abc" else -1.0)
        await asyncio.sleep(HEALED - CUT + 5.0)
        with torch.no_grad():
            next(swarm.members[1].model.parameters()).fill_(math.nan)
        swarm.members[2].peer.condition.override_weight(0.5)
        late = swarm.add("g", policy, newcomer=True)
        await swarm.join(late, 10**6)
        await asyncio.sleep(8.0)
        await asyncio.gather(swarm.leave(swarm.members[3]), swarm.leave(swarm.members[4]))
        await asyncio.sleep(3.0)

    return swarm.run(scenario)


def fragments_by_a_budget() -> Digests:
    """Parts of eighths in int8, on a budget; two were drained for a while, and one comes from a run of its own."""
    swarm = Swarm()
    policy = policy_of("elastic-gossip", Schedule(period=5))
    options = {"codec": "int8", "fragments": 4}
    for name in "abcd":
        budget = Budget(share=0.02) if name == "b" else None
        swarm.add(name, policy, budget=budget, **options).peer.examine_with(examine)
    alone = swarm.add("e", policy_of("none", Schedule(probability=0.0), "fixed"), run="alone")

    async def scenario() -> None:
        for member in swarm.members:
            swarm.begin(member, 10**6)
        await asyncio.sleep(6.0)
        for member in swarm.members[:2]:
            member.peer.condition.drain()
        alone.peer.adopt("test", policy, codec="int8", fragments=4)
        await asyncio.sleep(6.0)
        for member in swarm.members[:2]:
            member.peer.condition.undrain()
        await asyncio.sleep(10.0)
        await swarm.leave(swarm.members[0], 0.5)
        await asyncio.sleep(5.0)

    return swarm.run(scenario)


def centre_split_and_handed_over() -> Digests:
    """EASGD, weighed: two centres after a partition, one that stands by, one that comes late, and a centre that
    leaves."""
    swarm = Swarm("ab")
    policy = policy_of("easgd", Schedule(period=4))
    for place, name in enumerate("abcdef"):
        swarm.add(name, policy, newcomer=place > 0, standby=name == "f").peer.examine_with(examine)

    async def scenario() -> None:
        for member in swarm.members[:5]:
            swarm.begin(member, 10**6)
        swarm.begin(swarm.members[5], 0)
        await asyncio.sleep(HEALED + 10.0)
        late = swarm.add("g", policy, newcomer=True)
        await swarm.join(late, 10**6)
        await asyncio.sleep(5.0)
        holder = next(m for m in swarm.members if (status := m.peer.centre()) is not None and status.here)
        await swarm.leave(holder)
        await asyncio.sleep(8.0)

    return swarm.run(scenario)


def leaders_of_groups() -> Digests:
    """LSGD with two groups and the leader of all; one leader lies, one leaves."""
    swarm = Swarm("abc")

    def measure(snapshot: Snapshot) -> SnapshotLosses:
        return SnapshotLosses(3.0 if snapshot.origin == "d" else 1.0, 0.01, 1.0)

    leads = policy_of("lsgd", Schedule(period=8))._replace(global_rule=follow(0.25), global_period=32)
    for place, name in enumerate("abcdef"):
        member = swarm.add(name, leads, group="xy"[place % 2])
        member.peer.judge_leaders(measure)

    async def scenario() -> None:
        for member in swarm.members:
            swarm.begin(member, 10**6)
        await asyncio.sleep(HEALED + 5.0)
        swarm.members[3].loss = 0.25  # it lies
        await asyncio.sleep(8.0)
        await swarm.leave(swarm.members[0])
        await asyncio.sleep(5.0)

    return swarm.run(scenario)


RUNS: dict[str, Callable[[], Digests]] = {
    "elastic-gossip, chaos 244": chaos(244),
    "elastic-gossip, chaos 163": chaos(163),
    "gossip-pull, chaos 210": chaos(210),
    "gossip-push, chaos 377": chaos(377),
    "gosgd, chaos 96": chaos(96),
    "easgd, chaos 722": chaos(722),
    "eamsgd, chaos 287": chaos(287),
    "lsgd, chaos 710": chaos(710),
    "pairs judged, split and merged": pairs_judged_split_and_merged,
    "fragments by a budget": fragments_by_a_budget,
    "centre split and handed over": centre_split_and_handed_over,
    "leaders of groups": leaders_of_groups,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f'ARITHMETIC = "{arithmetic()}"')  # noqa: T201
    for name, run in RUNS.items():
        print(f'    "{name}": {run()!r},')  # noqa: T201
