"""A run as a whole, for people: spreads as rows, and below them the members that need attention."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from p2p_elastic.screens.units import number, short
from p2p_elastic.status.swarm import Spread, SwarmStatus

BARS = " ▁▂▃▄▅▆▇█"
ROWS = (
    ("loss", "loss", ".4f"),
    ("steps", "step", ",.0f"),
    ("steps/s", "steps_per_second", ",.2f"),
    ("weight", "weight", ".2f"),
)
# Cells are Text, never str: rich would read markup in what a peer says.


def view(swarm: SwarmStatus) -> RenderableType:
    """Show a run.

    Args:
        swarm: as peers see it.

    Returns:
        What rich can print.
    """
    about = "" if swarm.members <= swarm.seen else f"about {swarm.members:,} members, of which this shows "
    head = Text.assemble(("run ", "dim"), (swarm.run, "bold"), f"   {swarm.task}, {swarm.rule}   {about}{swarm.seen:,}")
    if not about:
        head.append(" members")
    states = ", ".join(f"{count} {state}" for state, count in sorted(swarm.states.items()))
    versions = ", ".join(f"{count} x {version}" for version, count in swarm.versions.items())
    speed = f"{number(swarm.steps_per_second_in_all, ',.1f')} steps/s in all"
    nobody = Text("  nobody needs attention", style="green")
    said = Text(f"  {states}   {speed}\n  versions: {versions}")
    return Group(head, said, _spreads(swarm), _attention(swarm) if swarm.attention else nobody)


def _spreads(swarm: SwarmStatus) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
    for heading in ("  of members", "lowest", "quarter", "median", "3 quarters", "highest", "from lowest to highest"):
        table.add_column(heading, justify="left" if heading.startswith(("  ", "from")) else "right")
    for name, key, form in ROWS:
        spread: Spread | None = getattr(swarm, key)
        if spread is not None:
            places = spread.lowest, spread.quarter, spread.median, spread.three_quarters, spread.highest
            cells = [f"  {name}", *(number(value, form) for value in places), bars(spread.bins)]
            table.add_row(*map(Text, cells))
    return table


def bars(counts: tuple[int, ...]) -> str:
    """Draw counts as a row of bars.

    Args:
        counts: at least one.

    Returns:
        A character for each; the highest bar is the largest count.

    Example:
        >>> bars((0, 1, 8))
        ' ▁█'
    """
    most = max(1, *counts)
    return "".join(BARS[-(-count * (len(BARS) - 1) // most)] for count in counts)


def _attention(swarm: SwarmStatus) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
    table.add_column(f"  {swarm.attention_in_all} to look at")
    table.add_column("why", overflow="fold")
    for one in swarm.attention:
        table.add_row(Text(f"  {short(one.peer)}"), Text("; ".join(one.reasons), style="yellow"))
    if swarm.attention_in_all > len(swarm.attention):
        table.add_row(Text(f"  and {swarm.attention_in_all - len(swarm.attention)} more"))
    return table
