"""`p2p-elastic bench` without a network: figures, options, tables, and the delay proxy."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from p2p_elastic.bench import exchange, overhead
from p2p_elastic.bench.delay import DelayProxy
from p2p_elastic.bench.exchange import Held, Sample, summary
from p2p_elastic.bench.figures import Spread, as_json, cpu_seconds, quantile, ratio
from p2p_elastic.bench.overhead import Loop
from p2p_elastic.cli.bench import bench
from p2p_elastic.protocol.limits import LANES_MAX


def run(*arguments: str) -> Result:
    return CliRunner().invoke(bench, [*arguments], catch_exceptions=False)


def spread(median: float) -> Spread:
    return Spread(median, 0.9 * median, 1.1 * median, 3)


# ---------------------------------------------------------------- figures


def test_a_spread_has_median_and_extremes() -> None:
    assert Spread.of([3.0, 1.0, 2.0, 10.0]) == (2.5, 1.0, 10.0, 4)


def test_a_ratio_is_of_pairs_so_that_what_disturbed_both_cancels() -> None:
    assert ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == (2.0, 2.0, 2.0, 3)


def test_a_quantile_is_one_of_the_values() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert [quantile(values, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.0, 51.0, 100.0, 100.0]


def test_spreads_become_objects_and_numbers_readable_wherever_they_are() -> None:
    found = as_json({"rows": [{"x": spread(1 / 3)}], "y": (1 / 3, None, "text")})
    assert found["rows"][0]["x"] == {"median": 0.33333, "low": 0.3, "high": 0.36667, "runs": 3}
    assert found["y"] == [0.33333, None, "text"]
    json.dumps(found)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say it")
def test_cpu_seconds_of_another_process_are_finer_than_a_tick_of_the_system() -> None:
    code = "import time\nend = time.process_time() + 0.05\nwhile time.process_time() < end: pass\ninput()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 20.0
        while (used := cpu_seconds(process.pid)) < 0.05 and time.monotonic() < end:
            time.sleep(0.01)
        assert used >= 0.05
        assert round(used, 2) != used
        process.communicate("\n")
    assert cpu_seconds(process.pid) == 0.0


def test_memory_is_counted_in_models_and_without_what_any_exchange_takes() -> None:
    held, fixed = Held(16e6, 2e6), Held(8e6, 4e6)
    assert held.models(fixed, megabytes=4.0) == {"asking": 2.0, "answering": 0.0}
    assert held.models(Held(None, 0.0), megabytes=4.0) == {"asking": None, "answering": 0.5}


def test_a_bare_stream_has_no_seconds_of_asking() -> None:
    assert summary([Sample(2.0, 1.0, 1.5)])["asking_seconds"].median == 1.5
    assert set(summary([Sample(2.0, 1.0)])) == {"seconds", "cpu_seconds"}


def test_overhead_compares_each_window_with_the_one_before_it() -> None:
    alone, exchanging = [[0.01] * 100, [0.02] * 50], [[0.0125] * 80, [0.025] * 40]
    found = overhead.figures(1.0, 8, alone, exchanging, exchanges=13)
    assert found["throughput"].median == pytest.approx(0.8)
    assert found["p99_ratio"] == pytest.approx((1.25, 1.25, 1.25, 2))
    assert found["exchanges_due"] == 15


def test_the_loop_of_overhead_trains_a_model_of_the_size_asked_for() -> None:
    loop = Loop(0.05)
    first = loop.loss
    took = loop.steps_for(0.05)
    assert 0.03e6 < loop.nbytes < 0.07e6
    assert sum(took) >= 0.04
    assert loop.loss < first


# ---------------------------------------------------------------- command line


def test_the_help_says_how_many_streams_there_may_be() -> None:
    assert f"1 to {LANES_MAX}, or auto" in " ".join(run("exchange", "--help").output.split())
    assert run("exchange", "--streams", str(LANES_MAX + 1)).exit_code == 2


def test_every_measurement_explains_itself_and_its_options() -> None:
    assert set(bench.commands) == {"exchange", "overhead", "apply"}
    for command in bench.commands.values():
        assert command.help
        assert all(parameter.help for parameter in command.params if isinstance(parameter, click.Option)), command.name


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["exchange", "--size", "4,x"], "numbers with commas"),
        (["exchange", "--size", "-4"], "must be above 0"),
        (["exchange", "--streams", "25"], "a number from 1 to 24"),
        (["exchange", "--codec", "gzip"], "allowed: auto, none, float16, bfloat16, int8"),
        (["overhead", "--period", "0"], "must be above 0"),
        (["apply", "--json", "no/such/folder/x.json"], "cannot be written"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_measured(arguments: Sequence[str], says: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert says in result.output


def test_apply_measures_each_model_on_its_own_storage_and_flattened() -> None:
    result = run("apply", "--size", "0.1", "--rounds", "2", "--json", "-")
    found = json.loads(result.stdout)
    assert found["machine"]["cores"] == os.cpu_count()
    cpu = [row for row in found["rows"] if row["device"] == "cpu"]
    assert [(row["tensors"], row["flat"]) for row in cpu] == [(4, False), (4, True), (300, False), (300, True)]
    for row in cpu:
        assert set(row["gigabytes_per_second"]) == {"copy", "snapshot", "add"}
        assert all(s["runs"] == 2 and s["median"] > 0 for s in row["gigabytes_per_second"].values())


def test_a_file_gets_the_json_and_the_screen_the_table(tmp_path: Path) -> None:
    target = tmp_path / "apply.json"
    result = run("apply", "--size", "0.1", "--rounds", "1", "--json", str(target))
    assert "copy, GB/s" in result.stdout
    assert json.loads(target.read_text())["bench"] == "apply"


def test_the_table_of_exchanges_has_medians_spread_and_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = {"seconds": spread(0.4), "cpu_seconds": spread(0.7)}
    row = {
        "megabytes": 100.0,
        "codec": "none",
        "streams": "auto",
        "way": "direct",
        "ours": ends,
        "bare": ends,
        "ours_to_bare": spread(1),
    }
    asked = list[Any]()

    def measured(options: object, say: object) -> dict[str, Any]:
        asked.append(options)
        return {"rows": [{**row, "extra_models": {"asking": 1.02, "answering": None}}]}

    monkeypatch.setattr(exchange, "run", measured)
    result = run("exchange", "--size", "100", "--codec", "none,int8", "--streams", "auto,8", "--rtt-ms", "100")
    assert asked == [exchange.ExchangeOptions((100.0,), ("none", "int8"), (None, 8), rtt_ms=100.0)]
    assert "0.4 (0.36..0.44)" in result.stdout
    assert result.stdout.rstrip().endswith("0.70 1.02")


@pytest.mark.parametrize("own_core", [True, False])
def test_the_table_of_overhead_says_who_had_which_core(monkeypatch: pytest.MonkeyPatch, own_core: bool) -> None:
    figures = overhead.figures(12.0, 32, [[0.01] * 64], [[0.01] * 64], exchanges=2)
    monkeypatch.setattr(overhead, "run", lambda options, say: {"own_core": own_core, "rows": [figures]})
    result = run("overhead", "--size", "12", "--period", "32")
    assert "2 of 2 due" in result.stdout
    assert ("had a core of its own" in result.stdout) is own_core


# ---------------------------------------------------------------- a long way


def test_the_proxy_holds_every_byte_back_but_not_the_rate() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        DelayProxy(0.1, server.getsockname()[1]) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port)) as near,
        server.accept()[0] as far,
    ):
        began = time.monotonic()
        near.sendall(b"x")
        assert far.recv(1) == b"x"
        assert 0.1 <= time.monotonic() - began < 1.0
        began, data = time.monotonic(), bytes(20 * 2**20)
        near.sendall(data)  # 20 MiB within the delay and little more: 0.1 s for each read would be 8 s
        received = 0
        while received < len(data):
            received += len(far.recv(1 << 20))
        assert 0.1 <= time.monotonic() - began < 4.0
        far.close()
        assert near.recv(1) == b""


def test_the_proxy_ends_with_whoever_started_it() -> None:
    code = """
import os, signal
from p2p_elastic.bench.delay import DelayProxy
with DelayProxy(0.01):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    # The proxy has the same standard error: this returns once both processes have ended.
    killed = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, timeout=60.0)
    assert (killed.returncode, killed.stderr) == (-signal.SIGKILL, "")
