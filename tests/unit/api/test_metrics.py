from __future__ import annotations

import math
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
from helpers.asking import ask
from helpers.statuses import status_of
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from p2p_elastic.api.metrics import PARTNERS_MAX
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.status.schema import (
    CentreStatus,
    CheckpointStatus,
    DiskStatus,
    Durations,
    ExchangeTotals,
    LeaderStatus,
    MemberStatus,
    PaceStatus,
    PartnerStatus,
    PeerStatus,
    SignalStatus,
)

MEMBER = MemberStatus(peer="B", addresses=(), state="alive", step=1, loss=None, age_seconds=1)
FULL = status_of(
    weight=0.5,
    weight_override=0.5,
    drained=True,
    training={
        **{"step": 9, "steps_total": 90, "epoch": 1.5, "steps_per_second": 3.0, "loss": 0.5, "seconds_since_step": 0.1},
        **{"validation_accuracy": 0.75, "test_accuracy": 0.7},
        **{"metrics": {"perplexity": 23.1, "top-5 accuracy": None}, "test_metrics": {"f1": 0.5}},
    },
    signals=(
        SignalStatus(name="temperature", health=0.25, value=85.0, unit="°C", text='"hot"\\\n'),
        SignalStatus(name="battery", health=1.0),
    ),
    centre=CentreStatus(holder="12D3A", here=True, term=2, exchanges=7),
    leaders=LeaderStatus(group="g", leader="B", leader_of_all=None, snapshots_published=3, disbelieved={"X": "lies"}),
    exchanges=ExchangeTotals(
        by_outcome={Outcome.COMPLETED: 5, Outcome.TIMEOUT: 1},
        declined_by_us={"busy": 2},
        declined_by_partner={"busy": 3, "leaving": 1},
        skipped={"no partner": 4},
        bytes_sent=100,
        bytes_received=200,
        direct=3,
        not_direct={"failed lately": 2},
    ),
    members=(MEMBER, MEMBER.model_copy(update={"peer": "C", "state": "suspect", "drained": True})),
    partners=(PartnerStatus(peer="B", trust=0.5, distance=2.0, weight=1.0), PartnerStatus(peer='"C"\\\n', trust=0.0)),
    network={
        **{"attached": True, "restarts": 3, "records_ignored": 2, "streams_refused": {"too many streams": 1}},
        **{"direct_refused": {"not awaited": 6}, "reachable": False, "relays": ("R", "S")},
        "relay": {"places": 2, "circuits": 1, "bytes_passed_on": 900, "max_bytes_per_second": 1e6},
    },
)


def scraped(status: PeerStatus) -> str:
    answer = ask("/metrics", lambda: status)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return answer.text


def samples(status: PeerStatus) -> dict[tuple[str, ...], float]:
    """Name without prefix and label values -> value; no series twice."""

    def all_of() -> Iterator[tuple[tuple[str, ...], float]]:
        for family in text_string_to_metric_families(scraped(status)):
            for sample in family.samples:
                assert sample.name.startswith(("p2p_elastic_", "process_"))
                yield (sample.name.removeprefix("p2p_elastic_"), *sample.labels.values()), sample.value

    found = list(all_of())
    assert len(dict(found)) == len(found)
    return dict(found)


def test_every_number_has_its_series() -> None:
    expected = {
        ("uptime_seconds",): 100,
        ("weight_ratio",): 0.5,
        ("weight_override_ratio",): 0.5,
        ("drained",): 1,
        ("members", "alive"): 1,
        ("members", "suspect"): 1,
        ("members", "dead"): 0,
        ("members_drained",): 1,
        ("training_phase", "training"): 1,
        ("training_phase", "done"): 0,
        ("training_steps_total",): 9,
        ("training_steps_planned",): 90,
        ("training_epoch",): 1.5,
        ("training_loss",): 0.5,
        ("training_steps_per_second",): 3,
        ("validation_accuracy_ratio",): 0.75,
        ("test_accuracy_ratio",): 0.7,
        ("validation_metric", "perplexity"): 23.1,
        ("test_metric", "f1"): 0.5,
        ("training_last_step_age_seconds",): 0.1,
        ("signal_health_ratio", "temperature"): 0.25,
        ("signal_health_ratio", "battery"): 1,
        ("signal_value", "temperature", "°C"): 85,
        ("exchanges_total", "completed"): 5,
        ("exchanges_total", "timeout"): 1,
        ("exchanges_total", "half"): 0,
        ("declined_total", "us", "busy"): 2,
        ("declined_total", "partner", "busy"): 3,
        ("declined_total", "partner", "leaving"): 1,
        ("completed_total", "", "direct"): 3,
        ("completed_total", "failed lately", "libp2p"): 2,
        ("skipped_total", "no partner"): 4,
        ("sent_bytes_total",): 100,
        ("received_bytes_total",): 200,
        ("partner_trust_ratio", "B"): 0.5,
        ("partner_trust_ratio", '"C"\\\n'): 0,
        ("partner_weight_ratio", "B"): 1,
        ("partner_distance", "B"): 2,
        ("network_attached",): 1,
        ("network_failed",): 0,
        ("members_about",): 0,
        ("reachable",): 0,
        ("relays",): 2,
        ("relay_places",): 2,
        ("relay_circuits",): 1,
        ("relay_bytes_total",): 900,
        ("network_restarts_total",): 3,
        ("records_ignored_total",): 2,
        ("streams_refused_total", "too many streams"): 1,
        ("direct_refused_total", "not awaited"): 6,
        ("centre_here",): 1,
        ("centre_vacant",): 0,
        ("centre_term",): 2,
        ("centre_exchanges",): 7,
        ("leading",): 0,
        ("snapshots_published_total",): 3,
        ("leaders_disbelieved",): 1,
        ("health_degraded",): 1,
        ("health_reason", "network_restarted"): 1,
        ("health_reason", "drained"): 1,
    }
    found = samples(FULL)
    assert {key: found[key] for key in expected} == expected
    rest = {key for key in found if key not in expected}
    assert {key[0] for key in rest if not key[0].startswith("process_")} == {
        "info",
        "training_phase",
        "exchanges_total",
        "partition_members_away",
        "partition_seconds",
    }


