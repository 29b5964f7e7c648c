"""What people see of the others: partners and members, as one peer knows them."""

from __future__ import annotations

from p2p_elastic.parameters.vector import WIRE_DTYPE
from p2p_elastic.peers.membership.liveness import shown
from p2p_elastic.peers.state.context import LocalContext
from p2p_elastic.protocol.link_choice import bytes_per_element
from p2p_elastic.rules.methods import Flow
from p2p_elastic.status.schema import LinkStatus, MemberStatus, OtherModel, PartnerStatus


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


def link_of(local: LocalContext) -> LinkStatus | None:
    """Show what exchanges have shown of this peer's links, and what was chosen by it.

    Args:
        local: the parts of this peer.

    Returns:
        The link; None if nothing is known of it.
    """
    (seconds_per_byte, rtt_seconds), bargain = local.own.link, local.run.bargain
    if not seconds_per_byte:
        return None
    ways = 2 if local.run.policy.flow is Flow.BOTH else 1
    whole = local.vector.elements * ways * seconds_per_byte
    return LinkStatus(
        bytes_per_second=1.0 / seconds_per_byte,
        rtt_seconds=rtt_seconds,
        codec=bargain.codec,
        fragments=bargain.count,
        exchange_seconds=whole * bytes_per_element(bargain.codec) / bargain.count,
        whole_seconds=whole * WIRE_DTYPE.itemsize,
        limits=bargain.chosen_by_link,
    )


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
