"""The other process of a benchmark: answers exchanges until its standard input ends. Run with `python -m`.

    python -m p2p_elastic.bench.partner '{"megabytes": 4.0, ...}'

Says one JSON object when it is ready, and one for each line that it reads: how much memory it took.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
from typing import Any

import torch

from p2p_elastic.bench.live import LivePeer, Setup, in_background
from p2p_elastic.errors import P2PElasticError

END_SECONDS = 10.0


class Partner:
    """That process, seen from the one that started it. A context manager."""

    def __init__(self, setup: Setup) -> None:
        command = [sys.executable, "-m", "p2p_elastic.bench.partner", json.dumps(dataclasses.asdict(setup))]
        self._process = subprocess.Popen(  # noqa: S603  # ourselves
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            said = self._read()
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        self.address, self.peer = str(said["address"]), str(said["peer"])
        self.pids: tuple[int, ...] = tuple(said["pids"])

    def __enter__(self) -> Partner:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def ask(self, what: str) -> Any:
        """`memory`: the most since it was asked to `forget`, in model sizes."""
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return self._read()["answer"]

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise P2PElasticError("the other process of the benchmark ended; what it said is above")
        found: dict[str, Any] = json.loads(line)
        return found


def main(setup: Setup) -> None:
    """Answer until the end of standard input."""
    torch.set_num_threads(1)
    over = threading.Event()
    with LivePeer(setup, setup.model(3.0)) as live:

        def listen() -> None:
            for line in sys.stdin:
                answer = live.extra_models() if line.strip() == "memory" else None
                if line.strip() == "forget":
                    live.forget_peak()
                print(json.dumps({"answer": answer}), flush=True)  # noqa: T201
            over.set()

        ready = {"address": live.network.host.addresses[0], "peer": live.peer.peer, "pids": live.pids}
        print(json.dumps(ready), flush=True)  # noqa: T201
        in_background(listen)
        live.answer_until(over.is_set)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    main(Setup(**{**given, "announce": tuple(given["announce"])}))
