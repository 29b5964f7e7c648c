"""The command `p2p-elastic simulate`. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from p2p_elastic.cli.errors import clean_errors
from p2p_elastic.cli.options import CODEC_NAMES, DATA_DIR, FOLDER
from p2p_elastic.common.stop import Stop

# A word or two on each: the whole table, with sources and defaults, is `--list-rules`. A test keeps the names in step.
RULES_IN_SHORT = {
    "elastic-gossip": "two random workers pull each other (the default)",
    "gossip-pull": "a worker averages itself with a random one",
    "gossip-push": "a worker sends itself to a random one, which averages",
    "gosgd": "push gossip with sum weights",
    "easgd": "workers and a centre pull each other, each when it is due; no momentum",
    "eamsgd": "easgd with momentum",
    "easgd-sync": "easgd in which all meet the same centre at once",
    "lsgd": "workers follow the best of their group, and of all groups",
    "downpour": "workers push what they learnt to a centre and restart from it",
    "mvadownpour": "downpour, evaluated at a moving average of the centre",
    "all-reduce": "gradients are averaged over all before each step",
    "diloco": "all take the mean of all at once, then an outer step",
    "none": "everybody trains alone",
}

EXAMPLES = """\
Eight workers on the digits that come along, half a minute:

\b
  p2p-elastic simulate --workers 8

MNIST, an exchange every 32 steps, and a third of all exchanges fails:

\b
  p2p-elastic simulate --task mnist --epochs 5 --period 32 --drop 0.33

Followers of two leaders:

\b
  p2p-elastic simulate --rule lsgd --workers 8 --groups 2 --period 16 --global-period 64

A sweep: every combination, each run kept as soon as it is finished. Interrupt it, give the same command again, and it
goes on with what is missing:

\b
  p2p-elastic simulate --sweep rule=elastic-gossip,gossip-pull --sweep probability=1/8,1/32 --sweep seed=1,2,3

All workers are in one process and take their steps together; docs/guides/simulate.md says what is exact and what not.
"""


class Option(click.Option):
    """An option that is listed under a heading.

    Args:
        args: as for `click.Option`.
        section: the heading.
        kwargs: as for `click.Option`.
    """

    def __init__(self, *args: Any, section: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class SimulateCommand(click.Command):
    """Lists its options under headings, then the rules, then examples."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their headings, then the rules.

        Args:
            ctx: of the command.
            formatter: takes the text.
        """
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            section = getattr(parameter, "section", "Other")
            if (record := parameter.get_help_record(ctx)) is not None:
                sections.setdefault(section, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)
        with formatter.section("Rules"):
            formatter.write_dl(list(RULES_IN_SHORT.items()))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples.

        Args:
            ctx: of the command.
            formatter: takes the text.
        """
        with formatter.section("Examples"):
            formatter.write_text(EXAMPLES)


def _options() -> Iterator[Option]:
    yield from _what()
    yield from _exchange()
    yield from _training()
    yield from _data()
    yield from _failures()
    yield from _how()


def _of(section: str, *rows: tuple[str, str, str]) -> Iterator[Option]:
    """Make options from (name, metavar, help). Their values are checked with all the others, hence plain texts here."""
    for name, metavar, text in rows:
        yield Option([name], section=section, metavar=metavar, help=text)


def _what() -> Iterator[Option]:
    yield from _of(
        "What",
        ("--task", "NAME", "What to train (see `p2p-elastic tasks`).  [default: digits]"),
        ("--workers", "N", "How many workers.  [default: 4]"),
        (
            "--seed",
            "N",
            "Of data order, dropout, partners and faults; first parameters are always the same.  [default: 1234]",
        ),
    )
    sweep_help = "Simulate every combination of such values of any option above or below; repeatable."
    yield Option(["--sweep"], section="What", multiple=True, metavar="KEY=V1,V2,...", help=sweep_help)


def _exchange() -> Iterator[Option]:
    yield from _of(
        "Exchanges",
        ("--rule", "NAME", "How they train together; all of them are below.  [default: elastic-gossip]"),
        (
            "--moving-rate",
            "ALPHA",
            "How far one moves towards the other, 0 to 1; below 1 if both move.  [default: the rule's]",
        ),
        ("--period", "TAU", "Exchange every TAU steps ..."),
        (
            "--probability",
            "P",
            "... or after each step with probability P, such as 1/32.  [default: 1/32; lsgd: period 16]",
        ),
        (
            "--codec",
            f"[{'|'.join(CODEC_NAMES)}]",
            "How parameters travel; none: as float32.  [default: none]",
        ),
        ("--fragment", "F", "An exchange is about one of F parts of the parameters, in turns.  [default: 1]"),
        (
            "--weighting",
            "[fixed|dynamic]",
            "All workers count the same, or by their health and by what others measure of them.  [default: fixed]",
        ),
        (
            "--outer",
            "[none|nesterov|noloco]",
            "Outer optimizer: after each exchange a step, with momentum, along what was gained since the last one.  "
            "[default: none; diloco: nesterov]",
        ),
        ("--outer-lr", "B", "Of the outer optimizer; 1 goes where the exchange went.  [default: 0.7]"),
        ("--outer-momentum", "A", "Of the outer optimizer.  [default: nesterov 0.7, noloco 0.5, diloco 0.9]"),
        ("--partners", "N", "gossip: how many partners a worker asks at once.  [default: 1]"),
        ("--groups", "N", "lsgd: in how many groups, each with a leader.  [default: 1]"),
        ("--global-period", "TAU", "lsgd: steps between pulls to the best of all.  [default: 4 periods]"),
        ("--global-moving-rate", "ALPHA", "lsgd: how far towards the best of all.  [default: the moving rate]"),
    )


