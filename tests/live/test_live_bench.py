"""The benchmarks' own processes, over real libp2p: what they measure, and what they leave behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import psutil
import torch
from click.testing import CliRunner
from helpers.daemons import daemons_of

from p2p_elastic.bench import overhead
from p2p_elastic.bench.exchange import ExchangeOptions, ends
from p2p_elastic.cli.main import main

START_SECONDS, END_SECONDS = 120.0, 10.0


def test_two_processes_exchange_and_swap_and_say_what_it_took() -> None:
    with ends(ExchangeOptions(), 0.1, "none", None) as two:
        processes = [psutil.Process(pid) for pid in (*two.asking.pids, *two.answering.pids)]
        held = two.memory()
        done, bare = two.exchange(), two.swap(100_000)
        last = two.asking.ask("last")
    assert done.asking is not None
    assert 0.0 < done.asking <= done.seconds
    assert bare.seconds > 0.0
    assert done.cpu > 0.0
    assert last["bytes_sent"] >= 100_000
    assert not last["direct"]  # too small for that
    assert held.asking is None or 0 < held.asking < 100e6
    assert len(processes) == 4
    assert psutil.wait_procs(processes, timeout=END_SECONDS)[1] == []


def test_the_command_measures_two_real_processes() -> None:
    options = ["--size", "0.4", "--codec", "float16", "--streams", "2", "--rounds", "2", "--json", "-"]
    result = CliRunner().invoke(main, ["bench", "exchange", *options])
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)["rows"]
    assert 0.2 <= row["megabytes_sent_each_way"] < 0.21
    assert row["way"] == "libp2p"
    assert row["ours"]["seconds"]["runs"] == row["bare"]["seconds"]["runs"] == 2
    assert row["ours"]["seconds"]["low"] > 0.0
    assert set(row["extra_models"]) == {"asking", "answering"}


def test_a_training_loop_is_measured_alone_and_while_it_exchanges() -> None:
    threads = torch.get_num_threads()
    options = overhead.OverheadOptions(megabytes=(0.1,), periods=(4,), seconds=0.5, windows=1)
    try:
        (found,) = overhead.run(options, lambda _: None)["rows"]
    finally:
        torch.set_num_threads(threads)  # it measures with one
    assert found["exchanges"] > 0
    assert 0.0 < found["throughput"].median < 10.0


def test_a_benchmark_that_is_told_to_stop_leaves_no_process() -> None:
    arguments = ["--size", "0.1", "--codec", "none", "--rounds", "1000", "--rtt-ms", "5"]
    command = [sys.executable, "-m", "p2p_elastic", "bench", "exchange", *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        end, started, daemons = time.monotonic() + START_SECONDS, list[psutil.Process](), 0
        while time.monotonic() < end and not (daemons == 2 and len(started) >= 6):  # with both proxies
            time.sleep(0.05)
            daemons = len(daemons_of(process.pid))
            started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=END_SECONDS)[1]
    assert psutil.wait_procs(started, timeout=END_SECONDS)[1] == []
    assert process.returncode == 130
    assert "Traceback" not in said


def test_far_away_exchanges_are_direct_too() -> None:
    with ends(ExchangeOptions(rtt_ms=20.0), 0.4, "none", 2) as two:
        done = two.exchange()
        assert two.asking.ask("last")["direct"]
    assert done.seconds > 0.02
