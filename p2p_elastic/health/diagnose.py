"""Why does a peer not progress? A pure function of what it says about itself.

To progress is to train, and to exchange now and then if that is due. All that `health` finds wrong is a reason here,
too, and beside it:

    not_training                  starting, waiting for others, finishing or done
    newcomer                      it joined a run under way, and has copied nobody yet
    trusts_nobody                 what partners sent was so bad that nobody moves this peer
    members_drained               every live member asks not to be chosen
    partners_not_finite           some tensors of partners are not finite, and so do not move this peer
    schema_differs                the same as in health, or exchanges that were refused for it
    versions_differ               members run different versions, and exchange
    clock_skew                    clocks differ by so much that records are ignored
    not_dialled                   members cannot dial this peer, and no relay leads to it
    paced                         exchanges wait for the budget of bandwidth or time
    thin_link                     the link is the limit: exchanges move parts, or by a codec of fewer bytes
    centre_busy                   the centre has no time for all that ask it (EASGD): the swarm is too large for one
    alone_bootstrap_unreachable   `bootstrap_unreachable` of health

and if no exchange came about lately:

    no_members                    also of a founder, which may be alone
    no_leader                     nobody leads (Leader SGD)
    unreachable, timeouts, broken  how the exchanges since the last good one failed
    all_decline                   all peers that answered said no, with their reasons
    not_due_yet                   nothing was due so far; this is no fault
    unclear                       none of these
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pydantic import Field

from p2p_elastic.health.causes import NAMED, OF_FAILURES, advice_on_failures, limit_of, load_of, names
from p2p_elastic.health.checks import LONELY_SECONDS, judge, members_drained
from p2p_elastic.health.versions import protocols_differ, versions_differ
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.rate_limit import used
from p2p_elastic.status.schema import ExchangeRecord, LinkStatus, MemberStatus, PeerStatus, Reason
from p2p_elastic.values import Frozen

LATELY_SECONDS = 60.0
LESS_FOR_A_CENTRE = (
    "Found the next run with a longer --period, with smaller parts (--fragment), or with --rule elastic-gossip, which "
    "has no centre"
)
BUSY_MIN, BUSY_SHARE = 20, 0.5  # declines as busy, and their share of what was asked for: the centre is too small
PERIODS = 3  # mean times between due exchanges: that long is still lately, if it is longer

NOT_DIALLED = (
    "members cannot dial this peer, and no relay leads to it: it exchanges with those that it can dial, not with "
    "others behind routers. Forward its port (--announce), or start a member that can be dialled with --relay RATE"
)

# What each reason of a decline means, and what to do; of `exchange.DeclineReason`, and what followers write down.
DECLINES = {
    "busy": "it had another exchange under way, which is normal; if it is always so, a longer --period helps",
    "leaving": "it was about to end",
    "not-training": "no step ended there in time: it has not begun, evaluates, or hangs",
    "not-finite": "its own parameters are broken: restart that peer",
    "other-run": "it is in another run: give both the same --run",
    "other-schema": "its model is another: install the same version of p2p-elastic everywhere",
    "other-codec": "it encodes parameters in another way: install the same version of p2p-elastic everywhere",
    "other-version": "it speaks another version of the protocol: install the same version of p2p-elastic everywhere",
    "other-rule": "by its rule nobody asks anybody: are the runs the same?",
    "not-centre": "the centre variable has moved; this peer hears of it within seconds",
    "no-snapshot": "it has no snapshot of the leader, or does not know this peer yet",
    "drained": "it is drained: POST /v1/resume there",
    "not-admitted": "the run is private, and this peer's ticket does not allow that: ask for one of another role",
    "paced": "its budget is spent for now, or that for partners over much slower links than others",
    "referred to others": "it named others that have the snapshot, and none of them gave it",
}
UNCHANGED = "unchanged"  # a follower's word: it has the newest snapshot already, and follows that

NOT_TRAINING = {
    "starting": "it looks for its run and loads its data; if that takes long, its log says where it waits",
    "waiting": "it waits for as many other peers as --wait-for-peers says; {alive} are there",
    "joining": "it takes the parameters of members that are ahead; /v1/status says how many parts are here",
    "compiling": "it makes the first step of a model under torch.compile, which may take minutes",
    "finishing": "it has made its last step and ends the exchange under way",
    "done": "it has reached its end",
}
STOPPING = frozenset({"not_training", "drained", "loss_not_finite", "stalled", "network_failed"})


class Why(Frozen):
    """Whether a peer progresses, and what is in the way."""

    progressing: bool = Field(description="it trains, and an exchange came about lately, or none was due")
    reasons: tuple[Reason, ...] = Field(description="what is in the way; while it progresses, what may get in the way")


def why(status: PeerStatus) -> Why:
    """Find out whether a peer progresses, and all that is in the way.

    Args:
        status: all that the peer says about itself.

    Returns:
        The answer; each reason has a sentence that says what to do.
    """
    lately = _exchanged_lately(status)
    reasons = tuple(_lasting(status, lately))
    known = {reason.code for reason in reasons}
    if not lately:
        reasons += tuple(reason for reason in _of_exchanges(status) if reason.code not in known)
    stopped = any(reason.code in STOPPING for reason in reasons)
    progressing = not stopped and (lately or _due(status) == 0)
    if not progressing and not reasons:
        reasons = (_unclear(status),)
    return Why(progressing=progressing, reasons=reasons)


def _reason(code: str, text: str) -> Reason:
    return Reason(code=code, text=text)


# -- whether exchanges come about --------------------------------------------------------------------------------------


def _due(status: PeerStatus) -> int:
    """The number of exchanges that ended, or were due and not begun."""
    return sum(status.exchanges.by_outcome.values()) + sum(status.exchanges.skipped.values())


def _exchanged_lately(status: PeerStatus) -> bool:
    if status.centre is not None and status.centre.here:  # its own exchanges need no stream, and nobody counts them
        return True
    if status.leaders is not None and status.leaders.leader == status.peer:  # it follows nobody
        return True
    ages = [record.age_seconds for record in _records(status) if _came_about(record)]
    paid = 0.0 if status.pace is None else status.pace.exchange_seconds  # more often it does not exchange
    long = max(LATELY_SECONDS, PERIODS * status.uptime_seconds / max(1, _due(status)), PERIODS * paid)
    return bool(ages) and min(ages) < long


def _came_about(record: ExchangeRecord) -> bool:
    return record.outcome is Outcome.COMPLETED or record.reason == UNCHANGED


def _records(status: PeerStatus) -> list[ExchangeRecord]:
    """All that is remembered, the newest first."""
    of_partners = (partner.last for partner in status.partners if partner.last is not None)
    known = {(record.id, record.partner): record for record in (*status.last_exchanges, *of_partners)}
    return sorted(known.values(), key=lambda record: record.age_seconds)


def _since_the_last(status: PeerStatus) -> list[ExchangeRecord]:
    """The exchanges that failed since one came about, the newest first."""
    records = _records(status)
    return records[: next((i for i, record in enumerate(records) if _came_about(record)), len(records))]


def _alive(status: PeerStatus) -> list[MemberStatus]:
    return [member for member in status.members if member.state == "alive"]


# -- what is so, however exchanges go ----------------------------------------------------------------------------------


def _lasting(status: PeerStatus, lately: bool) -> Iterator[Reason]:
    phase, alive = status.training.phase, _alive(status)
    if phase in NOT_TRAINING:
        yield _reason("not_training", f"the peer is {phase}: {NOT_TRAINING[phase].format(alive=len(alive))}")
    yield from _of_health(status, lately)
    yield from _of_weights(status)
    if (drained := members_drained(status)) is not None:
        yield drained
    yield from _of_versions(status)
    yield from _of_clocks(status)
    yield from _of_budget(status)
    if status.network.reachable is False and not status.network.relays:
        yield _reason("not_dialled", NOT_DIALLED)
    if status.link is not None and status.link.limits:
        yield _reason("thin_link", limit_of(status.link))
    yield from _of_the_centre(status)


def _of_health(status: PeerStatus, lately: bool) -> Iterator[Reason]:
    # health gives a young peer time; an operator that asks why wants to know now.
    young = {"uptime_seconds": max(status.uptime_seconds, LONELY_SECONDS + 1.0)}
    for reason in judge(status.model_copy(update=young)).reasons:
        if reason.code == "bootstrap_unreachable":
            yield _reason("alone_bootstrap_unreachable", reason.text)
        elif reason.code == "members_drained" or (reason.code == "exchanges_failing" and not lately):
            continue  # told apart: the one of founders, too, the other in more detail
        else:
            yield reason


def _of_weights(status: PeerStatus) -> Iterator[Reason]:
    if status.weight == 0.0 and any(signal.name == "newcomer" for signal in status.signals):
        yield _reason("newcomer", "this peer joined a run under way: it copies a partner before it counts")
    if status.partners and all(partner.trust == 0.0 for partner in status.partners):
        why_not = "; ".join(
            f"{partner.peer} ({', '.join(partner.reasons) or 'no reason given'})" for partner in status.partners[:NAMED]
        )
        text = (
            f"no partner is trusted, so nobody moves this peer: {why_not}. See whether it is they or this peer's data"
        )
        yield _reason("trusts_nobody", text)
    if spoilt := [partner for partner in status.partners if partner.left_out]:
        said = "; ".join(f"{names(partner.left_out)} at {partner.peer}" for partner in spoilt[:NAMED])
        yield _reason("partners_not_finite", f"not finite, so they do not move this peer, and all else does: {said}")


def _of_versions(status: PeerStatus) -> Iterator[Reason]:
    totals, name = status.exchanges, "other-schema"
    refused = sum(r.outcome is Outcome.REFUSED and "schema" in (r.reason or "") for r in status.last_exchanges)
    times = totals.declined_by_us.get(name, 0) + totals.declined_by_partner.get(name, 0) + refused
    if times and not status.other_models:  # health says it then
        text = (
            f"{times} exchanges were refused because the model is another at the other peer: "
            "install the same version of p2p-elastic everywhere"
        )
        yield _reason("schema_differs", text)
    differ = versions_differ(status)
    if differ is not None and not protocols_differ(status):
        yield _reason("versions_differ", differ)  # if they do not exchange, health says it


def _of_clocks(status: PeerStatus) -> Iterator[Reason]:
    network = status.network
    named = [f"{one.address}: {one.problem}" for one in network.bootstrap if "clock" in (one.problem or "")]
    if named:
        yield _reason("clock_skew", "; ".join(named))
    elif network.records_ignored and not _alive(status):
        text = (
            f"{network.records_ignored} records of other peers were ignored, and no member is known: their clocks may "
            "be far from this one's. Set the time on all machines: timedatectl set-ntp true"
        )
        yield _reason("clock_skew", text)


def _of_the_centre(status: PeerStatus) -> Iterator[Reason]:
    """The centre exchanges with one peer at a time: what it can do is shared by all members."""
    busy, totals = status.exchanges.declined_by_partner.get("busy", 0), status.exchanges.by_outcome
    asked = totals.get(Outcome.COMPLETED, 0) + totals.get(Outcome.DECLINED, 0)
    if status.centre is not None and busy >= BUSY_MIN and busy >= BUSY_SHARE * asked:
        yield _reason(
            "centre_busy",
            f"the centre was busy with others {busy} of {asked} times: it exchanges with one peer at a time, so all "
            f"{len(_alive(status)) + 1} members have together what one can do. {LESS_FOR_A_CENTRE}",
        )


def _of_budget(status: PeerStatus) -> Iterator[Reason]:
    pace = status.pace
    if pace is None or pace.wait_seconds == 0.0:
        return
    which = [name for name, most in (("bandwidth", pace.max_bytes_per_second), ("time", pace.max_share)) if most]
    period = "" if pace.effective_period is None else f", about every {pace.effective_period:.0f} steps"
    instead = f" instead of {pace.period:.0f}" if period and pace.period is not None else ""
    text = (
        f"exchanges wait for the {' and '.join(which)} budget: lately they took {used(pace)}; the next one may begin "
        f"in {pace.wait_seconds:.0f} s{period}{instead}. --max-bandwidth and --max-share set it"
    )
    yield _reason("paced", text)


# -- why no exchange came about lately ---------------------------------------------------------------------------------


def _of_exchanges(status: PeerStatus) -> Iterator[Reason]:
    if status.training.phase in NOT_TRAINING:
        return
    if not _alive(status):
        yield _reason("no_members", _nobody(status))
    yield from _no_leader(status)
    failed = _since_the_last(status)
    yield from _failures(failed, load_of(status.signals), status.link)
    answered = [record for record in failed if record.outcome is Outcome.DECLINED]
    if answered:
        counts = Counter(record.reason or "no reason given" for record in answered).most_common()
        said = "; ".join(f"{count} x {reason}{_meaning(reason)}" for reason, count in counts)
        yield _reason("all_decline", f"all that answered declined: {said}")
    if _due(status) == 0:
        step = status.training.step
        text = f"no exchange was due so far, at step {step}; with a long period the first one takes a while"
        yield _reason("not_due_yet", text)


def _nobody(status: PeerStatus) -> str:
    dead = sum(member.state == "dead" for member in status.members)
    if status.members:
        return (
            f"no live member: of the {len(status.members)} known ones {dead} are dead, the others suspect; "
            "they are tried again once they announce themselves"
        )
    return f"nobody else is in run {status.run!r} yet; start others with --initial-peer and an address of this peer"


def _no_leader(status: PeerStatus) -> Iterator[Reason]:
    leaders = status.leaders
    if leaders is None or leaders.leader is not None:
        return
    doubts = "; ".join(f"{peer} {doubt}" for peer, doubt in list(leaders.disbelieved.items())[:NAMED])
    because = f"these are not believed: {doubts}" if doubts else "no member of it has said how well it trains"
    yield _reason("no_leader", f"nobody leads group {leaders.group!r}: {because}; wait, or see the logs of its members")


def _failures(failed: list[ExchangeRecord], load: float | None, link: LinkStatus | None) -> Iterator[Reason]:
    for code, outcomes, what, _ in OF_FAILURES:
        found = [record for record in failed if record.outcome in outcomes]
        if found:
            said = f" ({found[0].reason})" if found[0].reason else ""
            partners, advice = names(record.partner for record in found), advice_on_failures(outcomes, load)
            advice = advice if link is None or not link.limits else f"{limit_of(link)}. If that is not it: {advice}"
            text = f"{what} in {len(found)} of the last {len(failed)} exchanges, with {partners}{said}; {advice}"
            yield _reason(code, text)


def _meaning(reason: str) -> str:
    return f" ({DECLINES[reason]})" if reason in DECLINES else ""


def _unclear(status: PeerStatus) -> Reason:
    skipped = ", ".join(f"{count} x {reason}" for reason, count in status.exchanges.skipped.items()) or "none"
    text = (
        "no exchange came about lately, and nothing here says why; exchanges that were due and not begun: "
        f"{skipped}. See last_exchanges in /v1/status, and the log with --verbose"
    )
    return _reason("unclear", text)
