"""One peer of `thin.py`: `p2p-elastic` as it is, in a namespace, which writes down each step and each exchange.

python peer.py '{"namespace": ..., "record": FILE, "rest": SECONDS}' join ...
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)
sys.path.insert(1, str(ROOT / "tests"))

from live_chaos.launch import enter_namespace  # noqa: E402  # needs the paths


def record_to(path: str, rest: float) -> None:
    """Write down each step, with what it took apart from the rest after it, each exchange that ended, and DHT calls."""
    from p2p_elastic.peers.discovery.signed_records import DHTProtocol
    from p2p_elastic.peers.exchange.journal import Entry, Journal
    from p2p_elastic.training.meter import Meter

    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    stepped, enter, began = Meter.stepped, Journal.enter, [time.monotonic()]

    def write(**line: Any) -> None:
        os.write(file, json.dumps({"at": time.monotonic(), **line}).encode() + b"\n")

    def step(meter: Meter, loss: float) -> None:
        stepped(meter, loss)
        write(step=meter.step, loss=loss, seconds=time.monotonic() - began[0])
        time.sleep(rest)
        began[0] = time.monotonic()

    def entered(journal: Journal, entry: Entry, *more: Any, **named: Any) -> None:
        enter(journal, entry, *more, **named)
        sizes = {"sent": entry.bytes_sent, "received": entry.bytes_received, "initiated": entry.initiated}
        ended = {"outcome": entry.outcome.value, "reason": entry.reason, "way": entry.way.model_dump()}
        write(exchange=entry.id, seconds=entry.seconds, **ended, **sizes)

    for name in ("ping", "store", "find"):
        method = f"rpc_{name}"
        setattr(DHTProtocol, method, _counting(getattr(DHTProtocol, method), functools.partial(write, call=name)))
    Meter.stepped, Journal.enter = step, entered  # type: ignore[method-assign, assignment]


def _counting(answer: Callable[..., Awaitable[Any]], write: Callable[..., None]) -> Callable[..., Awaitable[Any]]:
    """Write down how many bytes each call of the DHT asked and answered, without what libp2p adds."""

    @functools.wraps(answer)
    async def counted(protocol: Any, request: Any, context: Any) -> Any:
        response = await answer(protocol, request, context)
        write(asked=request.ByteSize(), answered=response.ByteSize())
        return response

    return counted


def main() -> None:
    options = json.loads(sys.argv[1])
    sys.argv = ["p2p-elastic", *sys.argv[2:]]
    enter_namespace(options["namespace"])
    record_to(options["record"], options["rest"])
    from p2p_elastic.cli.main import run

    run()


if __name__ == "__main__":
    main()