def _training() -> Iterator[Option]:
    recipe = "[default: the task's recipe]"
    yield from _of(
        "Training",
        ("--epochs", "N", f"Passes of each worker over its data ...  {recipe}"),
        ("--steps", "N", "... or steps of each worker."),
        ("--batch-size", "N", f"Examples per step and worker.  {recipe}"),
        ("--optimizer", "[sgd|adamw|adahessian|muon]", "Of each worker; its state stays local.  [default: sgd]"),
        ("--lr", "ETA", f"Learning rate.  {recipe}"),
        ("--milestones", "E1,E2,...", f"Epochs from which on the rate is the recipe's part of it; or none.  {recipe}"),
        ("--lr-decay", "GAMMA", "Divide the rate of step t by (1 + GAMMA t)^0.5.  [default: 0]"),
        ("--momentum", "DELTA", "Nesterov momentum.  [default: the rule's, or the task's recipe]"),
        ("--weight-decay", "L2", f"Weight decay.  {recipe}"),
        ("--evaluate-steps", "N", "Evaluate every N steps.  [default: after each epoch]"),
    )


def _data() -> Iterator[Option]:
    yield from _of(
        "Who has which data",
        (
            "--split",
            "[shards|whole|overlap|dirichlet]",
            "Disjoint shards; all data for all; shards with a common part; shards of few classes.  [default: shards]",
        ),
        ("--overlap", "SHARE", "split overlap: this share of the data goes to everyone.  [default: 0.25]"),
        ("--dirichlet", "BETA", "split dirichlet: concentration; 0.1 is very uneven, 100 is even.  [default: 0.5]"),
    )
    yield Option(["--data-dir"], section="Who has which data", type=FOLDER, help=DATA_DIR)


def _failures() -> Iterator[Option]:
    yield from _of(
        "What goes wrong",
        ("--drop", "P", "An exchange that is due does not take place, with this probability.  [default: 0]"),
        ("--burst", "SHARE", "A worker is cut off for this share of the time, in bursts.  [default: 0]"),
        ("--burst-steps", "N", "Mean length of a burst.  [default: 75]"),
        ("--crash", "P", "A worker restarts from an old snapshot, with this probability per step.  [default: 0]"),
        ("--snapshot-steps", "N", "Steps between snapshots.  [default: 200]"),
        ("--silent", "BOOL", "It does not know that it did; else it copies first, as live peers do.  [default: false]"),
        ("--slow", "N", "This many workers are slow ...  [default: 0]"),
        ("--slow-factor", "F", "... and take one step while the others take F.  [default: 4]"),
        ("--corrupt", "P", "A worker's parameters get noise, with this probability per step.  [default: 0]"),
        ("--noise", "R", "Noise relative to the root mean square of the parameters.  [default: 1]"),
        ("--diverge", "N", "The first N workers have too high a learning rate ...  [default: 0]"),
        ("--diverge-factor", "F", "... by this factor.  [default: 100]"),
        ("--flipped", "N", "The next N workers train on class C - 1 - c in the place of c.  [default: 0]"),
        ("--nan", "N", "The parameters of the N workers after these turn to NaN ...  [default: 0]"),
        ("--nan-step", "T", "... at the end of this step.  [default: 100]"),
    )


def _how() -> Iterator[Option]:
    section = "How"
    yield from _of(
        section,
        ("--device", "[auto|cpu|cuda|mps]", "Where to compute.  [default: auto]"),
        ("--threads", "N", "CPU threads for PyTorch.  [default: PyTorch's]"),
        (
            "--loop",
            "[auto|stacked|looped]",
            "All workers in each operation, or one after the other; the same numbers to rounding, but other dropout "
            "masks.  [default: auto, what is faster]",
        ),
    )
    text = (
        "Folder for results, tables and pictures.  [default: simulations/RULE-TASK-SEED-..., or simulations/sweep-...]"
    )
    yield Option(["--output"], section=section, type=FOLDER, help=text)
    yield Option(["--no-plots"], section=section, is_flag=True, default=None, help="Draw no pictures.")
    text = "Print the result (of a sweep: a list) as JSON on standard output; everything else goes to standard error."
    yield Option(["--json", "as_json"], section=section, is_flag=True, help=text)
    file = click.Path(dir_okay=False, path_type=Path)
    text = "TOML file with any of these options, spelled the same; the command line wins."
    yield Option(["--config", "config_file"], section=section, type=file, help=text)
    yield Option(
        ["--list-rules"],
        section=section,
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_list_rules,
        help="Describe every rule with its defaults and source, and exit.",
    )


def _list_rules(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    from p2p_elastic.rules.methods import RULES  # PyTorch takes a second to load

    for name, method in RULES.items():
        momentum = "the task's" if method.momentum is None else f"{method.momentum:g}"
        where = "simulator and live" if method.live else "simulator only"
        click.echo(f"{name:15} {method.summary}")
        click.echo(f"{'':15} {method.rate}, momentum {momentum}; {where}")
    context.exit()


def _simulate(config_file: Path | None, as_json: bool, **options: Any) -> None:
    given = {key: value for key, value in options.items() if value is not None and value != ()}
    with Stop().signals() as stop, clean_errors():
        # After the handlers: PyTorch takes seconds to load, and Ctrl-C must work meanwhile.
        from p2p_elastic.cli.simulation import load_job, run_job

        sys.exit(run_job(load_job(config_file, given), stop, as_json=as_json))


simulate = SimulateCommand(
    "simulate",
    callback=_simulate,
    params=list(_options()),
    short_help="Train many workers in one process, and measure.",
    help="""Train many workers in one process, with the rules of the live swarm and the baselines of the papers.

    No network and no waiting: the workers take their steps together. What came out is printed and kept in a folder:
    result.json, curve.csv and pictures.
    """,
)
