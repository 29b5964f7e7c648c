"""The numbers of the papers, next to ours.

    python benchmarks/papers/papers.py --data-dir DIR [--rows M1,M2,...|mnist|cifar-gossip|cifar-easgd|lsgd|adahessian]
                                [--scale 0.2] [--seeds 1] [--output docs/results/papers] [--store papers-store]
                                [--loop auto|stacked|looped]

Finished runs are kept in the store: interrupt it, give the same command again, and it goes on with what is missing.
The tables are of everything that the store has, of each row its longest runs. `--render` only writes them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import torch
from claims import CLAIMS, RowsAsked, mean, measure
from rich.console import Console
from rows import GROUPS, WITH, Group, Row

from p2p_elastic import __version__
from p2p_elastic.common.stop import Stop
from p2p_elastic.errors import ConfigError, P2PElasticError
from p2p_elastic.parameters.devices import choose_device
from p2p_elastic.screens.simulation import LineProgress, outcome_line
from p2p_elastic.simulator import plots
from p2p_elastic.simulator.config import Loop, SimulationConfig, SimulationResult
from p2p_elastic.simulator.options import build
from p2p_elastic.simulator.report import write_text
from p2p_elastic.simulator.run import simulate
from p2p_elastic.simulator.sweep import Store, Turn, markdown_table, run_all
from p2p_elastic.tasks import Data, find_task

SEED = 1234
ON_A_CPU = ("mnist",)
VERDICTS = {True: "holds", None: "within noise", False: "does not hold"}

Found = Mapping[str, Sequence[SimulationResult]]
"""Row -> its results, one per seed, all of the same length."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--rows", default="", help="targets or groups; default: what the device is for")
    parser.add_argument("--scale", type=float, default=1.0, help="of the papers' epochs; each row has at least one")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each row; the tables have their mean")
    parser.add_argument("--output", type=Path, default=Path("docs/results/papers"), help="OUTPUT.md and OUTPUT-*.png")
    parser.add_argument("--store", type=Path, default=Path("papers-store"))
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--loop", default="auto", choices=get_args(Loop), help="see `p2p-elastic simulate --help`")
    parser.add_argument("--list", action="store_true", help="list what would run, and exit")
    parser.add_argument("--render", action="store_true", help="run nothing; write the tables of what the store has")
    options = parser.parse_args()
    try:
        return run(options)
    except P2PElasticError as error:
        print(f"papers.py: error: {error}", file=sys.stderr)
        return 2


def run(options: argparse.Namespace) -> int:
    device = choose_device(options.device)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if not (0.0 < options.scale <= 1.0 and options.seeds >= 1):
        raise ConfigError("scale/seeds", (options.scale, options.seeds), "a scale above 0 up to 1; at least one seed")
    rows = choose(options.rows, device, quiet=options.render)
    configs = {
        resized(row.config, scaled(row.config, options.scale), s): row for s in seeds(options.seeds) for row in rows
    }
    if options.list:
        for row in rows:
            epochs = scaled(row.config, options.scale)
            print(f"{row.number:6} {row.name:32} {row.config.task} x {row.config.workers}, {epochs} epochs")
        return 0
    stopped = False
    store = Store(options.store)
    if not options.render:
        write_text(options.store / ".gitignore", "*\n")
        stopped = not run_rows(configs, store, device, options.data_dir, options.loop)
    write(options, found(store))
    return 130 if stopped else 0


def choose(names: str, device: torch.device, *, quiet: bool = False) -> list[Row]:
    """The rows of targets or groups; without any, those that the device is for. Raises ConfigError."""
    asked = [name.strip() for name in names.split(",") if name.strip()]
    if not asked:
        asked = [group.key for group in GROUPS if device.type != "cpu" or group.key in ON_A_CPU]
        if device.type == "cpu" and not quiet:
            print("No GPU: only mnist. The others would take days; ask for them by name, e.g. --rows C1.")
    allowed = {group.key for group in GROUPS} | WITH.keys() | {row.number for group in GROUPS for row in group.rows}
    for name in asked:
        if name not in allowed:
            raise ConfigError("rows", name, f"allowed: {', '.join(sorted(allowed))}")
    asked += [WITH[name] for name in asked if name in WITH]
    return [row for group in GROUPS for row in group.rows if group.key in asked or row.number in asked]


