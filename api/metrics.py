"""The status in the text format of Prometheus. Names and units follow its conventions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import get_args

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from p2p_elastic.health.checks import judge
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.status.schema import PeerStatus, Phase

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "p2p_elastic"
PARTNERS_MAX = 50  # the latest: each is a time series of its own
_PROCESS = ProcessCollector(registry=None)  # memory, CPU and open files; nothing if there is no /proc


def exposition(status: PeerStatus) -> bytes:
    """Write all numbers of a status for a scrape, and what this process takes of its machine.

    Args:
        status: of the peer.

    Returns:
        The text, in UTF-8.
    """
    registry = CollectorRegistry()
    registry.register(_Metrics(status))
    registry.register(_PROCESS)
    return generate_latest(registry)


class _Metrics(Collector):
    def __init__(self, status: PeerStatus) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status = self._status
        for part in (
            _peer,
            _training,
            _signals,
            _exchanges,
            _partners,
            _network,
            _partition,
            _checkpoint,
            _disk,
            _pace,
            _roles,
            _health,
        ):
            yield from part(status)


def _peer(status: PeerStatus) -> Iterator[Metric]:
    names = ("peer", "version", "run", "task", "schema_hash", "rule", "codec", "device")
    info = {name: getattr(status, name) for name in names}
    yield InfoMetricFamily(PREFIX, "Who this peer is and what it trains.", value=info)
    yield _gauge("uptime_seconds", "Seconds since the peer started.", status.uptime_seconds)
    yield _gauge("weight_ratio", "What the peer counts for in exchanges, 0 to 1.", status.weight)
    yield from _optional("weight_override_ratio", "The weight that its operator set.", status.weight_override)
    yield _gauge("drained", "1 if the peer begins and answers no exchanges.", status.drained)
    states = {state: sum(m.state == state for m in status.members) for state in ("alive", "suspect", "dead")}
    yield _gauges("members", "Other peers of the run, by whether they are there.", "state", states)
    drained = sum(member.drained for member in status.members)
    yield _gauge("members_drained", "Other peers of the run that ask not to be chosen.", drained)


def _training(status: PeerStatus) -> Iterator[Metric]:
    training = status.training
    phases = {phase: phase == training.phase for phase in get_args(Phase)}
    yield _gauges("training_phase", "1 for the phase that the peer is in.", "phase", phases)
    yield _counter("training_steps", "Optimizer steps so far.", training.step)
    yield from _optional("training_steps_planned", "Optimizer steps at which it ends.", training.steps_total)
    yield _gauge("training_epoch", "Passes over the training data so far.", training.epoch)
    yield from _optional("training_loss", "Mean loss of the last steps, in nats.", training.loss)
    yield from _optional("training_steps_per_second", "Optimizer steps per second lately.", training.steps_per_second)
    accuracy = "Share of the {} split that is classified correctly, 0 to 1."
    yield from _optional("validation_accuracy_ratio", accuracy.format("validation"), training.validation_accuracy)
    yield from _optional("test_accuracy_ratio", accuracy.format("test"), training.test_accuracy)
    for split, metrics in (("validation", training.metrics), ("test", training.test_metrics)):
        known = {name: value for name, value in metrics.items() if value is not None}
        yield _gauges(f"{split}_metric", f"What the task measures on the {split} split.", "metric", known)
    since = training.seconds_since_step
    yield from _optional("training_last_step_age_seconds", "Seconds since the last optimizer step.", since)


def _signals(status: PeerStatus) -> Iterator[Metric]:
    healths = {signal.name: signal.health for signal in reversed(status.signals)}  # of two, the worse
    text = "What a signal lets the peer count for, 0 to 1; the least one decides."
    yield _gauges("signal_health_ratio", text, "signal", healths)
    values = GaugeMetricFamily(f"{PREFIX}_signal_value", "What was measured or reported.", labels=("signal", "unit"))
    for name, signal in {signal.name: signal for signal in reversed(status.signals)}.items():
        if signal.value is not None:
            values.add_metric((name, signal.unit), _number(signal.value))
    yield values


def _exchanges(status: PeerStatus) -> Iterator[Metric]:
    totals = status.exchanges
    outcomes = {outcome.value: totals.by_outcome.get(outcome, 0) for outcome in Outcome}
    yield _counters("exchanges", "Exchanges that ended, by how.", "outcome", outcomes)
    declined = CounterMetricFamily(f"{PREFIX}_declined", "Exchanges that one side declined.", labels=("by", "reason"))
    for by, reasons in (("us", totals.declined_by_us), ("partner", totals.declined_by_partner)):
        for reason, count in reasons.items():
            declined.add_metric((by, reason), count)
    yield declined
    ways = CounterMetricFamily(
        f"{PREFIX}_completed", "Completed exchanges, by the way that parameters took.", labels=("way", "reason")
    )
    ways.add_metric(("direct", ""), totals.direct)
    for reason, count in totals.not_direct.items():
        ways.add_metric(("libp2p", reason), count)
    yield ways
    yield _counters("skipped", "Exchanges that were due and not begun.", "reason", totals.skipped)
    yield _counter("sent_bytes", "Bytes of parameters and headers sent.", totals.bytes_sent)
    yield _counter("received_bytes", "Bytes of parameters and headers received.", totals.bytes_received)
    if (took := totals.durations) is not None:
        buckets = [*zip(map(str, took.bounds), took.counts, strict=True), ("+Inf", took.count)]
        text = "How long completed exchanges took."
        yield HistogramMetricFamily(f"{PREFIX}_exchange_seconds", text, buckets=buckets, sum_value=took.seconds)


def _partners(status: PeerStatus) -> Iterator[Metric]:
    latest = status.partners[:PARTNERS_MAX]
    trusts = {partner.peer: partner.trust for partner in latest}
    yield _gauges("partner_trust_ratio", "What this peer's measurements let a partner count for.", "partner", trusts)
    weights = {partner.peer: partner.weight for partner in latest}
    yield _gauges("partner_weight_ratio", "What a partner last claimed to count for.", "partner", weights)
    distances = {partner.peer: partner.distance for partner in latest}
    yield _gauges("partner_distance", "L2 distance to a partner's parameters at the last move.", "partner", distances)


def _network(status: PeerStatus) -> Iterator[Metric]:
    network = status.network
    yield _gauge("network_attached", "1 if another peer of the DHT answers.", network.attached)
    yield _gauge("network_failed", "1 if the peer trains alone for good.", network.failure is not None)
    text = "Members of the run as the directory counts them, with this one; of many a peer sees some."
    yield _gauge("members_about", text, network.members_about)
    if network.reachable is not None:
        yield _gauge("reachable", "1 if other members can dial this peer.", network.reachable)
    yield _gauge("relays", "Relays that lead to this peer.", len(network.relays))
    if (relay := network.relay) is not None:
        yield _gauge("relay_places", "Peers to which this one leads.", relay.places)
        yield _gauge("relay_circuits", "Streams that it passes on now.", relay.circuits)
        yield _counter("relay_bytes", "Passed on so far, both ways together.", relay.bytes_passed_on)
    yield _counter("network_restarts", "Times that the network process died and was replaced.", network.restarts)
    text = "Times that a malformed, unsigned or foreign record was ignored."
    yield _counter("records_ignored", text, network.records_ignored)
    yield _counters("streams_refused", "Incoming streams that were refused.", "reason", network.streams_refused)
    text = "Connections to the port for direct connections that were turned away."
    yield _counters("direct_refused", text, "reason", network.direct_refused)


def _partition(status: PeerStatus) -> Iterator[Metric]:
    split = status.partition
    text = "Members that vanished at once without a goodbye, and are away still."
    yield _gauge("partition_members_away", text, 0 if split is None else split.away)
    yield _gauge("partition_seconds", "Seconds since they vanished.", 0.0 if split is None else split.seconds)


def _checkpoint(status: PeerStatus) -> Iterator[Metric]:
    if (saved := status.checkpoint) is not None:
        yield from _optional("checkpoint_age_seconds", "Since the last checkpoint was written.", saved.age_seconds)
        text = "After which a checkpoint is due, if that goes by time."
        yield from _optional("checkpoint_interval_seconds", text, saved.interval_seconds)
        yield _counter("checkpoints_failed", "Checkpoints that could not be written.", saved.failures)


def _disk(status: PeerStatus) -> Iterator[Metric]:
    if (disk := status.disk) is not None:
        yield _gauge("disk_free_bytes", "Left on the disk of the output folder.", disk.free_bytes)
        yield _gauge("disk_size_bytes", "Size of that disk.", disk.size_bytes)


def _pace(status: PeerStatus) -> Iterator[Metric]:
    if (pace := status.pace) is not None:
        text = "Bytes per second that exchanges may send and receive on average."
        yield from _optional("budget_bytes_per_second", text, pace.max_bytes_per_second)
        yield from _optional("traffic_bytes_per_second", "The same, as it was lately.", pace.bytes_per_second)
        text = "Share of the time in which an exchange may be under way, 0 to 1."
        yield from _optional("budget_time_ratio", text, pace.max_share)
        yield from _optional("exchanging_time_ratio", "The same, as it was lately.", pace.share)
        yield _gauge("budget_wait_seconds", "Until the budget lets the next exchange begin.", pace.wait_seconds)
        text = "Steps between exchanges, by the run's period or the budget: the longer one."
        yield from _optional("effective_period_steps", text, pace.effective_period)


def _roles(status: PeerStatus) -> Iterator[Metric]:
    if (centre := status.centre) is not None:
        yield _gauge("centre_here", "1 if this peer holds the centre variable.", centre.here)
        yield _gauge("centre_vacant", "1 if nobody is known to hold the centre variable.", centre.holder is None)
        yield _gauge("centre_term", "How often the centre has moved, from 1.", centre.term)
        yield _gauge("centre_exchanges", "Exchanges behind the value of the centre here.", centre.exchanges)
    if (leaders := status.leaders) is not None:
        yield _gauge("leading", "1 if this peer leads its group.", leaders.leader == status.peer)
        text = "Snapshots of this peer that it published while it led."
        yield _counter("snapshots_published", text, leaders.snapshots_published)
        text = "Peers that do not lead this one because they are not believed."
        yield _gauge("leaders_disbelieved", text, len(leaders.disbelieved))


def _health(status: PeerStatus) -> Iterator[Metric]:
    health = judge(status)
    yield _gauge("health_degraded", "1 if something is wrong with this peer.", health.status == "degraded")
    codes = {reason.code: 1.0 for reason in health.reasons}
    yield _gauges("health_reason", "1 for each thing that is wrong.", "code", codes)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, value=_number(value))


def _optional(name: str, text: str, value: float | None) -> Iterable[Metric]:
    return () if value is None else (_gauge(name, text, value),)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"{PREFIX}_{name}", text, value=_number(value))


def _gauges(name: str, text: str, label: str, values: Mapping[str, float | None]) -> Metric:
    family = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=(label,))
    for key, value in values.items():
        if value is not None:
            family.add_metric((key,), _number(value))
    return family


def _counters(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(f"{PREFIX}_{name}", text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family


def _number(value: float) -> float:
    return float(value) if math.isfinite(value) else math.nan
