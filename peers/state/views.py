"""What people see of the others: partners and members, as one peer knows them."""

from __future__ import annotations

from p2p_elastic.peers.membership.liveness import shown
from p2p_elastic.peers.state.context import LocalContext
from p2p_elastic.status.schema import MemberStatus, OtherModel, PartnerStatus


def partners_of(local: LocalContext, now: float) -> tuple[PartnerStatus, ...]:
    """Show the partners with which there were exchanges.

    Args:
        local: the parts of this peer.
        now: seconds of the event loop's clock.

    Returns:
        One entry for each partner, the latest first.
    """
    members, seconds = local.members.known, local.pacing.expected()
    found = local.journal.partners(now, {**local.judge.verdicts, **local.run.topology.verdicts()})
    deadlines = {p.peer: local.members.waits(members[p.peer].record).answer() for p in found if p.peer in members}
    return tuple(
        p.model_copy(update={"deadline_seconds": deadlines.get(p.peer), "exchange_seconds": seconds.get(p.peer)})
        for p in found
    )


def members_of(local: LocalContext, now: float) -> tuple[MemberStatus, ...]:
    """Show the members of the run.

    Args:
        local: the parts of this peer.
        now: seconds of the event loop's clock.

    Returns:
        One entry for each member, ordered by peer id.
    """
    looked_at, announce_seconds = local.members.looked_at, local.run.context.announce_seconds
    return tuple(shown(m, now, looked_at, announce_seconds) for _, m in sorted(local.members.known.items()))


def other_models_of(local: LocalContext) -> tuple[OtherModel, ...]:
    """Show the peers of the run that train another model.

    Args:
        local: the parts of this peer.

    Returns:
        One entry for each of them, ordered by peer id.
    """
    known = local.members.differences
    return tuple(
        OtherModel(peer=peer, schema_hash=record.schema_hash, difference=known.get(record.schema_hash))
        for peer, record in sorted(local.members.foreign.items())
    )