def seeds(count: int) -> range:
    return range(SEED, SEED + count)


def scaled(config: SimulationConfig, scale: float) -> int:
    """A part of its epochs."""
    return max(1, round((config.epochs or 1) * scale))


def resized(config: SimulationConfig, epochs: int, seed: int) -> SimulationConfig:
    """The same with other epochs and another seed; the learning rate decays in proportion."""
    part = epochs / (config.epochs or 1)
    milestones = find_task(config.task).recipe.milestones if config.milestones is None else config.milestones
    options: dict[str, object] = {"epochs": epochs, "seed": seed}
    if part != 1.0 and milestones:
        options["milestones"] = tuple(milestone * part for milestone in milestones)
    return build({**options, "lr_decay": config.lr_decay / part}, config)


def run_rows(
    configs: Mapping[SimulationConfig, Row], store: Store, device: torch.device, data_dir: Path | None, loop: Loop
) -> bool:
    """Run what is missing. False where it was stopped before the end."""
    console, loaded = Console(width=120, highlight=False, markup=False), dict[str, Data]()

    def announce(turn: Turn) -> None:
        row, config = configs[turn.config], turn.config
        state = "finished before" if turn.found else f"{config.task}, {config.epochs} epochs, seed {config.seed}"
        console.print(f"[{turn.number}/{turn.total}] {row.number} {row.name}: {state}")

    with Stop().signals() as stop:

        def one(config: SimulationConfig) -> SimulationResult | None:
            if stop():
                return None
            if config.task not in loaded:
                loaded[config.task] = find_task(config.task).load(data_dir)
            progress = LineProgress(console)
            data = loaded[config.task]
            result = simulate(
                config, data, device, clock=time.monotonic, progress=progress, should_stop=stop, loop=loop
            )
            if stop() or not result.points or result.points[-1].step != progress.steps:
                return None
            console.print(outcome_line(result))
            return result

        return len(run_all(list(configs), store, one, announce)) == len(configs)


def found(store: Store) -> dict[str, list[SimulationResult]]:
    """What the store has of each row: of all lengths the longest, every seed of it."""
    there = {result.config: result for result in store}
    lengths = {(config.epochs, config.seed) for config in there if config.epochs is not None}
    rows = {}
    for group in GROUPS:
        for row in group.rows:
            wanted = (resized(row.config, epochs, seed) for epochs, seed in sorted(lengths))
            results = [there[config] for config in wanted if config in there]
            longest = max((result.config.epochs or 0 for result in results), default=0)
            if longest:
                rows[row.name] = [result for result in results if result.config.epochs == longest]
    return rows


# -- the document -----------------------------------------------------------------------------------------------------


def write(options: argparse.Namespace, rows: Found) -> None:
    """Write OUTPUT.md and OUTPUT-NAME.png."""
    parts = [_head(rows)]
    for group in GROUPS:
        if any(row.name in rows for row in group.rows):
            parts += [_section(group, rows), *_pictures(options.output, group, rows)]
    target = options.output.with_suffix(".md")
    write_text(target, "\n".join(parts))
    print(f"Wrote {target}: {len(rows)} rows.")


def _head(rows: Found) -> str:
    devices = sorted({result.device for results in rows.values() for result in results})
    seconds = sum(result.seconds for results in rows.values() for result in results)
    return (
        "# The papers' numbers, next to ours\n\n"
        f"Written by `benchmarks/papers/papers.py` of p2p-elastic {__version__}; {seconds / 3600:.1f} h on "
        f"{', '.join(devices)}. All numbers are percent of the test split; the difference is ours minus the paper's. "
        "Rank-0 is the first worker, average the averaged parameters. A claim is `within noise` where it is missed by "
        "no more than two standard deviations of the difference of two single runs.\n"
    )


