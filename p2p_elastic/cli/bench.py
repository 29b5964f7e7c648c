"""`p2p-elastic bench`: how fast exchanges are on this machine, and what they cost."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from p2p_elastic.cli.errors import clean_errors
from p2p_elastic.cli.options import CODEC_NAMES
from p2p_elastic.common.stop import Stop
from p2p_elastic.protocol.limits import FRAGMENTS_MAX, LANES_MAX

MEGABYTES = "4,100,400"


@click.group(short_help="Measure exchanges on this machine.")
def bench() -> None:
    """Measure how fast exchanges are here and what they cost, against the best that this machine could do.

    Every figure is a median with its smallest and largest value; ratios are of pairs measured one after the other in
    the same run. Real processes over real libp2p, on loopback: nothing leaves this machine.

    \b
      p2p-elastic bench exchange --size 100
      p2p-elastic bench exchange --size 100 --rtt-ms 100 --streams 1,24
      p2p-elastic bench overhead
      p2p-elastic bench apply --json apply.json
    """


def _json_option(command: Callable[..., None]) -> Callable[..., None]:
    path = click.Path(dir_okay=False, path_type=Path, allow_dash=True)
    text = "Write everything as JSON to this file; - is standard output, in the place of the table."
    return click.option("--json", "target", type=path, callback=_writable, help=text)(command)


def _writable(_context: click.Context, _option: click.Parameter, path: Path | None) -> Path | None:
    """Refuse a file that cannot be written now, not after minutes of measuring."""
    if path is not None and str(path) != "-":
        try:
            path.open("a").close()
        except OSError as error:
            raise click.BadParameter(f"{str(path)!r} cannot be written: {error.strerror}") from error
    return path


_weighting_option = click.option(
    "--weighting",
    type=click.Choice(["fixed", "dynamic"]),
    default="fixed",
    help="dynamic keeps a second vector, to try a partner's parameters.",
)


def _numbers(_context: click.Context, option: click.Parameter, text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: numbers with commas between them, such as {option.default}") from error
    if not all(0.0 < number < 1e6 for number in found):
        raise click.BadParameter(f"{text!r}: each number must be above 0")
    return found


@bench.command(short_help="One exchange between two processes, against a bare stream.")
@click.option("--size", default=MEGABYTES, callback=_numbers, help="Millions of bytes of the model in float32.")
@click.option("--codec", default="none,float16", help=f"How parameters travel: {', '.join(CODEC_NAMES)}.")
@click.option("--streams", default="auto", help=f"Streams for the vectors of one exchange: 1 to {LANES_MAX}, or auto.")
@click.option(
    "--fragment", type=click.IntRange(1, FRAGMENTS_MAX), default=1, help="Parts of the model; an exchange moves one."
)
@_weighting_option
@click.option("--rounds", type=click.IntRange(1, 1000), default=9, help="How often each is measured.")
@click.option("--rtt-ms", type=click.FloatRange(0, 10_000), default=0.0, help="Put a round trip between the two.")
@click.option("--no-direct", is_flag=True, help="Over libp2p only.")
@_json_option
def exchange(
    size: tuple[float, ...],
    codec: str,
    streams: str,
    fragment: int,
    weighting: Any,
    rounds: int,
    rtt_ms: float,
    no_direct: bool,
    target: Path | None,
) -> None:
    """Two real peers exchange: from asking, with snapshot, checks and elastic move, until the move is added.

    "bare" is a libp2p stream between the same two processes that carries the model's float32 bytes both ways and does
    nothing else. CPU seconds are of all four processes, two of Python and two of libp2p's p2pd. "extra" is the most
    memory that a peer took beyond its model, in model sizes, without what exchanges of next to nothing take.
    """
    with Stop().signals() as stop, clean_errors():
        from p2p_elastic.bench.exchange import ExchangeOptions, run
        from p2p_elastic.protocol.link_choice import check_codec

        codecs = tuple(check_codec("codec", name) for name in codec.split(","))
        options = ExchangeOptions(
            size,
            codecs,
            tuple(map(_streams, streams.split(","))),
            fragment,
            weighting,
            rounds,
            rtt_ms,
            direct=not no_direct,
        )
        with stop.interruptible():
            found = run(options, _say)
        _show(found, target, _exchange_lines)


def _streams(text: str) -> int | None:
    if text == "auto":
        return None
    if not (text.isdigit() and 1 <= int(text) <= LANES_MAX):
        raise click.BadParameter(f"{text!r}: auto, or a number from 1 to {LANES_MAX}", param_hint="--streams")
    return int(text)


@bench.command(short_help="What exchanging costs a peer that trains.")
@click.option("--size", default="1,12,48", callback=_numbers, help="Millions of bytes of the model.")
@click.option("--period", default="8,32,128", callback=_numbers, help="Steps between two exchanges.")
@click.option("--codec", default="none", help="How parameters travel.")
@_weighting_option
@click.option("--seconds", type=click.FloatRange(0.5, 600), default=6.0, help="Length of each window.")
@click.option("--windows", type=click.IntRange(1, 100), default=5, help="Windows of each kind, in turns.")
@_json_option
def overhead(
    size: tuple[float, ...],
    period: tuple[float, ...],
    codec: str,
    weighting: Any,
    seconds: float,
    windows: int,
    target: Path | None,
) -> None:
    """A training loop alone, and the same loop while it exchanges with a peer in another process, in turns.

    On Linux with two cores or more the training thread has a core of its own, and everything else the others; there
    the partner and its p2pd, which would be on another machine, yield to this peer's network threads and p2pd (nice).
    """
    with Stop().signals() as stop, clean_errors():
        from p2p_elastic.bench.overhead import OverheadOptions, run
        from p2p_elastic.protocol.link_choice import check_codec

        periods = tuple(max(1, int(steps)) for steps in period)
        options = OverheadOptions(size, periods, check_codec("codec", codec), weighting, seconds, windows)
        with stop.interruptible():
            found = run(options, _say)
        _show(found, target, _overhead_lines)


@bench.command(short_help="Snapshot and move, against a copy in memory.")
@click.option("--size", default=MEGABYTES, callback=_numbers, help="Millions of bytes of the model.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=15, help="How often each is measured.")
@click.option("--threads", type=click.IntRange(1, 1024), default=1, help="CPU threads for PyTorch.")
@_json_option
def apply(size: tuple[float, ...], rounds: int, threads: int, target: Path | None) -> None:
    """What the training thread does for an exchange: copy its parameters, and add a move to them.

    On a GPU, too, if there is one; then the copy is from the GPU.
    """
    with Stop().signals() as stop, clean_errors():
        from p2p_elastic.bench.apply import ApplyOptions, run

        with stop.interruptible():
            found = run(ApplyOptions(size, rounds=rounds, threads=threads), _say)
        _show(found, target, _apply_lines)


# -- what people see ---------------------------------------------------------------------------------------------------


def _say(text: str) -> None:
    click.echo(f"measuring {text} ...", err=True)


def _show(found: Mapping[str, Any], target: Path | None, lines: Callable[[Mapping[str, Any]], list[str]]) -> None:
    from p2p_elastic.bench.figures import as_json

    plain = as_json(found)
    text = json.dumps(plain, indent=1)
    if target is not None and str(target) == "-":
        sys.stdout.write(text + "\n")
        return
    if target is not None:
        target.write_text(text + "\n")
    click.echo("\n".join(lines(plain)))


def _span(spread: Mapping[str, float], scale: float = 1.0, digits: int = 3) -> str:
    median, low, high = (scale * spread[key] for key in ("median", "low", "high"))
    return f"{median:.{digits}g} ({low:.{digits}g}..{high:.{digits}g})"


def _exchange_lines(found: Mapping[str, Any]) -> list[str]:
    titles = f"{'exchange, s':>24} {'bare stream, s':>24} {'ratio':>20} {'CPU s':>6} extra"
    lines = [f"{'MB':>6} {'codec':9} {'streams':7} {'way':6} {titles}"]
    for row in found["rows"]:
        extra = [e for e in row["extra_models"].values() if e is not None]
        ours, bare = row["ours"], row["bare"]
        lines.append(
            f"{row['megabytes']:6g} {row['codec']:9} {row['streams']!s:7} {row['way']:6} {_span(ours['seconds']):>24} "
            f"{_span(bare['seconds']):>24} {_span(row['ours_to_bare']):>20} {ours['cpu_seconds']['median']:6.2f} "
            f"{f'{max(extra):.2f}' if extra else '?'}"
        )
    return lines


def _overhead_lines(found: Mapping[str, Any]) -> list[str]:
    lines = [f"{'MB':>6} {'period':>6} {'throughput':>24} {'p99 of a step':>24} {'step, ms':>9} exchanges"]
    lines += [
        f"{row['megabytes']:6.3g} {row['period']:6} {_span(row['throughput']):>24} {_span(row['p99_ratio']):>24} "
        f"{row['step_ms']['alone']['median']:9.3g} {row['exchanges']} of {row['exchanges_due']} due"
        for row in found["rows"]
    ]
    cores = (
        "the training thread had a core of its own; on the others its network and p2pd went before the partner's"
        if found["own_core"]
        else "the training thread shared the cores with everything else"
    )
    return [*lines, "throughput and 99th percentile: with exchanges, against the loop alone", cores]


def _apply_lines(found: Mapping[str, Any]) -> list[str]:
    lines = [f"{'MB':>6} {'tensors':>7} {'device':6} {'flat':5} {'copy, GB/s':>22} {'snapshot':>22} {'add':>22}"]
    for row in found["rows"]:
        speeds = row["gigabytes_per_second"]
        lines.append(
            f"{row['megabytes']:6g} {row['tensors']:7} {row['device']:6} {'yes' if row['flat'] else 'no':5} "
            + " ".join(f"{_span(speeds[name]):>22}" for name in ("copy", "snapshot", "add"))
        )
    return lines
