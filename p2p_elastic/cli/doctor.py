"""The command `p2p-elastic doctor`. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import contextlib
import copy
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p2p_elastic import __version__
from p2p_elastic.cli.errors import clean_errors
from p2p_elastic.cli.options import asked
from p2p_elastic.common.stop import Stop

if TYPE_CHECKING:
    from rich.console import Console

    from p2p_elastic.doctor.checks import Finding

LISTED = (
    *("initial_peer", "run", "task", "data_dir", "output", "device", "optimizer", "host", "port", "announce"),
    *("direct_port", "no_direct", "http_host", "http_port", "http_token_file", "identity", "config_file"),
)
"""Options of `join` that are in this help: what is looked at follows from them. The others are taken silently."""
NOT_TAKEN = "resume"  # a checkpoint is read by the peer that goes on from it

COLOURS = {"ok": "green", "warning": "yellow", "failure": "red"}

HELP = """See whether this machine is ready to take part, before it does.

    Give the options that you will give to `join`; each finding says ok, warning or failure, and what to do. Looks at
    Python and packages, memory, disk, ports, key files, addresses, the initial peers and the run behind them, the task
    and its data. It starts libp2p for a few seconds, trains nothing, downloads nothing, and leaves nothing behind.

    All options of `join` but --resume are taken. Below are those by which something here is looked at; of the others,
    such as --shard or --rule, the values are checked, and whether the run allows them.

    \b
      p2p-elastic doctor
      p2p-elastic doctor --task mnist --port 31330
      p2p-elastic doctor --task mnist --link 1Mbit/s --step-seconds 0.2
      p2p-elastic doctor --initial-peer /ip4/192.168.1.7/tcp/31330/p2p/12D3Koo...

    Whether others can reach this machine is not seen from here: start a peer, and ask the doctor of another machine
    with --initial-peer.

    Exit code: 0 no failure, though perhaps warnings; 1 at least one failure; 2 bad usage.
    """


@click.pass_context
def _doctor(
    context: click.Context,
    /,
    as_json: bool,
    config_file: Path | None,
    link: str | None,
    step_seconds: float,
    **options: Any,
) -> None:
    given = asked(context, options)
    given.pop("verbose", None)  # an option of `join`, but none that can be in a file
    with Stop().signals() as stop, clean_errors():
        from rich.console import Console

        from p2p_elastic.doctor.report import Examination
        from p2p_elastic.rate_limit import parse_bandwidth

        # The spinner is on the terminal, if there is one; findings go above it, or to standard output.
        console = Console(stderr=as_json or not sys.stdout.isatty(), highlight=False)
        findings: list[Finding] = []
        rate = None if link is None else parse_bandwidth(link)
        described = None if rate is None else (rate, step_seconds)
        with (
            _progress(console) as doing,
            contextlib.closing(Examination(config_file, given, doing, stop, described).findings()) as found,
        ):
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
    """Show in a terminal what is looked at right now."""
    if not console.is_terminal:
        yield lambda _: None
        return
    from rich.text import Text

    with console.status(Text("looking around ...")) as status:
        yield lambda text: status.update(Text(f"{text} ..."))


def _show(finding: Finding, console: Console) -> None:
    """Print plain lines in logs and pipes; wrapped and coloured ones in a terminal."""
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


def doctor_of(join: click.Command) -> click.Command:
    """Build the command `doctor`, with the options of `join`.

    Args:
        join: the command `join`.

    Returns:
        The command.
    """
    return click.Command(
        "doctor",
        callback=_doctor,
        params=list(_options(join)),
        short_help="See whether this machine is ready to join.",
        help=HELP,
    )


def _options(join: click.Command) -> Iterator[click.Option]:
    for option in join.params:
        if isinstance(option, click.Option) and option.name != NOT_TAKEN:
            ours = copy.copy(option)
            ours.hidden = option.name not in LISTED
            yield ours
    yield click.Option(
        ["--link"],
        metavar="RATE",
        help="What the link to other peers carries each way, such as 1Mbit/s: says how exchanges fit.",
    )
    yield click.Option(
        ["--step-seconds"],
        type=click.FloatRange(0.0, min_open=True),
        default=0.1,
        help="... with steps that take this long.",
    )
    yield click.Option(["--json", "as_json"], is_flag=True, help="One JSON document on standard output at the end.")
