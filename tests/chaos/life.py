"""One life of one peer: from its start to its last step, or to its death."""

from __future__ import annotations

import asyncio
import math
import random
from dataclasses import dataclass, field

from helpers.private_runs import VirtualHost
from torch import Tensor

from chaos.learning import Learner, accuracy, new_model
from chaos.machines import MachinesLoop, end_all
from chaos.observe import Observer, WatchedVector
from chaos.plan import Setting
from chaos.tickets import CLOCK, RUN, AdmittedDirectory, AdmittedTransport, PrivateRun
from chaos.weather import Weather, WeatheredDirectory
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.admission.access_list import AccessList, AccessMemory
from p2p_elastic.peers.admission.introductions import Introductions
from p2p_elastic.peers.membership.run_context import RunContext
from p2p_elastic.peers.peer import Peer
from p2p_elastic.peers.session.conversation import Limits
from p2p_elastic.peers.state.peer_memory import PeerMemory
from p2p_elastic.peers.transport.interfaces import Directory, Handler, Transport
from p2p_elastic.protocol.roles import Role
from p2p_elastic.rules.methods import find_method
from p2p_elastic.rules.policy import Policy
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.status.events import EventLog
from p2p_elastic.testing.virtual_network import SimulatedNetwork, SimulatedTransport
from p2p_elastic.testing.virtual_stream import SimulatedStream

PERIOD = 14  # steps
LEAVE_SECONDS = 20.0
CHECKPOINT_STEPS = 10
UNTRAINED_LOSS = math.log(2.0)  # nats
LEDGER_ENTRIES = 32  # fewer than a flood has streams


def policy_of(rule: str) -> Policy:
    """The run's policy, with the method's own numbers."""
    method = find_method(rule)
    return Policy(method.rule(method.moving_rate), Schedule(period=PERIOD), method.topology, method.flow)


@dataclass
class Disk:
    """What one machine keeps while nobody runs on it: the last checkpoint that could be written."""

    full: bool = False
    refused: int = 0
    checkpoint: tuple[str, Tensor, Tensor | None] | None = None  # memory as JSON, parameters [D], centre variable [D]
    admission: AccessMemory | None = None

    def save(self, peer: Peer, parameters: Tensor) -> None:
        """As `--checkpoint-every` does; the store itself has tests of its own."""
        if self.full:
            self.refused += 1
        else:
            self.checkpoint = peer.memory().model_dump_json(), parameters, peer.centre_value()

    def keep(self, access: AccessList) -> None:
        """As `join` does whenever something changed."""
        if not self.full:
            self.admission = access.memory()


@dataclass(frozen=True)
class Birth:
    """How a life begins. `number` counts the lives of one identity."""

    name: str
    number: int = 0
    newcomer: bool = True
    clock_error: float = 0.0
    steps: int = 0
    role: Role = Role.CENTRE
    disk: Disk = field(default_factory=Disk)
    resumes: bool = False

    @property
    def owner(self) -> str:
        return f"{self.name}/{self.number}"


class OwnedTransport:
    """A simulated transport whose handler runs in the process of its peer, not in that of whoever calls."""

    def __init__(self, transport: SimulatedTransport, owner: str) -> None:
        self._transport, self._owner, self.peer = transport, owner, transport.peer
        self.open, self.close, self.direct = transport.open, transport.close, transport.direct
        self.access = transport.access

    async def serve(self, handler: Handler) -> None:
        async def owned(stream: SimulatedStream) -> None:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, MachinesLoop)
            loop.own(self._owner)
            await asyncio.sleep(0)  # a process that is stopped does not begin, either
            await handler(stream)

        await self._transport.serve(owned)  # type: ignore[arg-type]


