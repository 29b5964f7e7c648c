"""The wish to stop, however it comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from p2p_elastic.common.stop import Stop

pytestmark = pytest.mark.processes

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    assert {number: signal.getsignal(number) for number in SIGNALS} == before


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks(number: signal.Signals) -> None:
    with Stop().signals() as stop:
        assert not stop()
        signal.raise_signal(number)
        assert stop()


def test_a_terminal_that_is_closed_may_say_so_twice() -> None:
    with Stop().signals() as stop:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        assert stop()


def test_what_nohup_has_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop().signals() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("first", ["stop.ask()", "signal.raise_signal(signal.SIGHUP)"])
def test_ctrl_c_after_another_wish_ends_at_once(first: str) -> None:
    code = (
        "import signal\nfrom p2p_elastic.common.stop import Stop\n"
        f"with Stop().signals() as stop:\n    {first}\n    signal.raise_signal(signal.SIGINT)\nprint('went on')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (128 + signal.SIGINT, "")


def test_a_peer_whose_output_nobody_reads_is_asked_to_finish() -> None:
    code = (
        "import sys, p2p_elastic.node.join as joining\nfrom p2p_elastic.cli.main import main\n"
        "def join(config, screen, stop):\n"
        "    screen.say('loading', 'Loading ...')\n"
        "    print('asked' if stop() else 'not asked', file=sys.stderr)\n"
        "joining.join = join\nmain(['join', '--log-format', 'text'])"
    )
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120, check=False
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr.strip().splitlines()[-1]) == (141, "asked")
