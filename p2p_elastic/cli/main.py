"""The command line. Nothing heavy is imported before it is needed, so that `--help` is quick."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from p2p_elastic import __version__
from p2p_elastic.cli.admission import admit, invite, members, revoke
from p2p_elastic.cli.bench import bench
from p2p_elastic.cli.doctor import doctor_of
from p2p_elastic.cli.errors import clean_errors
from p2p_elastic.cli.export import export
from p2p_elastic.cli.options import CODEC_NAMES, DATA_DIR, DATA_DIR_DEFAULT, FOLDER, asked
from p2p_elastic.cli.service import service_of
from p2p_elastic.cli.simulate import simulate
from p2p_elastic.cli.status import status
from p2p_elastic.common.imports import uncollected
from p2p_elastic.common.platforms import Platform, check_platform
from p2p_elastic.common.stop import Stop
from p2p_elastic.protocol.limits import AUTO_FRAGMENTS, LANES_MAX, OWN_LEARNING_RATE_MAX

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True}


def _fragments(text: str) -> int:
    """A number of fragments, or "auto"."""
    return AUTO_FRAGMENTS if text == "auto" else int(text)


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name="p2p-elastic")
def main() -> None:
    """Train one PyTorch model on many unequal machines, with no server.

    \b
    Try it on this machine:      p2p-elastic demo
    Start a run:                 p2p-elastic join
    Join it, from anywhere:      p2p-elastic join --initial-peer MULTIADDR
    Is this machine ready:       p2p-elastic doctor
    How is a peer:               p2p-elastic status
    Take the swarm's model:      p2p-elastic export --initial-peer MULTIADDR --output model.safetensors
    Start a private run:         p2p-elastic join --admission ticket
    Let somebody into it:        p2p-elastic invite
    Simulate many workers:       p2p-elastic simulate --workers 8
    How fast are exchanges here: p2p-elastic bench exchange
    """
    with clean_errors():
        check_platform(Platform.here())


@main.command(short_help="Take part in a run, or found one.")
@click.option(
    "--initial-peer",
    multiple=True,
    metavar="MULTIADDR",
    help="A peer of the run to join; repeatable. Without it a new run is founded.",
)
@click.option(
    "--invite",
    metavar="LINE",
    help="Join a private run: the line, or a file that has it, that `p2p-elastic invite` or `admit` printed there. It "
    "has initial peers, run and founder.",
)
@click.option(
    "--admission",
    type=click.Choice(["open", "ticket"]),
    help="ticket: found a private run, into which only this peer and its issuers let others (`p2p-elastic invite`).  "
    "[founder: open]",
)
@click.option("--run", metavar="NAME", help="Name of the run: needed to join if there are several; otherwise made up.")
@click.option(
    "--task",
    metavar="TASK",
    help="What to train: a name (see `p2p-elastic tasks`), ./file.py:TASK or package.module:TASK; a joiner takes the "
    "run's.  [founder: digits]",
)
@click.option("--data-dir", type=FOLDER, help=DATA_DIR)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", help="Where to train.")
@click.option("--threads", type=int, help="CPU threads for PyTorch.  [default: PyTorch's]")
@click.option(
    "--rule",
    metavar="NAME",
    help="How peers train together: elastic-gossip, gossip-pull, gossip-push, gosgd, easgd, eamsgd, lsgd, none "
    "(see `p2p-elastic rules`).  [founder: elastic-gossip]",
)
@click.option(
    "--moving-rate",
    type=float,
    metavar="ALPHA",
    help="How far two partners move towards each other, from 0 to below 1; 0.5 averages them. With lsgd the pull to "
    "the leader.  [founder: the rule's]",
)
@click.option("--period", type=int, metavar="TAU", help="Ask for an exchange every TAU steps ...  [lsgd: 16]")
@click.option(
    "--probability", metavar="P", help="... or after each step with probability P, such as 1/8.  [founder: 1/32]"
)
@click.option(
    "--global-period",
    type=int,
    metavar="TAU_G",
    help="lsgd with groups: follow the best of all groups every TAU_G steps, a multiple of --period.",
)
@click.option(
    "--global-moving-rate", type=float, metavar="LAMBDA_G", help="... by this share.  [founder: the moving rate]"
)
@click.option(
    "--weighting",
    type=click.Choice(["dynamic", "fixed"]),
    help="dynamic: peers count by their health and by what others measure of them; fixed: all count the same.  "
    "[founder: dynamic]",
)
@click.option(
    "--codec",
    metavar="NAME",
    help=f"How parameters travel: {', '.join(CODEC_NAMES)} (none: float32), or auto: each exchange by what its link "
    "has shown.  [founder: auto]",
)
@click.option(
    "--fragment",
    type=_fragments,
    metavar="F",
    help="An exchange moves only one of F equal parts of the model, each time another one: a large model over a thin "
    "link exchanges often, in small pieces. auto: all of it, or as many parts as the link demands.  [founder: auto, if "
    "--codec is auto]",
)
@click.option(
    "--outer",
    type=click.Choice(["none", "nesterov", "noloco"]),
    help="Outer optimizer: after each exchange a step, with momentum, along what was gained since the last one.  "
    "[founder: none]",
)
@click.option("--outer-lr", type=float, metavar="B", help="Of the outer optimizer.  [founder: 0.7]")
@click.option(
    "--outer-momentum", type=float, metavar="A", help="Of the outer optimizer.  [founder: nesterov 0.7, noloco 0.5]"
)
@click.option(
    "--streams",
    type=int,
    metavar="N",
    help=f"Streams for the parameters of an exchange that this peer asks for, up to {LANES_MAX}.  [default: several "
    "if the round trip is long]",
)
@click.option("--group", metavar="NAME", help="lsgd: the group whose leader this peer follows, and may be.")
@click.option(
    "--role",
    type=click.Choice(["peer", "centre"]),
    default="peer",
    help="easgd, eamsgd: `centre` does not train; it holds the centre variable, or stands by to take it over.",
)
@click.option("--steps", type=int, help="Train for this many optimizer steps ...")
@click.option(
    "--epochs", type=int, help="... or passes over this peer's part of the data.  [default: the task's recipe]"
)
@click.option(
    "--for",
    "duration",
    metavar="TIME",
    help="... or for a time, such as 90s, 30m or 2h; learning rates fall as in the recipe, over that time.",
)
@click.option("--batch-size", type=int, help="Examples per step on this peer.  [default: the run's]")
@click.option(
    "--optimizer", type=click.Choice(list(OWN_LEARNING_RATE_MAX)), default="sgd", help="What this peer trains with."
)
@click.option(
    "--lr",
    type=float,
    help="Learning rate of this peer.  "
    "[default: the run's; adamw 0.001, adahessian 0.02, muon 0.003, schedule-free 0.0025]",
)
@click.option("--momentum", type=float, help="Momentum of this peer, with sgd.  [default: the run's]")
@click.option(
    "--seed",
    type=int,
    help="Of data order, dropout and partner choice; a founder's is also that of the first parameters.",
)
@click.option(
    "--shard",
    metavar="I/N",
    help="Train on the I-th of N disjoint parts of the data.  [default: everything, in an order of its own]",
)
@click.option(
    "--max-bandwidth",
    metavar="RATE",
    help="What exchanges of this peer may send and receive, on average: 500kB/s, 2MB/s, 4Mbit/s, or bytes per second. "
    "Those that are due wait until it is paid for, others' offers are declined meanwhile; one under way is not slowed "
    "down.  [default: unlimited]",
)
@click.option(
    "--max-share",
    type=float,
    metavar="S",
    help="Share of its time, up to 1, in which this peer may have an exchange under way: 0.1 is a tenth.  "
    "[default: 1, no limit]",
)
@click.option("--wait-for-peers", type=int, default=0, metavar="N", help="Begin to train once N other peers are there.")
@click.option("--host", default="0.0.0.0", help="IP address to listen on for peers (libp2p).")  # noqa: S104
@click.option("--port", type=int, help="TCP port for peers; 0 for any free one.  [default: 31330, or any]")
@click.option(
    "--direct-port",
    type=int,
    metavar="PORT",
    help="TCP port for direct connections, by which parameters travel faster than over libp2p if partners reach it; 0 "
    "for any free one.  [default: the one after --port, or any]",
)
@click.option("--no-direct", is_flag=True, help="Send and receive parameters over libp2p only.")
@click.option(
    "--relay",
    metavar="RATE",
    help="Pass on what members send to each other that nobody can dial, behind routers at home: 5MB/s, 20Mbit/s and so "
    "on, on average. For a peer that others can dial; it cannot read what it passes on.  [default: nothing]",
)
@click.option(
    "--announce",
    multiple=True,
    metavar="MULTIADDR",
    help="Address under which others reach this peer, e.g. behind a port forward: /ip4/203.0.113.5/tcp/31330; "
    "repeatable.",
)
@click.option("--http-host", default="127.0.0.1", help="Address to serve the page and the status on.")
@click.option("--http-port", type=int, help="Port to serve the status on; 0 for any free one.  [default: 8870, or any]")
@click.option(
    "--http-allow-host",
    multiple=True,
    metavar="NAME",
    help="Name by which the page and the status may be asked, beside IP addresses and localhost: that of this machine, "
    "a container or a proxy; repeatable.",
)
@click.option(
    "--http-token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File with the token for writing over HTTP, made if it is missing; without it nobody may write if --http-host "
    "is not loopback.  [default on loopback: ~/.local/state/p2p-elastic/http-token]",
)
@click.option(
    "--identity",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Key file of this peer, made if it is missing: keeps the peer id across restarts.  [default: a new identity]",
)
@click.option("--output", type=FOLDER, help="Folder for model.safetensors and summary.json.  [default: runs/RUN-PEER]")
@click.option(
    "--checkpoint-every",
    default="5m",
    metavar="STEPS|TIME",
    help="Save everything into checkpoint/ in the output folder this often, in steps (500) or time (90s, 5m, 1h), "
    "and at the end; 0 for never. With --role centre exchanges count as steps.",
)
@click.option(
    "--resume",
    type=FOLDER,
    metavar="DIR",
    help="Go on from the newest checkpoint in this output folder, as the same peer in the same run. Nothing else is "
    "needed; length, data folder, device, threads, budget, hosts, ports and initial peers may be given anew.",
)
@click.option(
    "--resume-or-found",
    is_flag=True,
    help="For services and containers: the same command at each start. Goes on from the newest checkpoint in --output, "
    "which it needs; without one joins, as the other options say, or the run that its --identity was in; founds a run "
    "only if there is none. Ends at once if its training is complete.",
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="TOML file with any of these options, spelled the same; the command line wins.",
)
@click.option(
    "--log-format",
    type=click.Choice(["auto", "text", "json"]),
    default="auto",
    help="auto: a live panel in a terminal, plain lines elsewhere.",
)
@click.option("-v", "--verbose", is_flag=True, help="Say more about the network.")
@click.pass_context
def join(context: click.Context, /, config_file: Path | None, verbose: bool, **options: Any) -> None:
    """Take part in a run until its length is reached, or Ctrl-C.

    Without --initial-peer a new run is founded, and the exact command for the others is printed. With it, everything
    that the run's peers must have in common is taken from the run; options that contradict it are refused.

    \b
      p2p-elastic join --task mnist --shard 1/4
      p2p-elastic join --initial-peer /ip4/192.168.1.7/tcp/31330/p2p/12D3Koo... --shard 2/4
      p2p-elastic join --resume runs/mnist-1a2b3c-Xy7Zk9Qp
      p2p-elastic join --output /data/run --resume-or-found

    Exit code: 0 its training is complete, or it was asked to stop; 2 it cannot do what was asked; 3 another process
    with the same identity began earlier and runs elsewhere.
    """
    given = asked(context, options)
    with Stop().signals() as stop, clean_errors():
        # After the handlers: PyTorch takes seconds to load, and Ctrl-C must work meanwhile.
        with uncollected():
            from p2p_elastic.node.config import load_config
            from p2p_elastic.node.join import join as take_part
            from p2p_elastic.screens.live import LastingScreen, open_screen

        config = load_config(config_file, given)
        screen = LastingScreen(open_screen(config.log_format), stop.ask)
        with _logging(screen, verbose):
            try:
                take_part(config, screen, stop)
            finally:
                screen.close()
        if screen.unread:
            raise BrokenPipeError


@main.command(short_help="Watch a small swarm train on this machine.")
@click.option("--peers", type=click.IntRange(2, 16), default=3, help="How many peers.")
@click.option("--task", default="digits", help="What they train; each on its own part of the data.")
@click.option(
    "--data-dir", type=FOLDER, help=f"Folder with the data set, for tasks other than digits.  {DATA_DIR_DEFAULT}"
)
@click.option("--epochs", type=int, help="Passes of each peer over its part.  [default: 300 for digits, else 3]")
@click.option("--output", type=FOLDER, default=Path("demo-output"), help="Folder for models, summaries and logs.")
def demo(**options: Any) -> None:
    """Start several real peers on loopback and one that trains alone, show them side by side, and compare them."""
    with Stop().signals() as stop, clean_errors():
        from p2p_elastic.demo.command import run_demo

        run_demo(stop=stop, **options)


@main.command(short_help="List what can be trained.")
def tasks() -> None:
    """List what can be trained by name, with its recipe: what is built in, and what installed packages bring.

    A task of your own needs no name here: --task ./file.py:TASK or --task package.module:TASK.
    """
    from p2p_elastic.errors import ConfigError
    from p2p_elastic.tasks import every_task

    for where, task in every_task():
        if isinstance(task, ConfigError):
            click.echo(f"{task.got:16} cannot be loaded from {where}: {task.allowed}")
            continue
        recipe = task.recipe
        length = f"{recipe.epochs} epochs" if recipe.steps is None else f"{recipe.steps:,} steps"
        momentum = "" if task.optimizer else f"momentum {recipe.momentum:g}, "
        click.echo(
            f"{task.name:16} {task.summary}{'' if where == 'built in' else f' (from {where})'}\n"
            f"{'':16} batch {recipe.batch_size}, learning rate {recipe.learning_rate:g}, {momentum}{length}"
        )


@main.command(short_help="List the ways to train together.")
def rules() -> None:
    """List the rules with their defaults; those that only the simulator has say so."""
    from p2p_elastic.rules.methods import RULES

    for name, method in RULES.items():
        where = "" if method.live else ", in the simulator only"
        click.echo(f"{name:16} {method.summary}\n{'':16} {method.rate}{where}")


doctor = doctor_of(join)
for command in (bench, doctor, export, invite, admit, revoke, members, service_of(join), simulate, status):
    main.add_command(command)


def run() -> None:
    """The installed command: `main`, and then straight to the end.

    Everything is saved and closed by now; tearing down PyTorch's modules would take another 1.5 s, or 4 s when busy.
    """
    code: object = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    with contextlib.suppress(OSError):  # nobody reads it, or it is a file on a full disk
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


@contextlib.contextmanager
def _logging(screen: Any, verbose: bool) -> Iterator[None]:
    """Show the log of this package on the screen while a peer runs."""

    class ToScreen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            level = record.levelname.lower()
            with contextlib.suppress(OSError, ValueError):  # nobody reads any more: no reason to end a network task
                screen.say("log", f"{level}: {record.getMessage()}", level=level)

    logger, handler = logging.getLogger("p2p_elastic"), ToScreen()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
