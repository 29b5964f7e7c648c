"""A peer in a process of its own, for benchmarks: one end of an exchange, with nothing else in its memory.

    python -m p2p_elastic.bench.process '{"megabytes": 4.0, ...}'

It prints one JSON object when it is ready, and one in answer to each line that it reads, until its standard input
ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import threading
from typing import Any

import torch

from p2p_elastic.bench.live import LivePeer, Setup, in_background
from p2p_elastic.errors import P2PElasticError

END_SECONDS = 10.0


class PeerProcess:
    """That process, seen from the one that started it. A context manager.

    Args:
        setup: of that end.
        python: with the build that it runs.

    Attributes:
        address: multiaddr with peer id.
        peer: peer id.
        pids: of the process and of its p2pd.
    """

    def __init__(self, setup: Setup, python: str = sys.executable) -> None:
        # What is as usual is left out: an older build may not know it.
        given = {f.name: value for f in dataclasses.fields(setup) if (value := getattr(setup, f.name)) != f.default}
        command = [python, "-m", "p2p_elastic.bench.process", json.dumps({"announce": (), **given})]
        self._process = subprocess.Popen(  # noqa: S603  # this package
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            cwd=None if python == sys.executable else "/",  # in a checkout `-m` would find that build first
        )
        try:
            said = self._read()
        except BaseException:
            with self._process:  # closes its pipes
                self._process.kill()
            raise
        self.address, self.peer = str(said["address"]), str(said["peer"])
        self.pids: tuple[int, ...] = tuple(said["pids"])

    def __enter__(self) -> PeerProcess:
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
        """Send a command, and wait for its answer.

        Args:
            what: `exchange` gives the seconds that it `Took`; `swap PEER BYTES` its seconds; `memory` the bytes that it
                held at most beyond its model since it was asked to `forget`; `last` the bytes of its last exchange, and
                whether it was direct.

        Returns:
            The answer.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return self._read()["answer"]

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)
            code = self._process.returncode
            raise P2PElasticError(f"a process of the benchmark ended with exit code {code}; what it said is above")
        found: dict[str, Any] = json.loads(line)
        return found


def obey(live: LivePeer, line: str) -> Any:
    """Do what one line asks for.

    Args:
        live: the peer of this process.
        line: one of the commands of `PeerProcess.ask`.

    Returns:
        The answer, for JSON.
    """
    what, *about = line.split()
    if what == "exchange":
        return live.exchange()
    if what == "swap":
        return live.bare.swap(about[0], int(about[1]))
    if what == "last":
        exchange = live.peer.last_exchanges()[0]
        return {"bytes_sent": exchange.bytes_sent, "direct": exchange.way.direct}
    if what == "memory":
        return live.extra_bytes()
    assert what == "forget", what
    live.forget_peak()
    return None


def main(setup: Setup) -> None:
    """Obey until the end of standard input; a peer without a period answers exchanges meanwhile.

    Args:
        setup: of this end.
    """
    torch.set_num_threads(1)  # as a peer with other peers beside it on the machine has
    over = threading.Event()
    with LivePeer(setup, setup.model(1.0 if setup.initial_peer else 3.0)) as live:

        def listen() -> None:
            try:
                for line in sys.stdin:
                    say(answer=obey(live, line))
            finally:
                over.set()

        say(address=live.network.host.addresses[0], peer=live.peer.peer, pids=live.pids)
        if setup.period is None:
            in_background(listen)
            live.answer_until(over.is_set)
        else:
            live.wait_for_partner()
            live.peer.report_loss(1.0)
            listen()


def say(**facts: object) -> None:
    """Print one JSON object. Ends the process if nothing reads it any more.

    Args:
        facts: of the object.
    """
    try:
        print(json.dumps(facts), flush=True)  # noqa: T201
    except BrokenPipeError:  # nothing reads it any more; p2pd ends with this process
        os._exit(1)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    try:
        main(Setup(**{**given, "announce": tuple(given["announce"])}))
    except P2PElasticError as error:
        sys.exit(f"{type(error).__name__}: {error}")