def _section(group: Group, rows: Found) -> str:
    there = [row for row in group.rows if row.name in rows]
    metrics = [metric for metric in group.metrics if any(metric in row.paper for row in there)]
    text = f"## {group.heading}\n\n{_length(there, rows)}{group.notes}\n\n"
    heading = ["", "row", "epochs", "seeds", "exchanges"]
    for metric in metrics:
        heading += [f"{metric}, paper", "ours", "difference"]
    text += markdown_table(heading, [_row(row, metrics, group.tolerance, rows[row.name]) for row in there])
    text += f"\nTolerance for a single run of full length: {group.tolerance:g} points; what is outside is bold.\n"
    claims = _claims({row.number for row in group.rows}, rows)
    if claims:
        text += f"\n{markdown_table(['', 'claim', 'verdict', 'numbers'], claims)}"
    return text


def _length(rows: Sequence[Row], results: Found) -> str:
    """The heading line that says how much shorter than in the paper the runs are; nothing where they are not."""
    lengths = sorted({(results[row.name][0].config.epochs or 0, row.config.epochs or 0) for row in rows})
    short = [f"{ours} of {full}" for ours, full in lengths if ours < full]
    if not short:
        return ""
    rest = "ranking and gaps are"
    if any((config := results[row.name][0].config).milestones or config.lr_decay for row in rows):
        rest += "; the learning rate decays in proportion"
    return f"**{', '.join(short)} epochs: reduced, numbers are not comparable in absolute terms; {rest}.**\n\n"


def _row(row: Row, metrics: Sequence[str], tolerance: float, results: Sequence[SimulationResult]) -> list[str]:
    ours = mean(results)
    cells = [row.number, row.name, f"{results[0].config.epochs}/{row.config.epochs}", str(len(results))]
    cells.append(f"{ours['exchanges']:.0f}")
    for metric in metrics:
        if metric not in row.paper:
            cells += ["", "", ""]
            continue
        difference = ours[metric] - row.paper[metric]
        shown = f"{difference:+.2f}"
        deviation = ""
        if len(results) > 1:
            deviation = f" ± {statistics.stdev(measure(result)[metric] for result in results):.2f}"
        outside = abs(difference) > tolerance and results[0].config.epochs == row.config.epochs
        cells += [f"{row.paper[metric]:.2f}", f"{ours[metric]:.2f}{deviation}", f"**{shown}**" if outside else shown]
    return cells


def _claims(targets: set[str], rows: Found) -> list[list[str]]:
    lines = []
    for claim in CLAIMS:
        if targets.isdisjoint(WITH.get(target, target) for target in claim.target.split(", ")):
            continue
        numbers = RowsAsked(rows)
        try:
            verdict = claim.check(numbers)
        except KeyError as missing:
            lines.append([claim.target, claim.text, "undecided", f"missing: {missing.args[0]}"])
            continue
        if not numbers.comparable:
            lines.append([claim.target, claim.text, "undecided", f"rows of different lengths: {verdict.detail}"])
            continue
        lines.append([claim.target, claim.text, VERDICTS[verdict.holds], verdict.detail])
    return lines


def _pictures(output: Path, group: Group, rows: Found) -> list[str]:
    """Draw the pictures of a group; gives their lines of Markdown. None where there is no matplotlib."""
    lines = []
    for name, targets in group.pictures.items():
        series = [
            plots.Series(row.name, result, row.colour, row.style)
            for row in group.rows
            if row.target in targets
            for result in rows.get(row.name, ())
        ]
        try:
            drawn = plots.draw(
                series,
                output.parent,
                title=group.heading,
                stem=f"{output.name}-{name}-",
                which=("accuracy-steps", "accuracy-bytes"),
            )
        except ConfigError as error:
            print(f"no pictures: {error}", file=sys.stderr)
            return []
        lines += [f"![{name}, {path.stem.rsplit('-', 1)[-1]}]({path.name})\n" for path in drawn]
    return lines


if __name__ == "__main__":
    sys.exit(main())
