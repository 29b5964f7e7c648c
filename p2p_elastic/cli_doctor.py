"""The command `p2p-elastic doctor`. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p2p_elastic import __version__
from p2p_elastic.cli_errors import clean_errors
from p2p_elastic.stop import Stop

if TYPE_CHECKING:
    from rich.console import Console

    from p2p_elastic.doctor_checks import Finding

COLOURS = {"ok": "green", "warning": "yellow", "failure": "red"}

HELP = """See whether this machine is ready to take part, before it does.

    Give the options that you will give to `join`; each finding says ok, warning or failure, and what to do. Looks at
    Python and packages, memory, disk, ports, addresses, the initial peers and the run behind them, the task and its
    data. It starts libp2p for a few seconds, trains nothing, downloads nothing, and leaves nothing behind.

    \b
      p2p-elastic doctor
      p2p-elastic doctor --task mnist --port 31330
      p2p-elastic doctor --initial-peer /ip4/192.168.1.7/tcp/31330/p2p/12D3Koo...

    Whether others can reach this machine is not seen from here: start a peer, and ask the doctor of another machine
    with --initial-peer.

    Exit code: 0 no failure, though perhaps warnings; 1 at least one failure; 2 bad usage.
    """


def _doctor(as_json: bool, **options: Any) -> None:
    given = {key: value for key, value in options.items() if value is not None and value != ()}
    with Stop().signals() as stop, clean_errors():
        from rich.console import Console

        from p2p_elastic.doctor import Examination

        # The spinner is on the terminal that there is; findings go above it, or wherever standard output leads.
        console = Console(stderr=as_json or not sys.stdout.isatty(), highlight=False)
        findings: list[Finding] = []
        with _progress(console) as doing, contextlib.closing(Examination(given, doing, stop).findings()) as found:
            for finding in found:
                if stop():
                    raise KeyboardInterrupt
                findings.append(finding)
                if not as_json:
                    _show(finding, console)
        click.echo(json.dumps(_report(findings), indent=2) if as_json else f"\n{_verdict(findings)}")
        sys.exit(int(any(finding.level == "failure" for finding in findings)))


@contextlib.contextmanager
def _progress(console: Console) -> Iterator[Callable[[str], object]]:
    """What is looked at right now, in a terminal."""
    if not console.is_terminal:
        yield lambda _: None
        return
    from rich.text import Text

    with console.status(Text("looking around ...")) as status:
        yield lambda text: status.update(Text(f"{text} ..."))


def _show(finding: Finding, console: Console) -> None:
    """Plain lines in logs and pipes; in a terminal wrapped and coloured."""
    if not sys.stdout.isatty():
        click.echo(f"{finding.level:8}{finding.check:13}{finding.text}")
        if finding.advice is not None:
            click.echo(f"{'':21}-> {finding.advice}")
        return
    from rich.table import Table
    from rich.text import Text

    row = Table.grid(padding=(0, 1))
    for width in (7, 12, None):
        row.add_column(width=width, overflow="fold")
    row.add_row(Text(finding.level, style=COLOURS[finding.level]), Text(finding.check), Text(finding.text))
    if finding.advice is not None:
        row.add_row("", "", Text(f"-> {finding.advice}", style="bold"))
    console.print(row)


def _verdict(findings: list[Finding]) -> str:
    counts = {level: sum(f.level == level for f in findings) for level in ("failure", "warning", "ok")}
    numbers = ", ".join(f"{n} {level}{'s' if n > 1 and level != 'ok' else ''}" for level, n in counts.items() if n)
    if counts["failure"]:
        return f"{numbers}. Not ready: put the failures right first."
    return f"{numbers}. Ready: replace `doctor` by `join`."


def _report(findings: list[Finding]) -> dict[str, object]:
    ready = not any(finding.level == "failure" for finding in findings)
    return {"version": __version__, "ready": ready, "findings": [finding.model_dump() for finding in findings]}


def _options() -> Iterator[click.Option]:
    folder = click.Path(file_okay=False, path_type=Path)
    many: dict[str, Any] = {"multiple": True, "metavar": "MULTIADDR"}
    yield click.Option(["--initial-peer"], help="A peer of the run to join; repeatable.", **many)
    yield click.Option(["--run"], metavar="NAME", help="Name of the run, where there are several.")
    yield click.Option(["--task"], metavar="NAME", help="What to train.  [default: the run's; founder: digits]")
    yield click.Option(["--data-dir"], type=folder, help="Folder with the data set.")
    yield click.Option(["--output"], type=folder, help="Folder for the results.  [default: runs]")
    devices = click.Choice(["auto", "cpu", "cuda", "mps"])
    yield click.Option(["--device"], type=devices, help="Where to train.  [default: auto]")
    yield click.Option(["--host"], help="Address to listen on for peers.  [default: 0.0.0.0]")
    yield click.Option(["--port"], type=int, help="TCP port for peers.  [default: 31330, or any]")
    yield click.Option(["--announce"], help="Address under which others reach us; repeatable.", **many)
    yield click.Option(["--http-host"], help="Address to serve the status on.  [default: 127.0.0.1]")
    yield click.Option(["--http-port"], type=int, help="Port to serve the status on.  [default: 8870, or any]")
    yield click.Option(["--json", "as_json"], is_flag=True, help="One JSON document on standard output at the end.")


doctor = click.Command(
    "doctor",
    callback=_doctor,
    params=list(_options()),
    short_help="See whether this machine is ready to join.",
    help=HELP,
)
