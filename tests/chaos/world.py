"""Runs a plan: the peers, the faults at their times, and what is left when all is over."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from chaos.life import Birth, Disk, Life
from chaos.machines import OWNER, MachinesLoop, end_all, run_machines, start_process
from chaos.plan import (
    QUIET_FROM,
    SECONDS,
    Burst,
    Fault,
    Flood,
    Freeze,
    FullDisk,
    Join,
    Kill,
    Leave,
    Outage,
    Partition,
    Plan,
    Restart,
    Revoke,
    Trouble,
)
from chaos.strangers import flood
from chaos.tickets import PrivateRun
from chaos.weather import Weather
from p2p_elastic.protocol.roles import Role
from p2p_elastic.testing.virtual_network import SimulatedNetwork

LIMIT_SECONDS = 600.0  # virtual; a run that is not over by then hangs
SEEN_AT = QUIET_FROM + 40.0
GRACE_SECONDS = 20.0  # for what still waits for somebody who has gone
SETTLED_SECONDS = 0.01  # for what was due when a stopped process goes on


@dataclass
class Report:
    """All that a run showed."""

    plan: Plan
    lives: list[Life]
    weather: Weather
    networks: tuple[SimulatedNetwork, ...]
    injected: Counter[str] = field(default_factory=Counter)  # by kind of fault
    missed: Counter[str] = field(default_factory=Counter)  # whom it was meant for was not there any more
    hung: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()  # that nobody caught
    ages: dict[str, dict[str, float]] = field(default_factory=dict)  # of the records that each peer knew, at `SEEN_AT`
    left: tuple[str, ...] = ()  # tasks, streams and handlers of those that ended

    @property
    def survivors(self) -> list[Life]:
        """Those that were to train to their last step."""
        return [life for life in self.lives if not life.dead]

    @property
    def learners(self) -> list[Life]:
        """Of these, who was there in the quiet time at the end."""
        return [life for life in self.survivors if life.trained_until > QUIET_FROM + 30.0 and not life.sent_away]


class World:
    """One run of one plan, in virtual time."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._weather = Weather(plan.seed)
        direct = plan.setting.variant % 2 == 1  # in half of the settings
        self._network = SimulatedNetwork(judge=self._weather.judge, direct=direct)
        private = PrivateRun(*plan.setting.names[:2], self._weather.judge) if plan.setting.private else None
        self._private, self._networks = private, (self._network, *([private.network] if private else []))
        self._lives: list[Life] = []
        self._tasks: dict[Life, asyncio.Task[None]] = {}
        self._report = Report(plan, self._lives, self._weather, self._networks)
        self._errors: list[str] = []
        self._disks: defaultdict[str, Disk] = defaultdict(Disk)

    async def run(self) -> Report:
        """Everything, to its end."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, MachinesLoop)
        self._loop = loop
        loop.set_exception_handler(self._unhandled)
        for number, name in enumerate(self._plan.setting.names):
            self._begin(Birth(name, newcomer=number > 0, steps=self._steps(name, SECONDS), disk=self._disks[name]))
            await asyncio.sleep(0.1)
        await asyncio.gather(self._look_around(), *(self._inject(fault) for fault in self._plan.faults))
        await self._until_over()
        await self._look_what_is_left()
        self._report.errors = tuple(self._errors)
        return self._report

    # -- peers --------------------------------------------------------------------------------------------------------

    def _steps(self, name: str, seconds: float) -> int:
        return max(1, round(seconds / self._plan.setting.step_seconds(name)))

    def _begin(self, birth: Birth) -> None:
        context_owner = OWNER.set(birth.owner)  # what the constructor begins is the peer's, too
        life = Life(birth, self._plan.setting, self._network, self._weather, self._private)
        OWNER.reset(context_owner)
        self._lives.append(life)
        self._tasks[life] = start_process(birth.owner, life.live())

    def _now(self) -> float:
        return self._loop.time()

    def _living(self, name: str) -> Life | None:
        return next((life for life in self._lives if life.name == name and not self._over(life)), None)

    def _over(self, life: Life) -> bool:
        return life.dead or self._tasks[life].done()

    async def _until_over(self) -> None:
        while self._now() < LIMIT_SECONDS:
            pending = [self._tasks[life] for life in self._lives if not self._over(life)]
            if not pending:
                break
            await asyncio.wait(pending, timeout=LIMIT_SECONDS - self._now())
        self._report.hung = tuple(life.owner for life in self._lives if not self._over(life))
        for life in self._lives:
            if not life.dead and self._tasks[life].done() and self._tasks[life].exception() is not None:
                self._errors.append(f"{life.owner}: {self._tasks[life].exception()!r}")

    async def _look_around(self) -> None:
        await asyncio.sleep(SEEN_AT - self._now())
        for life in self._lives:
            if not self._over(life):
                self._report.ages[life.name] = {m.peer: m.age_seconds for m in life.peer.members()}

    # -- faults -------------------------------------------------------------------------------------------------------

    async def _inject(self, fault: Fault) -> None:
        await asyncio.sleep(max(0.0, fault.at - self._now()))
        kind = type(fault).__name__.lower()
        handler = self.HANDLERS[type(fault)]
        needed = [getattr(fault, field, None) for field in ("peer", "founder")]
        if not isinstance(fault, Join) and any(name is not None and self._living(name) is None for name in needed):
            self._report.missed[kind] += 1
            return
        self._report.injected[kind] += 1
        await handler(self, fault)

    async def _kill(self, fault: Kill) -> None:
        await self._end(fault.peer, silent=fault.silent)

    async def _end(self, name: str, *, silent: bool) -> None:
        life = self._living(name)
        assert life is not None
        life.dead = True
        self._loop.stop_process(life.owner)
        if silent:
            self._weather.dark.add(name)
        else:
            for network in self._networks:
                await network.transport(name).close()  # the kernel closes what it had open

    async def _restart(self, fault: Restart) -> None:
        number = sum(life.name == fault.peer for life in self._lives)
        await self._end(fault.peer, silent=False)
        await asyncio.sleep(fault.after)
        self._begin(replace(self._late(fault.peer, number, fault.clock_error), resumes=fault.resumes))
        if self._lives[-1].resumed:
            self._weather.given["resumed"] += 1

    def _late(self, name: str, number: int, clock_error: float) -> Birth:
        steps = self._steps(name, SECONDS - self._now())
        return Birth(name, number, clock_error=clock_error, steps=steps, disk=self._disks[name])

    async def _full_disk(self, fault: FullDisk) -> None:
        disk = self._disks[fault.peer]
        disk.full, before = True, disk.refused
        await asyncio.sleep(fault.seconds)
        disk.full = False
        self._weather.given["disk full"] += disk.refused - before

    async def _freeze(self, fault: Freeze) -> None:
        life = self._living(fault.peer)
        assert life is not None
        self._loop.stop_process(life.owner)
        await asyncio.sleep(fault.seconds)
        if not life.dead:
            self._loop.continue_process(life.owner)

    async def _leave(self, fault: Leave) -> None:
        life = self._living(fault.peer)
        assert life is not None
        life.asked_to_leave = True

    async def _revoke(self, fault: Revoke) -> None:
        founder, life = self._living(fault.founder), self._living(fault.peer)
        assert life is not None
        assert founder is not None
        assert founder.access is not None
        founder.access.revoke(fault.peer)
        life.revoked_at = self._now()

    async def _join(self, fault: Join) -> None:
        self._begin(self._late(fault.peer, 0, fault.clock_error))

    async def _burst(self, fault: Burst) -> None:
        for number in range(fault.peers):
            name = self._plan.setting.name(f"burst at {fault.at} {number}")  # two bursts may meet
            self._begin(Birth(name, steps=fault.steps, role=Role.TRAINER))
            await asyncio.sleep(2.0 / fault.peers)

    async def _partition(self, fault: Partition) -> None:
        await self._while(self._weather.partitions, fault, fault.seconds)

    async def _trouble(self, fault: Trouble) -> None:
        await self._while(self._weather.troubles, fault, fault.seconds)

    async def _outage(self, fault: Outage) -> None:
        await self._while(self._weather.outages, fault, fault.seconds)

    async def _while(self, conditions: list[Any], fault: Fault, seconds: float) -> None:
        conditions.append(fault)
        await asyncio.sleep(seconds)
        conditions.remove(fault)

    async def _flood(self, fault: Flood) -> None:
        life = self._living(fault.peer)
        assert life is not None
        await flood(
            self._network,
            fault.peer,
            range(round(1000 * fault.at), round(1000 * fault.at) + fault.streams),
            life.vector,
        )

    HANDLERS: Mapping[type[Any], Callable[[World, Any], Awaitable[None]]] = {
        Kill: _kill,
        Restart: _restart,
        FullDisk: _full_disk,
        Freeze: _freeze,
        Leave: _leave,
        Revoke: _revoke,
        Join: _join,
        Burst: _burst,
        Partition: _partition,
        Trouble: _trouble,
        Outage: _outage,
        Flood: _flood,
    }

    # -- the end ------------------------------------------------------------------------------------------------------

    def _unhandled(self, _loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        self._errors.append(f"{context.get('message')}: {context.get('exception')!r}")

    async def _look_what_is_left(self) -> None:
        await asyncio.sleep(GRACE_SECONDS)
        ended = [life for life in self._lives if not life.dead]
        names = {life.name for life in ended}
        tasks = [f"task of {life.owner}: {task}" for life in ended for task in self._loop.tasks_of(life.owner)]
        held = [name for network in self._networks for name, open_ in network.streams.items() if open_]
        streams = [f"stream of {name}" for name in held if name in names]
        handlers = [f"handler of {name}" for net in self._networks for name in net.handlers if name in names]
        self._report.left = (*tasks, *streams, *handlers)
        for life in self._lives:
            self._loop.continue_process(life.owner)
        await asyncio.sleep(SETTLED_SECONDS)  # Python 3.10 loses a cancellation that comes with a deadline
        await end_all([task for life in self._lives for task in self._loop.tasks_of(life.owner)])
        gc.collect(0)  # a task that failed says so when it is forgotten


def run_plan(plan: Plan) -> Report:
    """Run this plan in virtual time."""
    torch.set_num_threads(1)
    return run_machines(World(plan).run())