class Life:
    """A peer that trains so many steps and leaves, unless something comes between."""

    def __init__(
        self,
        birth: Birth,
        setting: Setting,
        network: SimulatedNetwork,
        weather: Weather,
        private: PrivateRun | None = None,
    ) -> None:
        self.birth, self.name, self.owner = birth, birth.name, birth.owner
        self.model = new_model()
        saved = birth.disk.checkpoint if birth.resumes else None
        memory = None if saved is None else PeerMemory.model_validate_json(saved[0])
        if saved is not None:
            ParameterVector(self.model).load_(saved[1])
        self.vector = WatchedVector(self.model)
        self.access: AccessList | None = None
        self._transport: Transport = OwnedTransport(network.transport(birth.name), birth.owner)  # type: ignore[assignment]
        directory: Directory = WeatheredDirectory(network.directory(birth.name), weather)
        if private is not None:
            beside: Transport = OwnedTransport(private.network.transport(birth.name), birth.owner)  # type: ignore[assignment]
            admitted = birth.disk.admission if birth.resumes else None
            access = self.access = private.access(birth.name, birth.role, admitted)
            access.changed = lambda: birth.disk.keep(access)
            introductions = Introductions(VirtualHost(beside), access, random.Random(birth.owner))
            self._transport = AdmittedTransport(self._transport, beside, introductions)
            directory = AdmittedDirectory(directory, private, introductions)
        now = asyncio.get_running_loop().time()
        self.events = EventLog(lambda: 0.0)
        self.peer = Peer(
            vector=self.vector,
            policy=policy_of(setting.rule),
            transport=self._transport,
            directory=directory,
            context=RunContext(
                run=RUN,
                newcomer=birth.newcomer and saved is None,
                # As `join` does, by its clock.
                first_sequence=max(
                    int((CLOCK + now + birth.clock_error) * 1000), 0 if memory is None else memory.sequence + 10_000
                ),
            ),
            seed=setting.variant,
            limits=Limits(ledger_entries=LEDGER_ENTRIES),
            events=self.events,
        )
        self.resumed = memory is not None
        if saved is not None and memory is not None:
            self.peer.restore(memory, centre=saved[2])
        self._last_step = self.peer.step + birth.steps
        self.observer = Observer(self.peer, self.vector)
        self._learner = Learner(self.model, f"{setting.variant} {birth.owner} examples")
        self.began, self.ended_at = now, 0.0
        self.asked_to_leave = self.dead = False
        self.revoked_at: float | None = None
        self.failure: str | None = None  # of the network loop, which must not end
        self.step_seconds = setting.step_seconds(birth.name)
        self.trained_until = 0.0

    @property
    def sent_away(self) -> bool:
        """Whether it was to leave, or its ticket was revoked."""
        return self.asked_to_leave or self.revoked_at is not None

    @property
    def accuracy(self) -> float:
        return accuracy(self.model)

    @property
    def unseen(self) -> bool:
        """Whether others may take its records for replays: it began anew with its clock behind."""
        return self.birth.number > 0 and self.birth.clock_error < 0.0 and not self.resumed

    @property
    def leads(self) -> bool:
        """Whether others follow this peer, which then asks nobody (LSGD)."""
        leaders = self.peer.leaders()
        return leaders is not None and leaders.leader == self.name

    async def live(self) -> None:
        """Train, leave, and end everything that was begun."""
        run = asyncio.ensure_future(self.peer.run())
        try:
            await self._catch_up()
            await self._train(run)
            await self._leave()
        finally:
            await end_all([run])
            await self._transport.close()
            self.ended_at = asyncio.get_running_loop().time()

    async def _catch_up(self) -> None:
        """As `join` does before the first step."""
        if self.peer.joining() is None:
            return
        self.peer.report_untrained_loss(UNTRAINED_LOSS)
        found = await self.peer.catch_up(UNTRAINED_LOSS)
        if found is not None:
            self.peer.begin_with(found)
            self.vector.changes.pop()  # no exchange's

    async def _train(self, run: asyncio.Task[None]) -> None:
        while self.peer.step < self._last_step and not self.asked_to_leave:
            await asyncio.sleep(self.step_seconds)
            if run.done() and self.failure is None:
                self.failure = f"the network loop ended: {run.exception()!r}"
            self.peer.report_loss(self._learner.step())
            if self.peer.after_step():
                self._learner.forget()
            if self.peer.step % CHECKPOINT_STEPS == 0:
                self.peer.settle()
                self.birth.disk.save(self.peer, self.vector.snapshot(self.vector.empty()))
            if self.leads:
                self.observer.times.append(asyncio.get_running_loop().time())
        self.trained_until = asyncio.get_running_loop().time()

    async def _leave(self) -> None:
        """As `join` does: serve the exchange under way, for a while."""
        leaving = asyncio.ensure_future(self.peer.leave(LEAVE_SECONDS))
        while not leaving.done():
            self.peer.settle()
            await asyncio.wait({leaving}, timeout=0.05)
        leaving.result()
        self.peer.settle()
