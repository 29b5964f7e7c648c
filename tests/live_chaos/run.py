"""Real peers, troubled by a plan, and what must hold in the end."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from helpers.forking import launch
from live_chaos import verdict
from live_chaos.disk import SmallDisk
from live_chaos.lives import Life, Watcher, free_port, say, start
from live_chaos.namespaces import Namespaces
from live_chaos.plan import Fault
from live_chaos.proxy import Proxies, Trouble
from live_chaos.verdict import Report

from p2p_elastic.demo.processes import Swarm
from p2p_elastic.errors import P2PElasticError
from p2p_elastic.node.config import JoinConfig

START_SECONDS = 120.0
AGAIN_SECONDS = 120.0  # until everybody exchanges again after the last fault: libp2p waits before it dials anew
EXCHANGES_AGAIN = 3
END_SECONDS = 45.0
ALIVE_MAX = 6  # at a time: each takes half a gigabyte and seconds of a core to load PyTorch
TEMPORARY = "tmp"


@dataclass(frozen=True)
class Settings:
    """How the swarm is."""

    folder: Path
    peers: int = 4
    task: str = "digits"
    data_dir: str | None = None
    seed: int = 1
    rest: float = 0.005  # seconds after each step
    burst: int = 3  # peers that come and go in each burst
    namespaces: bool = False  # instead of proxies
    clock: float = 0.0  # seconds by which the clocks of every other peer are wrong, alternately fast and slow
    slow_disk: float = 0.0  # seconds that each fsync and rename of the last peer take longer
    small_disk: bool = False  # the last peer writes to a disk that can be full


@dataclass
class _Slot:
    """One peer: it may live several times."""

    index: int
    identity: Path
    port: int
    announce: int | None = None
    lives: list[Life] = field(default_factory=list)
    identities: int = 0
    stopped: list[psutil.Process] = field(default_factory=list)

    @property
    def life(self) -> Life:
        return self.lives[-1]

    @property
    def name(self) -> str:
        return f"peer-{self.index + 1}"


class Chaos:
    """A swarm with a plan. Enter it, `begin`, `carry_out`, `end`; leaving it removes everything."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.report = settings, Report()
        self._rng = random.Random(settings.seed)
        self._stack = contextlib.ExitStack()
        self._slots: list[_Slot] = []
        self._guests: list[Life] = []
        self._due: list[tuple[float, Callable[[], None]]] = []
        self._disk: SmallDisk | None = None
        self._number = 0

    def __enter__(self) -> Chaos:
        settings, enter = self.settings, self._stack.enter_context
        settings.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._namespaces = enter(Namespaces(settings.peers)) if settings.namespaces else None
            self._proxies = None if settings.namespaces else enter(Proxies(settings.seed))
            if settings.small_disk:
                self._disk = enter(SmallDisk(settings.folder / "disk"))
            enter(_temporary_folder(settings.folder / TEMPORARY))
            self._watcher = enter(Watcher())
            self._swarm = enter(Swarm(settings.folder, launch=launch))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for slot in self._slots:
            for process in slot.stopped:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signal.SIGCONT)
        self._stack.close()

    # -- the swarm ----------------------------------------------------------------------------------------------------

    @property
    def _everyone(self) -> list[Life]:
        return [*(life for slot in self._slots for life in slot.lives), *self._guests]

    @property
    def _alive(self) -> list[Life]:
        return [life for life in self._everyone if life.over is None]

    def begin(self) -> None:
        """Start all peers and wait until each exchanged."""
        for i in range(self.settings.peers):
            slot = _Slot(i, self.settings.folder / f"identity-{i + 1}.0", free_port())
            if self._proxies is not None:
                slot.announce = self._proxies.add(slot.name, slot.port)
            self._slots.append(slot)
            self._start(slot)
            if i == 0:
                self._until(lambda: slot.life.peer is not None, "starting the founder", START_SECONDS)  # noqa: B023
        self._until(lambda: all(len(s.life.completed()) >= 2 for s in self._slots), "exchanging", START_SECONDS)
        say(f"{len(self._slots)} peers exchange")

    def _start(self, slot: _Slot) -> None:
        settings, last = self.settings, slot.index == self.settings.peers - 1
        before = slot.lives[-1] if slot.lives else None
        options: dict[str, Any] = {"rest": settings.rest}
        if settings.clock and slot.index % 2:
            options["clock"] = settings.clock * (-1 if slot.index % 4 == 1 else 1)
        if last and settings.slow_disk:
            options["fsync"] = settings.slow_disk
        if self._namespaces is not None:
            options["namespace"] = self._namespaces.name(slot.index)
        self._number += 1
        folder = settings.folder / f"{slot.name}.{self._number}"
        output = self._disk.folder / folder.name if last and self._disk is not None else None
        arguments = [*self._common(slot), *self._place(slot)]
        if before is not None and before.over != "left" and _can_resume(before):
            arguments += ["--resume", str(before.output)]  # who it is and what it trains on is all there
            output = before.output
        else:
            arguments += ["--shard", f"{slot.index + 1}/{settings.peers}", "--identity", str(slot.identity)]
        say(f"          {slot.name} starts{', resuming' if '--resume' in arguments else ''}")
        slot.lives.append(start(self._swarm, folder, slot.name, arguments, options, output))
        self._watcher.lives.append(slot.life)

    def _common(self, of: _Slot | None = None) -> list[str]:
        settings = self.settings
        data = [] if settings.data_dir is None else ["--data-dir", settings.data_dir]
        return ["--steps", "100000000", *_checkpoints(), *data, *self._way_in(of)]

    def _way_in(self, of: _Slot | None) -> list[str]:
        """To whom to go: all others that said where they are; the founder is told what to train."""
        known = [a for slot in self._slots if slot is not of for life in slot.lives[-1:] for a in _addresses(life)]
        task = ["--task", self.settings.task, "--run", "chaos", "--seed", str(self.settings.seed)]
        return task if not known else [word for a in known for word in ("--initial-peer", a)]

    def _place(self, slot: _Slot) -> list[str]:
        if self._namespaces is not None:
            return ["--host", self._namespaces.address(slot.index), "--port", str(slot.port)]
        return ["--port", str(slot.port), "--announce", f"/ip4/127.0.0.1/tcp/{slot.announce}"]

    def _until(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not condition():
            self._listen(0.2)
            if time.monotonic() > end:
                raise P2PElasticError(f"{what} took longer than {seconds:.0f} s")

    # -- the plan -----------------------------------------------------------------------------------------------------

    def carry_out(self, plan: list[Fault]) -> None:
        """Do what the plan says, each at its time, and undo it."""
        began = time.monotonic()
        self._due = [(began + fault.at, _bound(self._inject, fault)) for fault in plan]
        while self._due:
            self._due.sort(key=lambda entry: entry[0])
            at, action = self._due[0]
            if (left := at - time.monotonic()) > 0:
                self._listen(left)
                continue
            del self._due[0]
            action()
        self.report.facts["seconds of chaos"] = round(time.monotonic() - began, 1)

    def _listen(self, seconds: float) -> None:
        self._swarm.listen(min(seconds, 0.2))
        for life in self._alive:
            code = life.process.child.poll()
            if code is not None:
                life.over = "failed"
                self._swarm.processes.remove(life.process)
                self.report.wrong.append(f"{life.process.name} ended by itself with exit code {code}")

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        self._due.append((time.monotonic() + seconds, action))

    def _inject(self, fault: Fault) -> None:
        slot = self._slots[fault.victim]
        done = getattr(self, "_do_" + fault.kind.replace("-", "_"))(slot, fault)
        (self.report.injected if done else self.report.passed_over)[fault.kind] += 1
        say(f"{fault}{'' if done else '   (not now: the peer is not there)'}")

    def _do_kill(self, slot: _Slot, fault: Fault) -> bool:
        if not slot.life.trains():
            return False
        self._kill(slot.life)
        self._later(fault.seconds, lambda: self._start(slot))
        return True

    def _kill(self, life: Life) -> None:
        life.process.child.kill()
        life.process.child.wait()
        life.over = "killed"
        self._swarm.processes.remove(life.process)

    def _do_kill_daemon(self, slot: _Slot, fault: Fault) -> bool:
        daemons = slot.life.daemons()
        for daemon in daemons:
            daemon.kill()
        return bool(daemons)

    def _do_stop(self, slot: _Slot, fault: Fault) -> bool:
        return slot.life.trains() and self._stop(slot, [psutil.Process(slot.life.pid)], fault.seconds)

    def _do_stop_daemon(self, slot: _Slot, fault: Fault) -> bool:
        return slot.life.trains() and self._stop(slot, slot.life.daemons(), fault.seconds)

    def _stop(self, slot: _Slot, processes: list[psutil.Process], seconds: float) -> bool:
        def go_on() -> None:
            for process in processes:
                slot.stopped.remove(process)
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGCONT)

        for process in processes:
            process.send_signal(signal.SIGSTOP)
        slot.stopped += processes
        self._later(seconds, go_on)
        return bool(processes)

    def _do_leave(self, slot: _Slot, fault: Fault) -> bool:
        """It leaves as asked; a new peer joins late in its place."""
        if not slot.life.trains():
            return False
        self._leave(slot.life)
        slot.identities += 1
        slot.identity = self.settings.folder / f"identity-{slot.index + 1}.{slot.identities}"
        self._later(fault.seconds, lambda: self._start_when_gone(slot))
        return True

    def _start_when_gone(self, slot: _Slot) -> None:
        if slot.life.process.child.poll() is None:  # its port and its proxy are still taken
            self._later(0.5, lambda: self._start_when_gone(slot))
            return
        self._start(slot)

    def _leave(self, life: Life) -> None:
        life.process.child.terminate()
        life.over = "left"

    def _do_burst(self, slot: _Slot, fault: Fault) -> bool:
        """Several come at once, and go in every way and at any moment, before they train or after."""
        count = min(self.settings.burst, ALIVE_MAX - len(self._alive))
        for _ in range(count):
            self._number += 1
            options: dict[str, Any] = {"rest": self.settings.rest}
            if self._namespaces is not None:
                options["namespace"] = self._namespaces.name(slot.index)
            place = [] if self._namespaces is None else ["--host", self._namespaces.address(slot.index)]
            folder = self.settings.folder / f"guest.{self._number}"
            life = start(self._swarm, folder, "guest", [*self._common(), *place], options)
            self._watcher.lives.append(life)
            self._guests.append(life)
            end = self._kill_guest if self._rng.random() < 0.5 else self._leave_guest
            self._later(self._rng.uniform(4.0, 14.0), _bound(end, life))
        self.report.injected["guests"] += count
        return count > 0

    def _kill_guest(self, life: Life) -> None:
        if life.over is None:
            self._kill(life)

    def _leave_guest(self, life: Life) -> None:
        if life.over is None and "listening" in life.process.said:  # before that nobody listens for a signal
            self._leave(life)
        elif life.over is None:
            self._later(1.0, lambda: self._leave_guest(life))

    def _do_full_disk(self, slot: _Slot, fault: Fault) -> bool:
        if self._disk is None:
            return False
        self._disk.fill()
        self._later(fault.seconds, self._disk.empty)
        return True

    def _do_cut(self, slot: _Slot, fault: Fault) -> bool:
        return self._trouble(slot, fault, Trouble("cut"))

    def _do_hole(self, slot: _Slot, fault: Fault) -> bool:
        return self._trouble(slot, fault, Trouble("hole"))

    def _do_delay(self, slot: _Slot, fault: Fault) -> bool:
        return self._trouble(slot, fault, Trouble("delay", self._rng.uniform(0.05, 0.5)))

    def _do_corrupt(self, slot: _Slot, fault: Fault) -> bool:
        return self._trouble(slot, fault, Trouble("corrupt", 0.1))

    def _trouble(self, slot: _Slot, fault: Fault, trouble: Trouble) -> bool:
        proxies, ends = self._proxies, (slot.name, self._slots[fault.other].name)
        if proxies is None:
            return False
        proxies.trouble(*ends, trouble)
        self._later(fault.seconds, lambda: proxies.trouble(*ends, None))
        return True

    def _do_part(self, slot: _Slot, fault: Fault) -> bool:
        """Two halves, of which one has the victim, do not reach each other."""
        indices = [s.index for s in self._slots if s is not slot]
        half = sorted([slot.index, *self._rng.sample(indices, len(self._slots) // 2 - 1)])
        rest = [i for i in range(len(self._slots)) if i not in half]
        if self._namespaces is not None:
            self._namespaces.part([half, rest])
            self._later(fault.seconds, self._namespaces.heal)
            return True
        proxies = self._proxies
        assert proxies is not None
        pairs = [(self._slots[a].name, self._slots[b].name) for a in half for b in rest]
        for pair in pairs:
            proxies.trouble(*pair, Trouble("hole"))

        def join() -> None:
            for pair in pairs:
                proxies.trouble(*pair, None)

        self._later(fault.seconds, join)
        return True

    def _do_unplug(self, slot: _Slot, fault: Fault) -> bool:
        namespaces = self._namespaces
        if namespaces is None:
            return False
        namespaces.unplug(slot.index)
        self._later(fault.seconds, lambda: namespaces.unplug(slot.index, plugged=True))
        return True

    # -- the end ------------------------------------------------------------------------------------------------------

    def end(self) -> Report:
        """Wait until everybody exchanges again, end all, and look at what is left."""
        report, settings, began = self.report, self.settings, time.monotonic()
        survivors = [slot.life for slot in self._slots if slot.life.over is None]

        def again() -> bool:
            return all(len(life.completed(began)) >= EXCHANGES_AGAIN for life in survivors if life.over is None)

        try:
            self._until(again, "exchanging again", AGAIN_SECONDS)
        except P2PElasticError as error:
            counts = {life.process.name: len(life.completed(began)) for life in survivors}
            report.wrong.append(f"{error}: exchanges since the last fault: {counts}")
        report.facts["seconds until all exchange again"] = round(time.monotonic() - began, 1)
        if self._proxies is not None:
            verdict.check_proxies(report, self._proxies, [s.life for s in self._slots], {s.port for s in self._slots})
        survivors = [life for life in survivors if life.over is None]
        for life in survivors:
            life.process.child.terminate()
        self._await_ends()
        verdict.check_lives(report, self._everyone)
        verdict.check_leftovers(report, self._everyone, self._watcher, settings.folder / TEMPORARY)
        verdict.check_memory(report, self._watcher)
        verdict.check_accuracy(report, survivors, settings.task, settings.data_dir)
        if self._disk is not None:
            report.facts["times that the disk was full"] = self._disk.full
        if self._proxies is not None:
            report.facts["proxies"] = dict(self._proxies.done)
        return report

    def _await_ends(self) -> None:
        end = time.monotonic() + END_SECONDS
        while time.monotonic() < end:
            self._swarm.listen(0.1)
            waited = [life for life in self._everyone if life.over != "killed"]
            if all(life.process.child.poll() is not None and life.process.silent for life in waited):
                break
        self._swarm.listen(0.2)


def _addresses(life: Life) -> list[str]:
    return list(life.process.said.get("listening", {}).get("addresses", ())[:1])


def _bound(action: Callable[..., None], value: object) -> Callable[[], None]:
    return lambda: action(value)


def _checkpoints() -> list[str]:
    return ["--checkpoint-every", "500"] if "checkpoint_every" in JoinConfig.model_fields else []


def _can_resume(before: Life) -> bool:
    """Whether there is such an option, and that life left anything to resume from."""
    return "resume" in JoinConfig.model_fields and any(before.output.glob("checkpoint/*/checkpoint.json"))


@contextlib.contextmanager
def _temporary_folder(folder: Path) -> Iterator[None]:
    """Where our processes put what is temporary, so that we see what they leave."""
    folder.mkdir(parents=True)
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before
        shutil.rmtree(folder, ignore_errors=True)


def live_through(settings: Settings, plan: list[Fault], undisturbed: float | None = None) -> Report:
    """Start a swarm, do to it what the plan says, end it, and say what is wrong with it."""
    with Chaos(settings) as chaos:
        chaos.begin()
        chaos.carry_out(plan)
        report = chaos.end()
        if undisturbed is not None:
            verdict.check_against(report, undisturbed)
    return report
