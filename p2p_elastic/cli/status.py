"""The command `p2p-elastic status`. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from p2p_elastic.cli.errors import clean_errors
from p2p_elastic.common.stop import Stop

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from p2p_elastic.client.status import Answer, Watch
    from p2p_elastic.status.swarm import SwarmStatus

WATCH_SECONDS = 1.0
POLL_SECONDS = 0.05
WIDTH = 160  # if the output is no terminal

HELP = """Show how peers are, through the HTTP address that each prints at its start.

    One peer is shown in detail, several as a table. Without URL the peer on this machine at its usual port, 8870, is
    asked. A URL may be host:port, a port of this machine, or what you copied from a browser.

    \b
      p2p-elastic status
      p2p-elastic status 8871 192.168.1.7:8870
      p2p-elastic status --watch
      p2p-elastic status --swarm

    With --swarm the run as a whole is shown: how its members differ, and which of them somebody may have to look at. In
    a large run that is a sample, the members that the peers that are asked see.

    A peer shows itself to other machines only if it was started with --http-host 0.0.0.0.

    Exit code: 0 all are ok; 1 one at least is degraded; 2 one at least could not be asked, or bad usage. With --watch
    it is that of the last look; a peer that has not answered by then could not be asked.
    """


def _status(urls: tuple[str, ...], watch: bool, swarm: bool, as_json: bool, timeout_seconds: float) -> None:
    with Stop().signals() as stop, clean_errors():
        from rich.console import Console

        from p2p_elastic.client.status import DEFAULT_URL, Watch, ask_all, exit_code, parse_url

        asked = tuple(dict.fromkeys(parse_url(url) for url in urls or (DEFAULT_URL,)))
        console, shape = _console(Console), _Shape(len(asked) == 1, swarm, as_json)
        if watch:
            with Watch(asked, timeout_seconds, WATCH_SECONDS) as seen:
                _follow(seen, shape, console, stop)
                answers = seen.latest()
        else:
            with stop.interruptible():
                answers = ask_all(asked, timeout_seconds)
            _show(answers, shape, console)
        sys.exit(exit_code(answers))


def _console(kind: type[Console]) -> Console:
    # A peer's text may have letters that this terminal's encoding lacks.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    return kind(highlight=False, width=None if sys.stdout.isatty() else WIDTH)


class _Shape(NamedTuple):
    """What is shown: of one peer or several, of the run as a whole, as JSON."""

    single: bool
    swarm: bool
    as_json: bool


def _show(answers: tuple[Answer, ...], shape: _Shape, console: Console) -> None:
    if shape.as_json:
        click.echo(_json(answers, shape, indent=2))
    else:
        console.print(_view(answers, shape))


def _swarm(answers: tuple[Answer, ...]) -> SwarmStatus | None:
    """The run as those see it that answered; None if nobody did."""
    from p2p_elastic.status.swarm import swarm_of

    seen = [answer.status for answer in answers if answer.status is not None]
    return swarm_of(seen) if seen else None


def _view(answers: tuple[Answer, ...], shape: _Shape) -> RenderableType:
    from p2p_elastic.screens import status, swarm

    whole = _swarm(answers) if shape.swarm else None
    if whole is None:
        return status.view(answers)
    from rich.console import Group

    lost = tuple(answer for answer in answers if answer.status is None)
    return Group(swarm.view(whole), *([status.view(lost)] if lost else []))


def _json(answers: tuple[Answer, ...], shape: _Shape, indent: int | None = None) -> str:
    from pydantic import TypeAdapter

    from p2p_elastic.client.status import Answer

    whole = _swarm(answers) if shape.swarm else None
    if whole is not None:
        return whole.model_dump_json(indent=indent)
    if shape.single:
        return answers[0].model_dump_json(indent=indent)
    return TypeAdapter(tuple[Answer, ...]).dump_json(answers, indent=indent).decode()


def _follow(seen: Watch, shape: _Shape, console: Console, stop: Stop) -> None:
    """Show the newest answers every second until `stop`: redrawn in a terminal, else a line for each peer."""
    from p2p_elastic.screens.status import line

    while not seen.complete and not _paused(POLL_SECONDS, stop):
        pass
    if shape.as_json:
        _every_second(stop, lambda: click.echo(_json(seen.latest(), shape)))
    elif shape.swarm and not console.is_terminal:
        _every_second(stop, lambda: console.print(_view(seen.latest(), shape)))
    elif not console.is_terminal:
        _every_second(stop, lambda: click.echo("\n".join(f"{_clock()} {line(answer)}" for answer in seen.latest())))
    else:
        from rich.live import Live

        with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
            _every_second(stop, lambda: live.update(_view(seen.latest(), shape), refresh=True))


def _every_second(stop: Stop, show: Callable[[], Any]) -> None:
    while not stop():
        show()
        _paused(WATCH_SECONDS, stop)


def _paused(seconds: float, stop: Stop) -> bool:
    """Wait for some seconds, or until `stop`; says whether it was `stop`."""
    end = time.monotonic() + seconds
    while not stop() and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
    return stop()


def _clock() -> str:
    return time.strftime("%H:%M:%S")


status = click.Command(
    "status",
    callback=_status,
    params=[
        click.Argument(["urls"], metavar="[URL]...", nargs=-1),
        click.Option(["--watch"], is_flag=True, help="Look again every second until Ctrl-C."),
        click.Option(["--swarm"], is_flag=True, help="Show the run as a whole, by the members that these peers see."),
        click.Option(
            ["--json", "as_json"],
            is_flag=True,
            help="One JSON document: an object for one peer or a swarm, a list for several; with --watch one per line.",
        ),
        click.Option(
            ["--timeout", "timeout_seconds"],
            type=click.FloatRange(0.1, 300),
            default=5.0,
            show_default=True,
            metavar="S",
            help="Seconds to wait for a peer.",
        ),
    ],
    short_help="Show how peers are.",
    help=HELP,
)
