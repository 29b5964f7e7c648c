"""The parts of one peer that its exchanges share, and what is done with several of them at once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from p2p_elastic.health.operator import Condition
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.direct.connections import NoConnections
from p2p_elastic.peers.exchange.busy_partners import BusyPartners
from p2p_elastic.peers.exchange.journal import Entry, Journal
from p2p_elastic.peers.exchange.pacing import Pacing
from p2p_elastic.peers.exchange.slot import ExchangeSlot
from p2p_elastic.peers.membership.departure import Departure
from p2p_elastic.peers.session.conversation import Limits
from p2p_elastic.peers.state.current_run import CurrentRun
from p2p_elastic.peers.state.members import Membership
from p2p_elastic.peers.state.own_state import OwnState
from p2p_elastic.peers.state.partner_judge import PartnerJudge
from p2p_elastic.peers.transport.everybody import Everybody
from p2p_elastic.peers.transport.interfaces import Access, DirectConnections
from p2p_elastic.protocol.exchange import Result
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.rate_limit import Budget
from p2p_elastic.status.events import EventLog
from p2p_elastic.status.schema import Way


@dataclass(frozen=True)
class LocalContext:
    """The parts of one peer that most of its classes need. Each part documents which thread it belongs to.

    Attributes:
        peer: this peer's id.
        vector: the model.
        events: what is shown to people as it happens.
        run: the run that this peer is in.
        members: the others in the run, and how long to wait for each.
        own: what this peer says of itself.
        slot: the one exchange that may be under way.
        departure: whether this peer leaves, and the peer to which it hands over.
        judge: trials and verdicts of partners.
        journal: the exchanges so far.
        pacing: what the budget of bytes allows.
        direct: connections to partners beside libp2p.
        access: who may do what.
        busy: partners that are not asked at present.
    """

    peer: str
    vector: ParameterVector
    events: EventLog
    run: CurrentRun
    members: Membership
    own: OwnState
    slot: ExchangeSlot
    departure: Departure
    judge: PartnerJudge
    journal: Journal
    pacing: Pacing
    direct: DirectConnections
    access: Access
    busy: BusyPartners

    @property
    def share(self) -> float:
        """What this peer gives away of its sum weight when it asks (GoSGD): all of it if it leaves."""
        return self.run.rules.share(last=self.departure.handing_over)


def assembled(
    run: CurrentRun,
    condition: Condition,
    events: EventLog,
    *,
    limits: Limits,
    budget: Budget | None = None,
    direct: DirectConnections | None = None,
    access: Access | None = None,
) -> LocalContext:
    """Build the parts of a peer for one run.

    Args:
        run: the run that the peer is in.
        condition: what the machine, its operator and other programs say about the peer.
        events: what is shown to people as it happens.
        limits: deadlines and bounds.
        budget: what the peer may send and receive; None means the default `Budget`.
        direct: connections beside libp2p; None: there are none.
        access: who may do what; None: everybody everything.

    Returns:
        The parts, which refer to each other.
    """
    slot, members = ExchangeSlot(run.vector), Membership(run, events, limits)
    pacing = Pacing(budget or Budget(), members.step_time, run.policy, run.bargain.vector_bytes, members.ever_answered)
    journal = Journal(spent=pacing.spent)
    own = OwnState(run, members, condition, journal, events)
    return LocalContext(
        peer=run.peer,
        vector=run.vector,
        events=events,
        run=run,
        members=members,
        own=own,
        slot=slot,
        departure=Departure(),
        judge=PartnerJudge(run, own, events),
        journal=journal,
        pacing=pacing,
        direct=direct or NoConnections(),
        access=access or Everybody(),
        busy=BusyPartners(),
    )


def enter(
    local: LocalContext,
    exchange_id: str,
    partner: str,
    result: Result,
    *,
    initiated: bool,
    started: float,
    traffic: tuple[int, int],
    distance: float | None = None,
    way: Way | None = None,
) -> None:
    """Write an exchange that just ended into the journal and the events.

    Args:
        local: the parts of this peer.
        exchange_id: the id under which it was offered.
        partner: the peer at the other end.
        result: how it ended, and the facts of both ends.
        initiated: True if this peer asked for it.
        started: when it began, seconds of the event loop's clock.
        traffic: bytes sent and bytes received.
        distance: L2 distance between the two models before the move; None if nothing was received.
        way: which the vectors took; None if it is not known.
    """
    now, step = asyncio.get_running_loop().time(), local.own.progress.step
    if result.outcome is Outcome.COMPLETED:
        local.members.apart.met(partner, now, step)
    entry = Entry(
        id=exchange_id,
        partner=partner,
        initiated=initiated,
        outcome=result.outcome,
        reason=result.reason,
        step=step,
        seconds=now - started,
        bytes_sent=traffic[0],
        bytes_received=traffic[1],
        distance=distance,
        way=way or Way(),
        ended_at=now,
    )
    local.journal.enter(entry, result.theirs.weight if result.theirs is not None else None)
    text, facts = entry.event()
    local.events.add("exchange", text, **facts)
