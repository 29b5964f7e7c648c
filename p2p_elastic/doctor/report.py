"""The whole look at this machine: everything that `join` will need, one after the other. Changes nothing."""

from __future__ import annotations

import contextlib
import platform
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2p_elastic.common.addresses import host_of
from p2p_elastic.common.machine import cores, device_vectors, free_memory
from p2p_elastic.common.stop import Stop
from p2p_elastic.doctor import probes
from p2p_elastic.doctor.checks import (
    PACKAGES,
    Finding,
    check_cpu,
    check_daemon,
    check_device,
    check_disk,
    check_memory,
    check_packages,
    check_python,
    check_pytorch,
    disk_vectors,
    failure,
    ok,
    warning,
)
from p2p_elastic.doctor.reachability import (
    PortProblem,
    check_addresses,
    check_direct_port,
    check_http_host,
    check_port,
    check_reachable,
)
from p2p_elastic.errors import ConfigError, NetworkError

if TYPE_CHECKING:  # PyTorch and hivemind may be what is broken
    from p2p_elastic.doctor.network import Session
    from p2p_elastic.node.config import JoinConfig
    from p2p_elastic.protocol.manifest import RunManifest
    from p2p_elastic.tasks import Task

Doing = Callable[[str], object]


class Examination:
    """One look at this machine, in the order of its methods.

    Args:
        file: a TOML file with options of `join`, or None.
        given: options of `join`; they win.
        doing: told what is looked at next.
        stop: the user's wish to stop.
        link: the rate of the link to others each way, in bytes per second, and the seconds of a step; None: not
            looked at.
    """

    def __init__(
        self,
        file: Path | None,
        given: Mapping[str, Any],
        doing: Doing,
        stop: Stop,
        link: tuple[float, float] | None = None,
    ) -> None:
        self._file, self._given, self._doing, self._stop, self._link = file, given, doing, stop, link
        self._manifest: RunManifest | None = None
        self._config: JoinConfig

    def findings(self) -> Generator[Finding, None, None]:
        """Look at everything, and give each finding as soon as it is there.

        Yields:
            Findings; if the software is broken, only those about the software.

        Raises:
            ConfigError: if an option is out of range.
            KeyboardInterrupt: on the wish to stop.
        """
        free = free_memory()  # before this process takes its own
        broken = False
        for finding in self._software():
            broken = broken or finding.level == "failure"
            yield finding
        if broken:
            yield warning("network", "not looked at: the software comes first", "put that right, and ask again")
            return
        from p2p_elastic.node.config import load_config
        from p2p_elastic.parameters.devices import build_here

        self._config = load_config(self._file, self._given)
        if self._config.resume is not None:  # from the file
            raise ConfigError("resume", str(self._config.resume), "leave it out: the doctor reads no checkpoint")
        yield check_pytorch(build_here(), probes.cuda(), platform.machine())
        yield check_cpu(cores(), probes.load())
        port_problem = yield from self._ports()
        yield from self._key_files()
        yield from self._network(port_problem)
        yield from self._task(free)

    # -- this machine -------------------------------------------------------------------------------------------------

    def _software(self) -> Iterator[Finding]:
        yield check_python(sys.version_info[:3])
        found = {}
        with self._stop.interruptible():
            for name, package in probes.packages():
                found[name] = package
                self._doing(f"importing packages, {len(found)} of {len(PACKAGES)}")
        yield from check_packages(found)
        yield check_daemon(*probes.daemon())

    def _ports(self) -> Generator[Finding, None, PortProblem | None]:
        from p2p_elastic.node.config import HTTP_PORT, PORT
        from p2p_elastic.peers.transport.ports import port_after

        config = self._config
        port, http_port = _or(config.port, PORT), _or(config.http_port, HTTP_PORT)
        problem = probes.port_problem(config.host, port)
        yield check_port("port", "--port", port, config.port is not None, problem)
        if not config.no_direct:
            direct_port = _or(config.direct_port, port_after(port))
            of_direct = probes.port_problem(config.host, direct_port)
            yield check_direct_port(direct_port, config.direct_port is not None, of_direct)
        of_http = probes.port_problem(config.http_host, http_port)
        yield check_port("http", "--http-port", http_port, config.http_port is not None, of_http)
        if (finding := check_http_host(config.http_host)) is not None:
            yield finding
        return problem

    def _key_files(self) -> Iterator[Finding]:
        from p2p_elastic.api.token import load_or_create
        from p2p_elastic.peers.transport.identity import Identity

        config = self._config
        if config.identity is not None:
            yield _key_file("identity", "--identity", config.identity, Identity.load_or_create)
        if config.http_token_file is not None:
            yield _key_file("token", "--http-token-file", config.http_token_file, load_or_create)

    # -- the network --------------------------------------------------------------------------------------------------

    def _network(self, problem: PortProblem | None) -> Iterator[Finding]:
        from p2p_elastic.doctor.network import Invited, open_session, valid_addresses
        from p2p_elastic.node.config import PORT

        config = self._config
        initial, findings = valid_addresses(config.initial_peer, "initial-peer")
        announce, more = valid_addresses(config.announce, "announce")
        yield from (*findings, *more)
        port = 0 if problem else _or(config.port, PORT)
        if problem and problem.kind == "host":
            return
        self._doing("starting libp2p")
        try:
            invited = None if config.invite is None else Invited(config.invite, config.identity)
            with open_session(config.host, port, initial, announce, self._stop, invited) as session:
                yield ok("libp2p", "p2pd starts and answers")
                yield from self._initial_peers(session, initial)
                session.refresh_addresses()
                addresses = session.addresses
        except (ConfigError, NetworkError) as error:
            again = "see why p2pd does not start, or reinstall hivemind"
            yield failure("libp2p", str(error), again if isinstance(error, NetworkError) else "put that right")
            return
        own = frozenset(host_of(a) for a in addresses if probes.is_own(host_of(a)))
        yield from check_addresses(addresses, own, bool(announce))
        yield check_reachable(addresses, announce, config.port)

    def _initial_peers(self, session: Session, addresses: list[str]) -> Iterator[Finding]:
        from p2p_elastic.doctor.network import check_reaches, check_run, choose

        if not addresses:
            return
        self._doing("dialling the initial peers")
        reaches = session.reach(addresses)
        yield from check_reaches(reaches, session.clock_ahead)
        if all(reach.problem is not None for reach in reaches):
            return
        if session.is_private():
            advice = "ask its founder, or a member that may, for a line, and give it with --invite"
            yield failure("run", "the initial peer's run is private", advice)
            return
        self._doing("looking for the run")
        self._manifest, findings = choose(session.runs(), self._config.run, session.refused)
        yield from findings
        if self._manifest is not None:
            yield from check_run(self._manifest, session.members(self._manifest.run), self._config)

    # -- the task -----------------------------------------------------------------------------------------------------

    def _task(self, free: int | None) -> Iterator[Finding]:
        from p2p_elastic.checkpoint.saver import Interval
        from p2p_elastic.doctor import task as doctor_task
        from p2p_elastic.node.config import DEFAULT_TASK
        from p2p_elastic.parameters.devices import choose_device
        from p2p_elastic.tasks import find_task, named_task
        from p2p_elastic.tasks.folders import data_folder

        given = name = self._config.task
        if self._manifest is None and name is None and self._config.initial_peer:
            text = "what would be trained is not known, so memory, disk and data were not looked at"
            yield warning("task", text, "ask again when an initial peer answers, or with --task NAME")
            return
        try:
            task = find_task(name or DEFAULT_TASK) if self._manifest is None else named_task(self._manifest.task, given)
            device = choose_device(self._config.device)
        except ConfigError as error:
            if self._manifest is None or error.key == "device":
                yield failure(error.key, str(error), "see `p2p-elastic tasks`, and leave --device out to take the best")
            return
        if self._manifest is None:
            yield ok("task", f"{task.name}: {task.summary}")
            yield from self._founding(task)
        self._doing(f"building the model of {task.name}")
        with self._stop.interruptible():
            nbytes = doctor_task.model_bytes(task)
            gpu = doctor_task.gpu_of(device)
        outer = (self._config if self._manifest is None else self._manifest).outer not in {None, "none"}
        yield check_device(str(device), gpu, nbytes, self._config.optimizer, outer=outer)
        yield from self._exchanges(task, nbytes)
        self._doing(f"looking for the data of {task.name}")
        with self._stop.interruptible():
            data = doctor_task.look_at_data(task, self._config.data_dir)
        yield data.finding
        yield from doctor_task.check_shard(self._config.part, data.examples)
        yield from doctor_task.check_batch(self._batch_size(task), data.examples)
        trained = device_vectors(self._config.optimizer, outer=outer) if gpu is None else 0
        yield check_memory(free, nbytes, data.data_bytes, trained)
        output = self._config.output or Path("runs")
        saves = not Interval.parse(self._config.checkpoint_every).off
        vectors = disk_vectors(saves=saves, optimizer=self._config.optimizer, outer=outer)
        yield check_disk("output", *probes.disk(output), vectors * nbytes)
        if data.download_bytes:
            folder = data_folder(self._config.data_dir)
            yield check_disk("data", *probes.disk(folder), data.download_bytes, "--data-dir")

    def _exchanges(self, task: Task, nbytes: int) -> Iterator[Finding]:
        from p2p_elastic.doctor.link import check_link
        from p2p_elastic.parameters.vector import WIRE_DTYPE

        if self._link is None:
            return
        with contextlib.suppress(ConfigError):  # `_founding` says why there would be no such run
            manifest = self._manifest or self._would_found(task)
            yield check_link(manifest, nbytes // WIRE_DTYPE.itemsize, *self._link)

    def _would_found(self, task: Task) -> RunManifest:
        from p2p_elastic.peers.transport.identity import Identity

        config = self._config
        return config.found(config.run or task.name, Identity.generate().peer, task.name, "0" * 32, task.recipe)

    def _batch_size(self, task: Task) -> int:
        return self._config.batch_size or (
            self._manifest.defaults.batch_size if self._manifest else task.recipe.batch_size
        )

    def _founding(self, task: Task) -> Iterator[Finding]:
        """Check that a run can be founded with these options, if there is none to be joined."""
        if self._config.initial_peer:
            return
        try:
            self._would_found(task)
        except ConfigError as error:
            yield failure("run", f"cannot be founded like this: {error}", "leave that option out, or correct it")


def _key_file(check: str, option: str, path: Path, load: Callable[[Path], object]) -> Finding:
    """Check a file that `join` makes if it is missing: it can be made, or `load` can read the one that is there."""
    if probes.is_missing(path):
        _, _, problem = probes.disk(path.parent)
        if problem is not None:
            return failure(check, f"{path} cannot be made: {problem}", f"name another with {option}")
        return ok(check, f"{path} is made when the peer starts")
    try:
        load(path)
    except ConfigError as error:
        return failure(check, f"{path}: {error.allowed}", f"put it right, or name a new one with {option}")
    return ok(check, f"{path} is there and can be used")


def _or(asked: int | None, usual: int) -> int:
    return usual if asked is None else asked
