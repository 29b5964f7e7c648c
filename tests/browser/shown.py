"""Peers as a page may have to show them: one that has just started, a busy one, one with every warning."""

from __future__ import annotations

from typing import Any

from helpers.statuses import status_of

from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.status.events import EventLog
from p2p_elastic.status.history import History
from p2p_elastic.status.schema import (
    AdmissionStatus,
    AdmittedStatus,
    CheckpointStatus,
    ExchangeRecord,
    ExchangeTotals,
    LeaderStatus,
    MemberStatus,
    PartnerStatus,
    PeerStatus,
    SignalStatus,
)

OWN = "12D3KooWAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAownPeer"
OTHERS = [f"12D3KooWBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBother{i:03}" for i in range(1, 40)]
HOSTILE = '"><img src=x onerror="document.title=1"><script>document.body.innerHTML=""</script><a href="javascript:1">'


def starting() -> PeerStatus:
    """A founder that has not begun: no loss, no signal, nobody else."""
    return status_of(
        peer=OWN,
        uptime_seconds=0.5,
        weight=0.0,
        training={"phase": "starting", "loss": None, "steps_total": 1000},
        network={"addresses": ()},
        exchanges=ExchangeTotals(),
    )


def member_of(peer: str, **changes: Any) -> MemberStatus:
    """Another peer that trains well, but for the changes."""
    fine = {"addresses": ("/ip4/10.0.0.2/tcp/1",), "state": "alive", "step": 1234, "loss": 0.25, "age_seconds": 2.0}
    return MemberStatus(**{"peer": peer, "steps_per_second": 17.25, **fine, **changes})


def exchange_of(peer: str, outcome: Outcome = Outcome.COMPLETED, **changes: Any) -> ExchangeRecord:
    """An exchange with it a moment ago, but for the changes."""
    sizes = {"bytes_sent": 400_000, "bytes_received": 400_000, "distance": 0.0918, "staleness": 3}
    told = {"id": f"x{peer}", "initiated": True, "step": 1200, "seconds": 0.1, "age_seconds": 3.0}
    return ExchangeRecord(**{"partner": peer, "outcome": outcome, **sizes, **told, **changes})


def busy(others: int = 2, step: int = 13_390, **changes: Any) -> PeerStatus:
    """A peer that trains in a swarm without any trouble."""
    peers = OTHERS[:others]
    records = tuple(exchange_of(peer) for peer in peers)
    values: dict[str, Any] = {
        "peer": OWN,
        "training": {
            **{"phase": "training", "step": step, "steps_total": 400_000, "epoch": 1030.0, "loss": 0.125},
            **{"steps_per_second": 8.398, "validation_accuracy": 0.972, "metrics": {"accuracy": 0.972}},
        },
        "signals": tuple(SignalStatus(name=name, health=1.0, value=0.5, unit="1") for name in ("memory", "battery")),
        "members": tuple(
            member_of(peer, partners=tuple(other for other in peers if other != peer)) for peer in peers[:60]
        ),
        "partners": tuple(
            PartnerStatus(peer=r.partner, weight=1.0, distance=0.09, exchanges={Outcome.COMPLETED: 185}, last=r)
            for r in records
        ),
        "last_exchanges": records,
        "exchanges": ExchangeTotals(by_outcome={Outcome.COMPLETED: 386}, bytes_sent=133 * 10**6),
        "checkpoint": CheckpointStatus(step=11_706, age_seconds=139.0, failures=0, skipped=0, problem=None),
        "network": {"attached": True},
    }
    return status_of(**{**values, **changes})


def admission_of(
    *peers: str, role: str = "trainer", seconds_left: float = 3 * 86_400.0, **changes: Any
) -> AdmissionStatus:
    """A private run that the last of the others founded, and that admitted these peers, the first with the changes."""
    founder, tickets = OTHERS[-1], []
    for peer in peers:
        tickets.append(AdmittedStatus(peer=peer, role=role, by=founder, serial="5f" * 16, seconds_left=7e5, **changes))
        changes = {}
    return AdmissionStatus(
        founder=founder,
        role=role,
        seconds_left=seconds_left,
        admitted=tuple(tickets),
        revoked=1,
        refused={"no ticket": 3},
    )


def troubled(text: str = "this GPU is at 95 °C, 85 would be fine: it slows down") -> PeerStatus:
    """A peer with every kind of warning: of itself, of members, of partners. `text` is what others say."""
    suspect, dead, drained, doubted, gone = OTHERS[:5]
    failed = exchange_of(doubted, Outcome.UNREACHABLE, reason=text)
    return busy(
        5,
        weight=0.42,
        weight_override=0.42,
        drained=True,
        run=text,
        device=text,
        signals=(
            SignalStatus(name="temperature", health=0.42, value=95.0, unit="°C", text=text),
            SignalStatus(name=text, health=0.0, text=text, source="reported", seconds_left=60.0),
        ),
        training={
            **{"phase": "training", "step": 7, "steps_total": 100, "loss": float("nan")},
            **{"metrics": {text: 0.5}, "test_metrics": {text: 1.5}},
        },
        members=(
            member_of(suspect, state="suspect"),
            member_of(dead, state="dead"),
            member_of(drained, drained=True, weight=0.5),
            member_of(doubted, weight=0.1),
        ),
        partners=(
            PartnerStatus(
                **{"peer": doubted, "trust": 0.3, "reasons": (text,), "exchanges": {Outcome.UNREACHABLE: 4}},
                **{"failed_lately": 4, "last": failed, "last_error": text},
            ),
            PartnerStatus(
                peer=gone, exchanges={Outcome.DECLINED: 3}, last=exchange_of(gone, Outcome.DECLINED, reason=text)
            ),
        ),
        last_exchanges=(failed,),
        leaders=LeaderStatus(
            group=text, leader=suspect, leader_of_all=dead, snapshots_published=0, disbelieved={doubted: text}
        ),
        exchanges=ExchangeTotals(by_outcome={Outcome.UNREACHABLE: 4, Outcome.COMPLETED: 3}, failed_lately=4),
        admission=admission_of(suspect, role=text, seconds_left=0.0, problem=text),
        checkpoint=CheckpointStatus(step=3, age_seconds=9.0, failures=1, skipped=0, problem=text),
    )


def log_of(text: str = "") -> EventLog:
    """Events of every sort a reader tells apart: news, a warning, exchanges."""
    log = EventLog(lambda: 1_800_000_000.0)
    log.add("joined", f"{OTHERS[0]} joined {text}", peer=OTHERS[0])
    log.add("suspect", f"{OTHERS[0]} is suspect {text}", peer=OTHERS[0])
    log.add("exchange", f"exchange with {OTHERS[1]}: completed {text}", outcome="completed")
    log.add("exchange", f"exchange with {OTHERS[1]}: unreachable {text}", outcome="unreachable")
    return log


def history_of(status: PeerStatus, points: int = 51) -> History:
    """A curve of a point every two seconds, which ends where the status is: after 100 of them."""
    history = History()
    for i in range(points):
        training = status.training.model_copy(update={"loss": 2.0 / (1 + i), "step": 1 + i})
        history.observe(status.model_copy(update={"uptime_seconds": 2.0 * i, "training": training}))
    return history
