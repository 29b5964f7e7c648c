"""The command `p2p-elastic export`. Nothing heavy is imported before it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from p2p_elastic.cli.errors import clean_errors
from p2p_elastic.cli.options import DATA_DIR_DEFAULT, FOLDER
from p2p_elastic.common.stop import Stop

HELP = """Write the swarm's current model to a file, without training.

    Joins as an observer that nobody chooses, fetches the parameters of healthy members in parts, each verified, and
    averages them by their weights (BatchNorm statistics are computed anew if the data is here). Disturbs nobody.

    \b
      p2p-elastic export --initial-peer /ip4/192.168.1.7/tcp/31330/p2p/12D3Koo... --output model.safetensors
      p2p-elastic export --initial-peer ... --output best.safetensors --from leader
      p2p-elastic export --initial-peer ... --output hers.safetensors --from 12D3KooWRaxM...

    Without the run's task, or for programs with training loops of their own, the file has the tensors by the names
    and shapes that a member told: model.load_state_dict(load_file("model.safetensors"), strict=False).

    Beside model.safetensors it leaves model.json: from which members, at which step and loss, and which were left out
    and why. If the task's data is here it prints the test metrics too; it downloads nothing.

    Exit code: 0 written; 2 no answer, no such run, nobody to take it from, or bad usage; 130 Ctrl-C.
    """


def _export(source: str, **options: Any) -> None:
    with Stop().signals() as stop, clean_errors():
        from p2p_elastic.export.command import ExportOptions, export
        from p2p_elastic.peers.discovery.live_network import Interrupted

        try:
            export(ExportOptions(source=source, **options), click.echo, stop)
        except Interrupted:
            raise KeyboardInterrupt from None


export = click.Command(
    "export",
    callback=_export,
    params=[
        click.Option(["--initial-peer"], multiple=True, metavar="MULTIADDR", help="A peer of the run; repeatable."),
        click.Option(
            ["--invite"],
            metavar="LINE",
            help="The line, or a file that has it, that lets this command into a private run; then no --initial-peer "
            "is needed.",
        ),
        click.Option(
            ["--identity"],
            type=click.Path(dir_okay=False, path_type=Path),
            help="Key file, if the line was made for it with `p2p-elastic admit`.",
        ),
        click.Option(
            ["--task"],
            metavar="TASK",
            help="The run's task, if it is not installed here: ./file.py:TASK or package.module:TASK.",
        ),
        click.Option(
            ["--raw"],
            is_flag=True,
            help="Write what travels as tensors by their names, without the task; so it always is for a run of "
            "programs with training loops of their own.",
        ),
        click.Option(["--run"], metavar="NAME", help="Name of the run, needed if there are several."),
        click.Option(
            ["--output"],
            type=click.Path(dir_okay=False, path_type=Path),
            default=Path("model.safetensors"),
            show_default=True,
            help="The file to write.",
        ),
        click.Option(
            ["--from", "source"],
            default="auto",
            show_default=True,
            metavar="auto|average|leader|centre|PEERID",
            help="Whose parameters: the average of healthy members, the one with the lowest loss, the centre variable, "
            "or one peer's. auto: centre for easgd and eamsgd, leader for lsgd and none, otherwise average.",
        ),
        click.Option(
            ["--data-dir"],
            type=FOLDER,
            help=f"Folder with the data set, to print the test metrics; nothing is downloaded.  {DATA_DIR_DEFAULT}",
        ),
        click.Option(
            ["--peers"],
            type=click.IntRange(1, 1000),
            default=8,
            show_default=True,
            metavar="N",
            help="Average at most this many members, those with the lowest losses.",
        ),
        click.Option(
            ["--timeout"],
            type=click.FloatRange(1, 86_400),
            default=300.0,
            show_default=True,
            metavar="S",
            help="Seconds until members that did not give their parameters are left out.",
        ),
        click.Option(["--host"], default="0.0.0.0", show_default=True, help="Address to listen on for peers (libp2p)."),  # noqa: S104
    ],
    short_help="Write the swarm's current model to a file.",
    help=HELP,
)
