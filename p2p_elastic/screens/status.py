"""Answers of peers for people: one peer in detail, several as a table, one line each in logs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from p2p_elastic.client.status import Answer
from p2p_elastic.common.metrics import metrics_text, value_text
from p2p_elastic.health.versions import protocols_differ, versions_differ
from p2p_elastic.protocol.limits import VIEW_MAX
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.rate_limit import used
from p2p_elastic.screens.peer import at_centre, epochs, failures, lately, standing, time_left
from p2p_elastic.screens.units import duration, number, short, size
from p2p_elastic.status.schema import ExchangeTotals, PartnerStatus, PeerStatus

COLOURS = {"ok": "green", "degraded": "yellow", "unreachable": "red"}
MEMBERS_MAX = 16
SIGNALS_MAX = 3
BEFORE = ("health", "status at", "peer", "phase", "step", "steps/s", "loss")
AFTER = ("weight", "members", "exchanges")
# Cells are Text, never str: rich would read markup in what a peer says.


def view(answers: Sequence[Answer]) -> RenderableType:
    """Show one peer in detail, several as a table.

    Args:
        answers: at least one.

    Returns:
        What rich can print.
    """
    return detail(answers[0]) if len(answers) == 1 else Overview(answers)


def detail(answer: Answer) -> RenderableType:
    """Show everything about one peer that fits on a screen.

    Args:
        answer: of the peer.

    Returns:
        What rich can print.
    """
    head = Text.assemble((answer.state, f"bold {COLOURS[answer.state]}"), "  ", answer.url)
    if answer.status is None:
        return Group(head, *_complaints(answer))
    status = answer.status
    run = f"run {status.run}" if status.run else "no run yet"
    head.append(f"   {run}, peer {short(status.peer)}, {status.training.phase}")
    parts: list[RenderableType] = [head, *_complaints(answer), _facts(status)]
    parts.append(_members(status) if status.members else Text("  no other member known yet"))
    return Group(*parts)


def _complaints(answer: Answer) -> list[Text]:
    """List why a peer is not ok, and what could not be shown."""
    lines = [Text(f"  {answer.problem.text}", style="red")] if answer.problem else []
    reasons = answer.health.reasons if answer.health else ()
    lines += [Text(f"  {reason.code}: {reason.text}", style="yellow") for reason in reasons]
    return lines + [Text(f"  note: {note}", style="dim") for note in answer.notes]


def _facts(status: PeerStatus) -> Table:
    training, exchanges = status.training, status.exchanges
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    speed = f"{number(training.steps_per_second, '.1f')} steps/s"
    steps = f"{_steps(status)}   {epochs(training, '   ')}{speed}   {time_left(training)}"
    measured = metrics_text(training.validated)
    rows = [
        *([("role", at_centre(status))] if at_centre(status) else [("step", steps)]),
        ("loss", number(training.loss, ".4f") + (f"   validation {measured}" if measured else "")),
        ("rule", status.rule or "-"),
        ("weight", _weight(status)),
        ("task", f"{status.task or '-'} on {status.device}   up {duration(status.uptime_seconds)}"),
        ("standing", standing(status)),
        ("joined", _joined(status)),
        ("exchanges", _exchanges(status)),
        ("way", _way(exchanges)),
        ("failures", lately(exchanges)),
        ("traffic", f"sent {size(exchanges.bytes_sent)}, received {size(exchanges.bytes_received)}"),
        ("budget", _budget(status)),
        ("admission", _admission(status)),
        ("versions", "" if protocols_differ(status) else versions_differ(status) or ""),  # else health says it
        ("swarm", _swarm(status)),
        ("dialled", _dialled(status)),
        ("address", "\n".join(status.network.addresses) or "none yet"),
    ]
    if training.tested:
        rows.insert(2, ("test", metrics_text(training.tested)))
    for name, value in rows:
        if value:
            table.add_row(Text(f"  {name}"), Text(value, style="red" if name == "failures" else ""))
    return table


def _weight(status: PeerStatus) -> str:
    """Say how much it counts, and what speaks against it, the worst first."""
    said = [f"{status.weight:.2g}{' (set by its operator)' if status.weight_override is not None else ''}"]
    said += ["drained: begins and answers no exchanges"] if status.drained else []
    against = [signal for signal in status.signals if signal.health < 1.0]
    said += [f"{s.name} {s.health:.2f}: {s.text or 'no reason given'}" for s in against[:SIGNALS_MAX]]
    return "\n".join(said)


def _joined(status: PeerStatus) -> str:
    """Say how it caught up with the run, and since when it counts; empty for a founder."""
    joining = status.joining
    if joining is None:
        return ""
    if joining.seconds is None:
        said = "copies the members' parameters"
    elif not joining.caught_up:
        said = "began with its own parameters" + ("" if joining.reason is None else f": {joining.reason}")
    else:
        said = f"caught up in {joining.seconds or 0.0:.1f} s, {size(joining.bytes_received)} from {len(joining.donors)}"
    if joining.useful_seconds is not None:
        said += f"; counts since {joining.useful_seconds:.1f} s, {joining.useful_steps} steps"
    return said


def _exchanges(status: PeerStatus) -> str:
    counts = status.exchanges.by_outcome
    return ", ".join(f"{counts[o]} {o.value}" for o in Outcome if counts.get(o)) or "none yet"


def _way(exchanges: ExchangeTotals) -> str:
    """Say which way parameters travelled; empty before any did."""
    others = ", ".join(f"{count} over libp2p ({why})" for why, count in exchanges.not_direct.items())
    return ", ".join(filter(None, [f"{exchanges.direct} direct" if exchanges.direct else "", others]))


def _budget(status: PeerStatus) -> str:
    """Say what exchanges may take and take; empty if there is no budget."""
    pace = status.pace
    if pace is None:
        return ""
    period = "" if pace.effective_period is None else f"; an exchange about every {pace.effective_period:.0f} steps"
    wait = f", the next in {pace.wait_seconds:.0f} s" if pace.wait_seconds else ""
    return f"{used(pace)}{period}{wait}"


def _swarm(status: PeerStatus) -> str:
    """Say how large a swarm is of which this peer sees some; empty if it sees all."""
    about, seen = status.network.members_about, len(status.members) + 1
    return f"about {about} members; this peer sees {seen} of them" if about > seen and about > VIEW_MAX else ""


def _dialled(status: PeerStatus) -> str:
    """Say whether others can dial this peer, and what it does for those that nobody can; empty if that is unknown."""
    network, said = status.network, []
    if network.reachable is not None:
        through = f"through {', '.join(map(short, network.relays))}" if network.relays else "and no relay leads to it"
        said.append("members can dial this peer" if network.reachable else f"members cannot dial this peer, {through}")
    if (relay := network.relay) is not None:
        said.append(f"it leads to {relay.places} others, and passed on {size(relay.bytes_passed_on)}")
    return "; ".join(said)


def _admission(status: PeerStatus) -> str:
    """Say who may take part; empty if everybody may."""
    admission = status.admission
    if admission is None:
        return ""
    own = "founder" if admission.seconds_left is None else admission.role
    left = "" if not admission.seconds_left else f", ticket for {duration(admission.seconds_left)} more"
    others = sum(one.problem is None and one.peer != status.peer for one in admission.admitted)
    return f"private: {own}{left}; {others} others admitted, {sum(admission.refused.values())} tickets refused"


def _members(status: PeerStatus) -> Table:
    table = _plain_table("  member", "state", "step", "loss", "weight", "trust", "distance", "exchanged", "heard of")
    partners = {partner.peer: partner for partner in status.partners}
    for member in sorted(status.members, key=lambda member: member.state == "dead")[:MEMBERS_MAX]:
        partner = partners.get(member.peer)
        state = "drained" if member.drained else member.state
        cells = [
            f"  {short(member.peer)}",
            state,
            str(member.step),
            number(member.loss, ".4f"),
            f"{member.weight:.2g}",
        ]
        style = "" if state == "alive" and (partner is None or partner.trust > 0.0) else "yellow"
        table.add_row(*_texts([*cells, *_met(partner), f"{duration(member.age_seconds)} ago"]), style=style)
    if len(status.members) > MEMBERS_MAX:
        table.add_row(Text(f"  and {len(status.members) - MEMBERS_MAX} more"))
    return table


def _met(partner: PartnerStatus | None) -> list[str]:
    if partner is None:
        return ["-"] * 3
    last = "-" if partner.last is None else f"{duration(partner.last.age_seconds)} ago, {partner.last.outcome.value}"
    return [f"{partner.trust:.2g}", number(partner.distance, ".3g"), last]


class Overview:
    """A row for each peer if the terminal is wide enough, else a line for each; below it what is wrong with each.

    Args:
        answers: of all peers.
    """

    def __init__(self, answers: Sequence[Answer]) -> None:
        self._answers = answers

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = _peers(self._answers)
        wide = Measurement.get(console, options.update(max_width=10_000), table).maximum <= options.max_width
        if wide:
            yield table
        else:
            for answer in self._answers:
                if answer.status is not None:  # of the others is said below what is wrong
                    yield Text(line(answer), style=COLOURS[answer.state])
        for answer in self._answers:
            where = f"{answer.url.removeprefix('http://')}: "
            if wide and answer.status is not None and (stands := standing(answer.status)):
                yield Text(f"{where}{stands}")
            yield from (Text.assemble(where, complaint[2:]) for complaint in _complaints(answer))
        runs = {answer.status.run for answer in self._answers if answer.status}
        if len(runs) > 1:
            yield Text(f"note: these are peers of different runs: {', '.join(sorted(runs))}", style="dim")


def _peers(answers: Sequence[Answer]) -> Table:
    names = {next(iter(a.status.training.validated), "") for a in answers if a.status is not None} - {""}
    metric = "accuracy" if not names else names.pop() if len(names) == 1 else "metric"
    table = _plain_table(*BEFORE, metric, *AFTER)
    for answer in answers:
        state = Text(answer.state, style=COLOURS[answer.state])
        table.add_row(state, *_texts([answer.url.removeprefix("http://"), *_row(answer.status)]))
    return table


def _row(status: PeerStatus | None) -> list[str]:
    if status is None:
        return ["-"] * 9
    training = status.training
    return [
        short(status.peer),
        training.phase,
        _steps(status),
        number(training.steps_per_second, ".1f"),
        number(training.loss, ".4f"),
        next((value_text(name, value) for name, value in training.validated.items()), "-"),
        f"{status.weight:.2g}",
        _member_count(status),
        _exchange_count(status),
    ]


def line(answer: Answer) -> str:
    """Show one peer in one line, for logs.

    Args:
        answer: of the peer.

    Returns:
        Health, steps, metrics, weight, members and exchanges; or why it could not be asked.
    """
    status, where = answer.status, answer.url.removeprefix("http://")
    if status is None:
        return f"{where} {answer.state} {answer.problem.text if answer.problem else ''}"
    training = status.training
    codes = ",".join(reason.code for reason in answer.health.reasons) if answer.health else ""
    speed = f"{number(training.steps_per_second, '.1f')} steps/s"
    done = f"step {_steps(status)} {speed} loss {number(training.loss, '.4f')}"
    measured = metrics_text(training.validated) + " " * bool(training.validated)
    parts = [
        f"{where} {answer.state}{f' ({codes})' if codes else ''} {training.phase} {at_centre(status) or done}",
        f"{measured}weight {status.weight:.2g}",
        f"members {_member_count(status)} exchanges {_exchange_count(status)}",
    ]
    return " ".join([*parts, *([standing(status)] if standing(status) else [])])


def _member_count(status: PeerStatus) -> str:
    """Count the members that are not dead, and name the others by state."""
    states = Counter[str](member.state for member in status.members)
    others = ", ".join(f"{states[state]} {state}" for state in ("suspect", "dead") if states[state])
    return f"{len(status.members) - states['dead']}{f' ({others})' if others else ''}"


def _exchange_count(status: PeerStatus) -> str:
    counts = status.exchanges.by_outcome
    good, declined = counts.get(Outcome.COMPLETED, 0), counts.get(Outcome.DECLINED, 0)
    failed, recent = failures(status.exchanges), status.exchanges.failed_lately
    said = f", {failed} failed{f' ({recent} lately)' if recent else ''}" if failed else ""
    return f"{good} ok{f', {declined} declined' if declined else ''}{said}"


def _steps(status: PeerStatus) -> str:
    if at_centre(status):
        return "-"
    return f"{status.training.step}/{status.training.steps_total or '?'}"


def _texts(cells: Sequence[str]) -> list[Text]:
    return [Text(cell) for cell in cells]


def _plain_table(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table
