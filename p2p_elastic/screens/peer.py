"""The state of one peer for people: as a line, as a panel, and in parts."""

from __future__ import annotations

import math

from rich.console import Group
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from p2p_elastic.common.metrics import metrics_text, value_text
from p2p_elastic.health.causes import FAILURES
from p2p_elastic.health.checks import judge
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.screens.units import duration, number, short, size
from p2p_elastic.status.schema import FAILED_LATELY_SECONDS, ExchangeRecord, ExchangeTotals, PeerStatus, TrainingStatus

METRICS_MAX = 2  # in the panel: 80 columns are enough for it


def epochs(training: TrainingStatus, after: str) -> str:
    """Show the passes over the data.

    Args:
        training: of a peer.
        after: what follows them.

    Returns:
        `epoch 1.5` and what follows; nothing if they are not counted.
    """
    return "" if training.passes is None else f"epoch {training.passes:.1f}{after}"


def one_line(status: PeerStatus) -> str:
    """Show the state of a peer in one line.

    Args:
        status: of the peer.

    Returns:
        Steps, loss, metrics, members, exchanges, traffic and health.
    """
    training, exchanges = status.training, status.exchanges
    measured = metrics_text(training.validated) + " " * bool(training.validated)
    done = (
        f"step {training.step}/{training.steps_total or '?'} {epochs(training, ' ')}"
        f"{number(training.steps_per_second, '.1f')} steps/s loss {number(training.loss, '.4f')}"
    )
    return (
        f"{at_centre(status) or done} "
        f"{measured}members {there(status)} "
        f"exchanges {exchanges.by_outcome.get(Outcome.COMPLETED, 0)} ok "
        f"{exchanges.by_outcome.get(Outcome.DECLINED, 0)} declined {failures(exchanges)} failed "
        f"sent {size(exchanges.bytes_sent)} received {size(exchanges.bytes_received)} "
        + (f"{standing(status)} " if standing(status) else "")
        + (f"{parted(status)} " if status.partition is not None else "")
        + f"health {judge(status).status}"
    )


def failures(totals: ExchangeTotals) -> int:
    """Count the exchanges that failed since the peer started.

    Args:
        totals: of the peer.

    Returns:
        Their number; declined ones are no failures.
    """
    return sum(totals.by_outcome.get(outcome, 0) for outcome in FAILURES)


def lately(totals: ExchangeTotals) -> str:
    """Say how many exchanges failed in the last minutes.

    Args:
        totals: of the peer.

    Returns:
        A text; empty if none did.
    """
    count = totals.failed_lately
    return f"{count} failed in the last {duration(FAILED_LATELY_SECONDS)}" if count else ""


def parted(status: PeerStatus) -> str:
    """Say that many members vanished at once, as in a partition of the network.

    Args:
        status: of the peer.

    Returns:
        How many are away and left, and since when; empty if there is no partition.
    """
    split = status.partition
    if split is None:
        return ""
    return f"partition: {split.away} away, {split.left} left for {split.seconds:.0f} s, {split.steps} steps"


def at_centre(status: PeerStatus) -> str:
    """Say what a peer does that does not train.

    Args:
        status: of the peer.

    Returns:
        Whether it holds the centre variable or stands by; empty if it trains.
    """
    if status.training.phase != "holding":
        return ""
    here = status.centre is not None and status.centre.here
    return f"does not train, {'holds' if here else 'stands by for'} the centre variable"


def time_left(training: TrainingStatus) -> str:
    """Estimate how long training still takes at its present speed.

    Args:
        training: of the peer.

    Returns:
        A text; empty if it does not train, or if its length or speed is not known.
    """
    left, speed = (training.steps_total or 0) - training.step, training.steps_per_second
    if training.phase != "training" or left <= 0 or not speed or not math.isfinite(left / speed):
        return ""
    return f"about {duration(left / speed)} left"


