"""What must hold after a run, whatever happened in it. Each check has a name and says what is wrong, one line each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from chaos.life import LEDGER_ENTRIES, Life
from chaos.plan import QUIET_FROM
from chaos.world import LIMIT_SECONDS, Report
from p2p_elastic.peers.exchange.journal import Entry
from p2p_elastic.peers.peer import Peer
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.rules.methods import Topology, find_method
from p2p_elastic.testing.virtual_network import SimulatedNetwork

ACCURACY_MARGIN = 0.02  # below the worst peer of the undisturbed run
RECOVERY_SECONDS = 40.0  # of quiet, in which each peer that trains takes part in an exchange
REVOKED_SECONDS = 15.0
STALE_SECONDS = 15.0  # three announcements
TABLE_ENTRIES_MAX = 256  # in any one table of a peer; its event log keeps 200, its ledger here 32
RULE_ERROR = 1e-5  # of the distance: float32


class Run(NamedTuple):
    """What a check looks at: the run, and the accuracies of the peers that nobody disturbed."""

    report: Report
    undisturbed: tuple[float, ...]


class End(NamedTuple):
    """One end of an exchange."""

    life: Life
    entry: Entry


Check = Callable[[Run], Iterator[str]]


def everybody_ends(run: Run) -> Iterator[str]:
    """Every peer that was not killed does its steps and ends; nothing fails that nobody expected."""
    report = run.report
    yield from (f"{owner} did not end within {LIMIT_SECONDS:g} s" for owner in report.hung)
    yield from report.errors
    for life in report.survivors:
        if life.failure is not None:
            yield f"{life.owner}: {life.failure}"
        if life.peer.step < life.birth.steps and not life.asked_to_leave:
            yield f"{life.owner} did {life.peer.step} of {life.birth.steps} steps"


def everybody_learns(run: Run) -> Iterator[str]:
    """The model of every peer that trained to the end is about as good as without the faults. Excused are runs with a
    centre where somebody began anew with its clock behind: unseen for two minutes, it may be a second centre."""
    floor = min(run.undisturbed) - ACCURACY_MARGIN
    for life in run.report.survivors:
        if not bool(torch.isfinite(life.vector.snapshot(life.vector.empty())).all()):
            yield f"{life.owner}: its parameters are not finite"
    centre = find_method(run.report.plan.setting.rule).topology is Topology.CENTRE
    two_centres = centre and any(life.unseen for life in run.report.lives)
    for life in run.report.learners:
        if not life.accuracy >= floor and not two_centres:
            yield f"{life.owner}: accuracy {life.accuracy:.4f}, without faults at least {min(run.undisturbed):.4f}"


def exchanges_come_back(run: Run) -> Iterator[str]:
    """Soon after the last fault every peer takes part in an exchange again."""
    for life, seconds in recoveries(run.report).items():
        if seconds is None:
            yield f"{life.owner} took part in no exchange in {RECOVERY_SECONDS:g} s after the last fault"


def recoveries(report: Report) -> dict[Life, float | None]:
    """How long after the last fault each peer, that still had others to exchange with, took part again."""
    found: dict[Life, float | None] = {}
    for life in report.learners:
        until = QUIET_FROM + RECOVERY_SECONDS
        others = [o for o in report.learners if o is not life and o.trained_until > until]
        if others and life.trained_until > until:
            times = [t for t in life.observer.times if t >= QUIET_FROM]
            found[life] = times[0] - QUIET_FROM if times and times[0] <= until else None
    return found


def everybody_is_known(run: Run) -> Iterator[str]:
    """Well after the last fault every peer that trains has a fresh record of every other. Excused is who began
    anew with its clock behind: that takes two minutes, longer than a run."""
    ages = run.report.ages
    for life in run.report.learners:
        for other in run.report.learners:
            if life is other or other.unseen or life.name not in ages or other.name not in ages:
                continue
            age = ages[life.name].get(other.name)
            if age is None:
                yield f"{life.owner} does not know {other.owner}"
            elif age > STALE_SECONDS:
                yield f"{life.owner} has a record of {other.owner} that is {age:.0f} s old"


def nothing_twice(run: Run) -> Iterator[str]:
    """No exchange changes one peer twice, and what changes a peer is an exchange that it knows of."""
    for life in run.report.lives:
        seen = life.observer
        ids = Counter(applied.exchange_id for applied in seen.applied)
        yield from (f"{life.owner} applied exchange {i} {n} times" for i, n in ids.items() if n > 1)
        changes = len(life.vector.changes)
        if changes != len(seen.applied):
            yield f"{life.owner}: its parameters were changed {changes} times, by {len(seen.applied)} exchanges"
        ended = Counter((entry.id, entry.partner) for entry in seen.entries)
        yield from (f"{life.owner} entered exchange {key[0]} {n} times" for key, n in ended.items() if n > 1)
        if _pairs(run):
            completed = {entry.id for entry in seen.entries if entry.outcome is Outcome.COMPLETED}
            yield from (f"{life.owner} applied {i}, which did not complete" for i in ids.keys() - completed)


def both_ends_agree(run: Run) -> Iterator[str]:
    """What completed at one end completed at the other, unless that one died or said that it does not know."""
    if not _meets(run.report):
        return
    for exchange, ends in ends_of(run.report).items():
        asked = [end for end in ends if end.entry.initiated]
        answered = [end for end in ends if not end.entry.initiated]
        if len(asked) > 1 or len(answered) > 1:
            yield f"exchange {exchange} has {len(asked)} that asked, {len(answered)} that answered"
        yield from _disagreement(run.report, exchange, asked, answered)


def _disagreement(report: Report, exchange: str, asked: list[End], answered: list[End]) -> Iterator[str]:
    known = (Outcome.COMPLETED, Outcome.HALF)
    if asked and asked[0].entry.outcome is Outcome.COMPLETED:
        completed = bool(answered) and answered[0].entry.outcome is Outcome.COMPLETED
        if not completed and not _died(report, asked[0].entry.partner):
            yield f"exchange {exchange}: {asked[0].life.owner} completed it, {asked[0].entry.partner} did not"
    if answered and answered[0].entry.outcome is Outcome.COMPLETED:
        agrees = bool(asked) and asked[0].entry.outcome in known
        if not agrees and not _died(report, answered[0].entry.partner) and not _died(report, answered[0].life.name):
            said = asked[0].entry.outcome.value if asked else "nothing"
            yield f"exchange {exchange}: {answered[0].life.owner} completed it, {answered[0].entry.partner} says {said}"


def halves(report: Report) -> int:
    """Exchanges of which one end does not know whether the other moved."""
    return sum(e.outcome is Outcome.HALF for life in report.lives for e in life.observer.entries)


def ends_of(report: Report) -> dict[str, list[End]]:
    """Exchange -> its ends."""
    found: defaultdict[str, list[End]] = defaultdict(list)
    for life in report.lives:
        for entry in life.observer.entries:
            found[entry.id].append(End(life, entry))
    if find_method(report.plan.setting.rule).topology is not Topology.CENTRE:
        return found
    return {exchange: ends for exchange, ends in found.items() if not _is_fetch(ends)}


def _is_fetch(ends: list[End]) -> bool:
    """An heir took the value of a centre that left: only the end that asks writes that down."""
    return all(e.entry.initiated and e.entry.outcome is Outcome.COMPLETED and e.entry.distance is None for e in ends)


def _meets(report: Report) -> bool:
    """Whether both ends take part in an exchange; a fetch is entered at the end that asks, and its id means nothing
    elsewhere."""
    return find_method(report.plan.setting.rule).topology in (Topology.PAIRS, Topology.CENTRE)


def _died(report: Report, name: str) -> bool:
    return any(life.dead for life in report.lives if life.name == name)


def nothing_is_lost(run: Run) -> Iterator[str]:
    """Elastic Gossip: what one end gained the other lost, bit for bit, where both count the same; never overshot."""
    if run.report.plan.setting.rule != "elastic-gossip":
        return
    moves = {life: {a.exchange_id: a for a in life.observer.applied} for life in run.report.lives}
    for exchange, ends in ends_of(run.report).items():
        if len(ends) != 2 or any(exchange not in moves[end.life] for end in ends):
            continue
        one, claims = ends[0], [end.life.observer.weights[exchange] for end in ends]
        mine, theirs = (moves[end.life][exchange] for end in ends)
        if mine.replaced or theirs.replaced:
            continue
        yield from _imbalance(exchange, mine.move, theirs.move, claims[0] == claims[1], one.entry.distance or 0.0)


def _imbalance(exchange: str, mine: Tensor, theirs: Tensor, equals: bool, distance: float) -> Iterator[str]:
    if equals and not torch.equal(mine, -theirs):
        yield f"exchange {exchange}: the moves do not cancel"
    moved = float(mine.double().norm() + theirs.double().norm())
    if moved > distance * (1.0 + RULE_ERROR) + RULE_ERROR:
        yield f"exchange {exchange}: moved {moved:.6g} over a distance of {distance:.6g}"


def nothing_left(run: Run) -> Iterator[str]:
    """Who has ended keeps no task, no stream and no handler."""
    yield from run.report.left
    for life in run.report.survivors:
        streams = life.peer.responder.streams
        if streams:
            yield f"{life.owner} still counts {streams} streams"


def memory_bounded(run: Run) -> Iterator[str]:
    """No table of any peer grew with what others sent."""
    for life in run.report.lives:
        for path, entries in tables(life.peer):
            if entries > TABLE_ENTRIES_MAX:
                yield f"{life.owner}: {path} has {entries} entries"
        if life.peer.answered.exchanges.ledger.entries > LEDGER_ENTRIES:
            yield f"{life.owner}: its ledger has more than {LEDGER_ENTRIES} entries"


def tables(peer: Peer) -> Iterator[tuple[str, int]]:
    """Every container that this peer holds, by the names that lead to it, and how many entries it has."""
    waiting: list[tuple[str, Any]] = [("peer", peer)]
    seen: set[int] = set()
    while waiting:
        path, value = waiting.pop()
        if id(value) in seen or isinstance(value, (str, bytes, int, float, Tensor, torch.nn.Module, SimulatedNetwork)):
            continue
        seen.add(id(value))
        if isinstance(value, Mapping):
            yield path, len(value)
            waiting += [(f"{path}[{key!r}]", one) for key, one in list(value.items())[:3]]
        elif isinstance(value, (list, tuple, set, frozenset)) or type(value).__name__ in ("deque", "OrderedDict"):
            yield path, len(value)
            waiting += [(f"{path}[]", one) for one in list(value)[:3]]
        elif type(value).__module__.startswith("p2p_elastic"):
            names = [*getattr(value, "__dict__", {}), *getattr(type(value), "__slots__", ())]
            waiting += [(f"{path}.{name}", getattr(value, name, None)) for name in names]


def faults_counted(run: Run) -> Iterator[str]:
    """What the plan says happened, and the network did what the weather said."""
    report = run.report
    planned = Counter(type(fault).__name__.lower() for fault in report.plan.faults)
    if report.injected + report.missed != planned:
        yield f"planned {dict(planned)}, injected {dict(report.injected)}, came too late {dict(report.missed)}"
    counted = sum(network.faults.total() for network in report.networks)
    if counted != report.weather.faults:
        yield f"the networks count {counted} faults, the weather {report.weather.faults}"


def revoked_are_out(run: Run) -> Iterator[str]:
    """Once all hear of each other again, a revoked peer has no exchange, if the founder lived to tell."""
    report = run.report
    founders = [life for life in report.lives if life.name == report.plan.setting.names[0]]
    for revoked in report.lives:
        since = revoked.revoked_at
        if since is None:
            continue
        after = max(since, QUIET_FROM) + REVOKED_SECONDS
        if not any(life.began < since and not life.dead and life.ended_at > after for life in founders):
            continue
        for life in report.lives:
            met = [e for e in life.observer.entries if revoked.name in (life.name, e.partner)]
            late = [e for e in met if e.outcome is Outcome.COMPLETED and e.ended_at > after]
            yield from (f"{life.owner}, {e.partner}: revoked at {since:.1f} s, met at {e.ended_at:.1f}" for e in late)


def quiet_without_faults(run: Run) -> Iterator[str]:
    """Where nothing was injected nothing goes wrong: every failure in a disturbed run has a cause."""
    if run.report.plan.faults:
        return
    fine = (Outcome.COMPLETED, Outcome.DECLINED)
    for life in run.report.lives:
        for entry in life.observer.entries:
            # Who has done its steps leaves; whoever asks it just then is not answered any more.
            met_nobody = entry.outcome in (Outcome.UNREACHABLE, Outcome.BROKEN)
            gone = met_nobody and entry.ended_at > _first_end(run.report)
            if entry.outcome not in fine and not gone:
                yield f"{life.owner}: {entry.outcome.value} with {entry.partner} ({entry.reason})"


def _first_end(report: Report) -> float:
    return min(life.trained_until for life in report.lives)


def _pairs(run: Run) -> bool:
    return find_method(run.report.plan.setting.rule).topology is Topology.PAIRS


CHECKS: tuple[Check, ...] = (
    everybody_ends,
    everybody_learns,
    exchanges_come_back,
    everybody_is_known,
    nothing_twice,
    both_ends_agree,
    nothing_is_lost,
    nothing_left,
    memory_bounded,
    faults_counted,
    revoked_are_out,
    quiet_without_faults,
)


def problems(report: Report, undisturbed: tuple[float, ...]) -> list[str]:
    """Everything that is wrong with this run; nothing where it is clean."""
    run = Run(report, undisturbed)
    return [f"{check.__name__}: {line}" for check in CHECKS for line in check(run)]
