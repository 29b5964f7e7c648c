"""Let schemathesis ask the window all that its own OpenAPI document allows, and much that it does not.

    python -m venv fuzz && fuzz/bin/pip install schemathesis      # an environment of its own
    python benchmarks/fuzz_api.py --schemathesis fuzz/bin/schemathesis [--examples 50] [--seed 1]

Serves an invented peer on a free port, and fuzzes it three times: with its token, without it, and where no token is
known. No answer may be a 5xx or break the document. Exits with 1 where one did, 0 otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from fastapi import FastAPI

from p2p_elastic import __version__
from p2p_elastic.api import ApiServer, bind, create_app
from p2p_elastic.health.controls import Report
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.status.events import EventLog
from p2p_elastic.status.history import History
from p2p_elastic.status.schema import (
    ExchangeRecord,
    ExchangeTotals,
    MemberStatus,
    NetworkStatus,
    PartnerStatus,
    PeerStatus,
    SignalStatus,
    TrainingStatus,
)

TOKEN = "a-token-for-fuzzing-only"
SIGNALS_MAX = 8
# A stream of events ends on its own only where it is asked to: without this each request would wait for its timeout.
CONFIGURATION = """
[[operations]]
include-path = "/v1/events"
parameters = { once = true }
"""


class InventedPeer:
    """Controls, and a status that follows them."""

    def __init__(self) -> None:
        self.reports: dict[str, Report] = {}
        self.weight: float | None = None
        self.drained = False

    def report(self, name: str, report: Report) -> None:
        if len(self.reports) >= SIGNALS_MAX and name not in self.reports:
            self.reports.pop(next(iter(self.reports)))
        self.reports[name] = report

    def forget(self, name: str) -> bool:
        return self.reports.pop(name, None) is not None

    def override_weight(self, weight: float | None) -> None:
        self.weight = weight

    def drain(self) -> None:
        self.drained = True

    def resume(self) -> None:
        self.drained = False

    def status(self) -> PeerStatus:
        numbers = {"step": 9, "seconds": 0.1, "bytes_sent": 1, "bytes_received": 1, "age_seconds": 1.0}
        record = ExchangeRecord(id="7c", partner="B", initiated=True, outcome=Outcome.COMPLETED, **numbers)
        return PeerStatus(
            peer="A",
            version=__version__,
            run="digits",
            task="digits",
            schema_hash="5f",
            rule="elastic-gossip",
            codec="none",
            device="cpu",
            uptime_seconds=100.0,
            weight=1.0 if self.weight is None else self.weight,
            weight_override=self.weight,
            drained=self.drained,
            signals=tuple(
                SignalStatus(
                    name=name,
                    health=1.0 if report.health is None else report.health,
                    value=report.value,
                    unit=report.unit,
                    text=report.text,
                    source="reported",
                )
                for name, report in self.reports.items()
            ),
            training=TrainingStatus(phase="training", step=9, loss=float("nan")),
            exchanges=ExchangeTotals(by_outcome={Outcome.COMPLETED: 1}),
            last_exchanges=(record,),
            members=(MemberStatus(peer="B", addresses=(), state="alive", step=9, loss=None, age_seconds=1.0),),
            partners=(PartnerStatus(peer="B", last=record),),
            network=NetworkStatus(addresses=("/ip4/10.0.0.1/tcp/4001",), attached=True),
        )


def invented_app(token: str | None) -> FastAPI:
    peer, history, events = InventedPeer(), History(), EventLog(time.time)
    history.observe(peer.status())
    events.add("joined", "B joined", peer="B")
    return create_app(peer.status, history=history, events=events, controls=peer, token=token)  # type: ignore[arg-type]


@contextlib.contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The address of a server in a thread of its own."""
    loop = asyncio.new_event_loop()
    server = ApiServer(app, bind("127.0.0.1", 0))

    def work() -> None:
        loop.run_until_complete(server.serve())
        loop.run_until_complete(asyncio.sleep(0))  # for `close` to return
        loop.close()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield server.url
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop)
        thread.join()


def fuzz(executable: Path, url: str, extra: list[str], examples: int, seed: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder) / "schemathesis.toml"
        configuration.write_text(CONFIGURATION)
        command = [str(executable), "--config-file", str(configuration), "run", f"{url}/openapi.json"]
        command += ["--max-examples", str(examples), "--seed", str(seed), "--request-timeout", "10"]
        return subprocess.run([*command, *extra], cwd=folder, check=False).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schemathesis", type=Path, required=True, help="the executable, 4.0 or newer")
    parser.add_argument("--examples", type=int, default=50, help="per operation (default: 50)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    bearer = ["--header", f"Authorization: Bearer {TOKEN}"]
    # Where nobody may write, a missing token is answered with 403, too, not with the 401 that is looked for.
    off = [*bearer, "--exclude-checks", "missing_required_header"]
    codes = []
    for what, token, extra in (("with", TOKEN, bearer), ("without", TOKEN, []), ("where there is no", None, off)):
        print(f"\n--- {what} token ---", flush=True)
        with served(invented_app(token)) as url:
            codes.append(fuzz(args.schemathesis, url, extra, args.examples, args.seed))
    sys.exit(max(codes))


if __name__ == "__main__":
    main()