def standing(status: PeerStatus) -> str:
    """Say which peer holds the centre variable, or which one this peer follows.

    Args:
        status: of the peer.

    Returns:
        A text; empty in runs that have neither centre nor leader.
    """
    if status.centre is not None:
        centre = status.centre
        where = "here" if centre.here else "vacant" if centre.holder is None else short(centre.holder)
        return f"centre {where}, term {centre.term}, {centre.exchanges} exchanges"
    if status.leaders is None:
        return ""
    leaders = status.leaders
    named = [f"leader {_leader(leaders.leader, status.peer)}"]
    if leaders.leader_of_all is not None:
        named.append(f"of all groups {_leader(leaders.leader_of_all, status.peer)}")
    named += [f"{short(peer)} not believed: {reason}" for peer, reason in leaders.disbelieved.items()]
    return ", ".join(named)


def _leader(peer: str | None, own: str) -> str:
    return "none yet" if peer is None else "this peer" if peer == own else short(peer)


def panel(status: PeerStatus) -> Panel:
    """Draw the state of a peer as a panel of a dozen lines.

    Args:
        status: of the peer.

    Returns:
        The panel; 80 columns are enough for it.
    """
    training, exchanges, health = status.training, status.exchanges, judge(status)
    facts = Table.grid(padding=(0, 2))  # 80 columns are enough
    facts.add_row(
        f"step [b]{training.step}[/b]/{training.steps_total or '?'}",
        *([] if training.passes is None else [f"epoch [b]{training.passes:.1f}[/b]"]),
        f"[b]{number(training.steps_per_second, '.1f')}[/b] steps/s",
        f"loss [b]{number(training.loss, '.4f')}[/b]",
        *(f"{name} [b]{value_text(name, value)}[/b]" for name, value in list(training.validated.items())[:METRICS_MAX]),
    )
    counts = "  ".join(f"{outcome.value} [b]{n}[/b]" for outcome, n in sorted(exchanges.by_outcome.items()))
    traffic = f"sent [b]{size(exchanges.bytes_sent)}[/b]  received [b]{size(exchanges.bytes_received)}[/b]"
    bar = Table.grid(expand=True, padding=(0, 1))
    bar.add_row(ProgressBar(total=training.steps_total or 1, completed=training.step), time_left(training))
    done = [Text(at_centre(status))] if at_centre(status) else [bar, facts]
    rows: list[object] = [
        *done,
        Text.from_markup(f"exchanges: {counts or 'none yet'}   {traffic}"),
        *([Text(lately(exchanges), style="red")] if exchanges.failed_lately else []),
        _partners(status),
    ]
    if standing(status):
        rows.insert(3, Text(standing(status)))
    if status.partition is not None:
        rows.insert(3, Text(parted(status), style="yellow"))
    rows += [Text(f"{reason.code}: {reason.text}", style="yellow") for reason in health.reasons]
    title = f"{status.run} · {status.task} · {short(status.peer)} · {training.phase}"
    colour = "green" if health.status == "ok" else "yellow"
    return Panel(Group(*rows), title=title, border_style=colour)  # type: ignore[arg-type]


def there(status: PeerStatus) -> int:
    """Count the members that are not dead.

    Args:
        status: of the peer.

    Returns:
        Alive and suspect ones, without this peer.
    """
    return sum(member.state != "dead" for member in status.members)


def _partners(status: PeerStatus) -> Table:
    table = Table(box=None, padding=(0, 2), show_edge=False)
    for heading in ("partner", "state", "step", "loss", "last exchange"):
        table.add_column(heading, no_wrap=True)
    last: dict[str, ExchangeRecord] = {}
    for record in status.last_exchanges:
        last.setdefault(record.partner, record)
    for member in sorted(status.members, key=lambda member: member.state == "dead")[:8]:
        newest = last.get(member.peer)
        what = "-" if newest is None else f"{newest.outcome.value} {newest.age_seconds:.0f} s ago"
        state = "drained" if member.drained else member.state
        table.add_row(short(member.peer), state, str(member.step), number(member.loss, ".4f"), what)
    if len(status.members) > 8:
        table.add_row(f"and {len(status.members) - 8} more")
    if not status.members:
        table.add_row("nobody else yet")
    return table
