"""`p2p-elastic export`: the swarm's current model as a file, without training."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from p2p_elastic.common.metrics import metrics_text
from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.errors import ConfigError, NetworkError
from p2p_elastic.export.targets import RawTensors, Target, TaskModel
from p2p_elastic.node.admission import visiting
from p2p_elastic.node.join import installed_task
from p2p_elastic.node.observer import Observer
from p2p_elastic.node.results import check_writable, save_json
from p2p_elastic.node.run_finder import attached, known_run
from p2p_elastic.peers.admission.invites import read_invite
from p2p_elastic.peers.centre.succession import Candidate, rightful
from p2p_elastic.peers.discovery.live_network import LiveNetwork, NetworkThread
from p2p_elastic.peers.membership.healthy import WEIGHT_MIN, by_loss, healthy
from p2p_elastic.peers.session.conversation import Limits
from p2p_elastic.protocol.manifest import OWN_LOOP, RunManifest
from p2p_elastic.protocol.messages import Given
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.rules.methods import Topology, find_method
from p2p_elastic.screens.units import size
from p2p_elastic.status.schema import NO_METRICS, Metrics
from p2p_elastic.tasks import Evaluation
from p2p_elastic.values import Frozen

Say = Callable[[str], None]
SOURCES = ("auto", "average", "leader", "centre")
AUTO = {Topology.CENTRE: "centre", Topology.LEADER: "leader", Topology.NOBODY: "leader"}


class ExportOptions(NamedTuple):
    """What the user asked for.

    Attributes:
        initial_peer: multiaddrs of peers of the run; one that answers is enough.
        output: file for the model; its report is beside it.
        run: name of the run; None if there is only one.
        source: one of SOURCES, or a peer id.
        data_dir: folder with the data sets; None is the default folder.
        peers: members that are averaged at most.
        timeout: seconds for all of it.
        host: IP address to listen on.
        task: name or place of the run's task; None: one of that name that is installed here.
        raw: write tensors by their names, without the task.
        invite: the line that lets this process into a private run; it has initial peers, too.
        identity: key file that the line was made for; None: a new one.
    """

    initial_peer: tuple[str, ...]
    output: Path
    run: str | None = None
    source: str = "auto"
    data_dir: Path | None = None
    peers: int = 8
    timeout: float = 300.0
    host: str = "0.0.0.0"  # noqa: S104  # other machines are the point
    task: str | None = None
    raw: bool = False
    invite: str | None = None
    identity: Path | None = None


class Taken(Frozen):
    """A member whose parameters are in the file.

    Attributes:
        peer: its peer id.
    """

    peer: str
    step: int = Field(description="of the parameters; of the centre variable its exchanges")
    loss: float | None = Field(description="training loss that it claims, in nats")
    weight: float = Field(description="what it claims to count for, 0..1")
    share: float = Field(description="of its parameters in the exported model, 0..1")
    test_accuracy: float | None = Field(default=None, description="of its own, if the data is here")
    test_metrics: Metrics = Field(default={}, description="of its own, by name, if the data is here")


class Report(Frozen):
    """What was exported; written beside the model.

    Attributes:
        run: name of the run.
        task: what it trains.
        rule: its rule.
        source: `average`, `leader`, `centre` or a peer id.
        taken: members whose parameters are in the file.
        test_accuracy: of the exported model, 0..1; None if the data is not here.
        test_metrics: of the exported model, by name; empty if the data is not here.
        test_loss: of the exported model, in nats; None if the data is not here.
        bytes_received: parameters and headers, also of members that are left out.
        seconds: for all of it.
        model: path of the file.
    """

    run: str
    task: str
    rule: str
    source: str
    taken: tuple[Taken, ...]
    left_out: dict[str, str] = Field(description="peer -> why it is not in it")
    test_accuracy: float | None = None
    test_metrics: Metrics = NO_METRICS
    test_loss: float | None = None
    batchnorm_estimated: bool = Field(default=False, description="from the training data here, for an average")
    bytes_received: int
    seconds: float
    model: str


def export(asked: ExportOptions, say: Say, stop: Callable[[], bool]) -> Report:
    """Fetch the model, write it and its report, and say what was done.

    Args:
        asked: what the user asked for.
        say: shows a line to the user.
        stop: the user's wish to stop.

    Returns:
        The report that was written.

    Raises:
        ConfigError: if something that was asked for is not possible.
        NetworkError: if no initial peer answers, or no member gave its parameters.
        Interrupted: if the user asked to stop.
    """
    began = time.monotonic()
    if report_file(asked.output) == asked.output:
        raise ConfigError("output", str(asked.output), "a name that does not end in .json: that is the report's")
    check_writable(asked.output.parent)
    invited = () if asked.invite is None else read_invite(asked.invite).addresses
    if not (asked.initial_peer or invited):
        raise ConfigError("initial-peer", None, "--initial-peer MULTIADDR of a peer of the run; or --invite LINE")
    network = visiting(asked.invite, asked.identity, (*asked.initial_peer, *invited))
    with NetworkThread() as thread:
        thread.call(network.open(asked.host, 0))
        try:
            say("Looking for the run ...")
            manifest = thread.call(_find(network, asked), stop)
            say(f"Found {manifest.describe()}")
            return _Export(asked, manifest, say, stop, thread, network, began).run()
        finally:
            thread.call(network.close())


async def _find(network: LiveNetwork, asked: ExportOptions) -> RunManifest:
    await attached(network, min(asked.timeout, 30.0))
    return await known_run(network, asked.run)


class _Export:
    """One export, in the order of its methods."""

    def __init__(
        self,
        asked: ExportOptions,
        manifest: RunManifest,
        say: Say,
        stop: Callable[[], bool],
        thread: NetworkThread,
        network: LiveNetwork,
        began: float,
    ) -> None:
        self._asked, self._manifest, self._say, self._stop = asked, manifest, say, stop
        self._thread, self._began = thread, began
        self._topology = find_method(manifest.rule).topology
        self._source = AUTO.get(self._topology, "average") if asked.source == "auto" else asked.source
        self._observer = Observer(network, manifest, Limits())
        self._left_out: dict[str, str] = {}

    def run(self) -> Report:
        target = self._target()
        staying = self._thread.spawn(self._observer.stay())
        try:
            members = self._thread.call(self._observer.members(self._choose), self._stop)
            chosen = self._choose(members)
            if not chosen:
                raise NetworkError(self._nobody(members))
            self._leave_out(members, chosen)
            report = self._take(chosen, target)
        finally:
            staying.cancel()
            self._thread.call(self._observer.leave())
        return report

    def _target(self) -> Target:
        """What is written: a model of the task, or what travels as it is; before anything is downloaded."""
        asked, manifest = self._asked, self._manifest
        if not asked.raw and manifest.task != OWN_LOOP:
            try:
                target = TaskModel(installed_task(manifest, asked.task), asked.data_dir, self._stop, self._say)
                difference = self._thread.call(self._observer.difference(target.schema), self._stop)
                if difference is not None:
                    raise ConfigError("task", "another model", f"that of run {manifest.run!r}: {difference}")
            except ConfigError as error:
                raise ConfigError(error.key, error.got, f"{error.allowed}; or --raw, which needs no task") from error
            return target
        schema = self._thread.call(self._observer.schema(), self._stop)
        if schema is None:
            raise NetworkError(f"no member of run {manifest.run!r} told the names and shapes of its model; try again")
        return RawTensors(schema)

    def _choose(self, members: list[PeerRecord]) -> list[PeerRecord]:
        """Choose the members to take, the best first."""
        if self._source == "centre" and self._topology is not Topology.CENTRE:
            raise ConfigError(
                "from", self._source, f"run {self._manifest.run!r} has no centre: its rule is {self._manifest.rule}"
            )
        centre = _centre(members)
        if self._source == "centre":
            return [r for r in members if r.peer == centre]
        if self._source not in SOURCES:
            return [r for r in members if r.peer == self._source]
        others = [r for r in members if self._topology is not Topology.CENTRE or r.peer != centre]
        found = by_loss(healthy(others))
        limit = 1 if self._source == "leader" else self._asked.peers
        return found[:limit]

    def _leave_out(self, members: Sequence[PeerRecord], chosen: Sequence[PeerRecord]) -> None:
        """Note why each other member is left out; other observers are no members."""
        for record in members:
            if record in chosen or (record.drained and record.step == 0):
                continue
            if self._source != "average":
                why = f"--from {self._source}"
            elif record.drained:
                why = "drained"
            elif record.weight < WEIGHT_MIN:
                why = f"counts for {record.weight:g}"
            else:
                why = "its loss is clearly above the others', or enough others have a lower one"
            self._left_out[record.peer] = why

    def _nobody(self, members: list[PeerRecord]) -> str:
        run = f"run {self._manifest.run!r}"
        if self._source not in SOURCES:
            there = ", ".join(r.peer for r in members if not r.drained) or "nobody"
            return f"peer {self._source} is not in {run}; there are: {there}"
        if self._source == "centre":
            return f"nobody holds the centre variable of {run} now; try again in some seconds"
        weights = ", ".join(f"{r.peer} counts for {r.weight:g}" for r in members if not r.drained) or "nobody is there"
        return f"no healthy member in {run}: {weights}. Name one with --from PEERID to take it all the same"

    def _take(self, chosen: Sequence[PeerRecord], target: Target) -> Report:
        """Fetch one after the other, so that memory holds one of them and the sum."""
        total = torch.zeros(target.elements, dtype=torch.float64)
        out, taken = torch.empty(target.elements), []
        for record in chosen:
            given = self._fetch(record, out)
            if not isinstance(given, str) and not bool(torch.isfinite(out).all()):  # a NaN would be that of the average
                given = "its parameters are not finite"
            if isinstance(given, str):
                self._say(f"  {record.peer}: {given}")
                self._left_out[record.peer] = given
                continue
            weight = record.weight if self._source == "average" else 1.0
            total.add_(out, alpha=weight)
            result = target.evaluate(out, anew=False)
            taken.append((record, given, weight, result))
            self._say(f"  {record.peer}: step {given.step}, loss {_number(given.loss)}{_tested(result)}")
        if not taken:
            why = "; ".join(f"{peer}: {reason}" for peer, reason in self._left_out.items())
            raise NetworkError(f"no member gave its parameters: {why}")
        weights = sum(weight for _, _, weight, _ in taken)
        return self._write(
            total.div_(weights).float(),
            [
                Taken(
                    peer=r.peer,
                    step=g.step,
                    loss=g.loss,
                    weight=r.weight,
                    share=w / weights,
                    test_accuracy=e.accuracy if e else None,
                    test_metrics=dict(e.metrics) if e else {},
                )
                for r, g, w, e in taken
            ],
            target,
        )

    def _fetch(self, record: PeerRecord, out: Tensor) -> Given | str:
        left = self._asked.timeout - (time.monotonic() - self._began)
        taking = self._observer.take(record, out, of_centre=self._source == "centre")
        try:
            return self._thread.call(wait_for(taking, max(0.1, left)), self._stop)
        except asyncio.TimeoutError:
            return f"not within the {self._asked.timeout:g} s of --timeout"

    def _write(self, values: Tensor, taken: list[Taken], target: Target) -> Report:
        anew = len(taken) > 1 or self._source == "centre"
        result = target.evaluate(values, anew=anew)
        output, fetcher = self._asked.output, self._observer.fetcher
        report = Report(
            run=self._manifest.run,
            task=self._manifest.task,
            rule=self._manifest.rule,
            source=self._source,
            taken=tuple(taken),
            left_out=self._left_out,
            test_accuracy=result.accuracy if result else None,
            test_metrics=dict(result.metrics) if result else {},
            test_loss=result.loss if result else None,
            batchnorm_estimated=anew and target.has_data,
            bytes_received=fetcher.bytes_received,
            seconds=time.monotonic() - self._began,
            model=str(output),
        )
        target.write(output)
        save_json(report, report_file(output))
        many = f"average of {len(taken)} members" if len(taken) > 1 else f"parameters of {taken[0].peer}"
        self._say(
            f"Exported the {many}{_tested(result)}: {size(report.bytes_received)} in {report.seconds:.1f} s.\n{output}"
        )
        return report


def report_file(output: Path) -> Path:
    """Name the report.

    Args:
        output: file of the model.

    Returns:
        `model.json` for `model.safetensors`.
    """
    return output.with_suffix(".json")


def _centre(members: Sequence[PeerRecord]) -> str | None:
    claims = [Candidate(r.peer, r.centre.stamp, r.centre.seated) for r in members if r.centre is not None]
    top = rightful(claims)
    return None if top is None else top.peer


def _tested(result: Evaluation | None) -> str:
    """Say how good it is, with a comma before it."""
    return "" if result is None else f", test {metrics_text(result.metrics, f'loss {result.loss:.4g}')}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
