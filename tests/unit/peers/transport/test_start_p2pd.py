"""What p2pd inherits: it cannot be asked to stop, but by its peer."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from p2p_elastic.peers.transport import start_p2pd

pytestmark = pytest.mark.processes

GREEDY = """
import os, signal
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, frame: print(signal.Signals(number).name))
    os.kill(os.getpid(), number)
print(os.getsid(0) == os.getpid(), os.environ["GOMAXPROCS"])
"""


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in start_p2pd.NUMBERS,
    reason="no filter for this kernel",
)
def test_a_program_that_asks_for_the_signals_that_stop_a_service_does_not_get_them() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "GOMAXPROCS"}
    command = [sys.executable, "-I", "-S", start_p2pd.__file__, "3", sys.executable, "-c", GREEDY]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["SIGUSR1", "True", "3"]