def test_info_says_who_the_peer_is() -> None:
    (info,) = (f for f in text_string_to_metric_families(scraped(FULL)) if f.name == "p2p_elastic_info")
    assert {**info.samples[0].labels} == {
        **{"peer": "12D3A", "version": "0.1.0", "run": "digits", "task": "digits-mlp", "schema_hash": "5f"},
        **{"rule": "elastic", "codec": "float32", "device": "cpu"},
    }


def test_a_checkpoint_says_its_age_and_how_often_writing_failed() -> None:
    saved = CheckpointStatus(step=400, age_seconds=12.0, failures=2, skipped=0, problem=None)
    found = samples(status_of(checkpoint=saved))
    assert (found["checkpoint_age_seconds",], found["checkpoints_failed_total",]) == (12.0, 2.0)
    assert not [key for key in samples(status_of()) if key[0].startswith("checkpoint")]


def test_completed_exchanges_are_a_histogram_of_their_seconds() -> None:
    took = Durations(bounds=(0.1, 1.0), counts=(2, 5), count=6, seconds=9.5)
    found = samples(status_of(exchanges=ExchangeTotals(durations=took)))
    assert {key: value for key, value in found.items() if key[0].startswith("exchange_seconds")} == {
        ("exchange_seconds_bucket", "0.1"): 2,
        ("exchange_seconds_bucket", "1.0"): 5,
        ("exchange_seconds_bucket", "+Inf"): 6,
        ("exchange_seconds_count",): 6,
        ("exchange_seconds_sum",): 9.5,
    }


def test_the_room_on_the_disk_and_the_time_between_checkpoints_are_told() -> None:
    saved = CheckpointStatus(step=4, age_seconds=1.0, interval_seconds=300.0, failures=0, skipped=0, problem=None)
    found = samples(status_of(disk=DiskStatus(free_bytes=3, size_bytes=9), checkpoint=saved))
    assert (found["disk_free_bytes",], found["disk_size_bytes",], found["checkpoint_interval_seconds",]) == (3, 9, 300)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")
def test_the_process_tells_its_memory_its_cpu_and_its_open_files() -> None:
    found = samples(status_of())
    names = ("process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds", "process_max_fds")
    assert all(found[name,] > 0 for name in names)


def test_a_budget_says_what_it_allows_what_is_used_and_what_comes_of_it() -> None:
    pace = PaceStatus(max_bytes_per_second=5e5, bytes_per_second=4e5, wait_seconds=3.0, effective_period=52.0)
    found = samples(status_of(pace=pace))
    names = ("budget_bytes_per_second", "traffic_bytes_per_second", "budget_wait_seconds", "effective_period_steps")
    assert [found[name,] for name in names] == [5e5, 4e5, 3.0, 52.0]
    assert ("budget_time_ratio",) not in found
    assert not any(key[0].startswith("budget") for key in samples(status_of()))


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_nan(loss: float) -> None:
    assert math.isnan(samples(status_of(training={"loss": loss}))["training_loss",])


def test_what_is_not_known_has_no_series() -> None:
    found = samples(status_of(training={"loss": None}))
    absent = {"training_loss", "centre_here", "leading", "signal_value", "partner_trust_ratio", "weight_override_ratio"}
    assert not absent & {key[0] for key in found}


def test_only_the_latest_partners_have_series_and_of_two_equal_signals_the_worse_counts() -> None:
    partners = tuple(PartnerStatus(peer=f"P{index}", distance=1.0) for index in range(PARTNERS_MAX + 10))
    signals = (SignalStatus(name="heat", health=0.1, source="reported"), SignalStatus(name="heat", health=0.9))
    found = samples(status_of(partners=partners, signals=signals))
    assert {key[1] for key in found if key[0] == "partner_trust_ratio"} == {f"P{i}" for i in range(PARTNERS_MAX)}
    assert found["signal_health_ratio", "heat"] == 0.1


def test_nothing_is_left_in_the_registry_of_the_process() -> None:
    scraped(FULL)
    assert not any(family.name.startswith("p2p_elastic") for family in REGISTRY.collect())


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize("status", [FULL, status_of()])
def test_promtool_finds_nothing_to_complain_about(status: PeerStatus) -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=scraped(status), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
