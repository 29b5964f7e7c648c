"""From what an exchange brought to the move that the training thread adds."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import NamedTuple

from p2p_elastic.health.causes import names as some
from p2p_elastic.health.trust import Scale, trusting
from p2p_elastic.parameters.vector import Part
from p2p_elastic.peers.exchange.lost_tensors import names_at
from p2p_elastic.peers.exchange.mailbox import Check, Move
from p2p_elastic.peers.state.context import LocalContext
from p2p_elastic.peers.state.own_state import NAMES_MAX
from p2p_elastic.protocol.chunks import Received
from p2p_elastic.rules.base import Facts
from p2p_elastic.rules.merging import crossing, merges
from p2p_elastic.rules.trial import Trial

log = logging.getLogger(__name__)


class Brought(NamedTuple):
    """What an exchange brought.

    Attributes:
        exchange_id: the id under which it was offered.
        partner: the peer at the other end.
        mine, theirs: what this peer and the partner say of themselves.
        received: the partner's vector; None if nothing is to be moved to.
        trial: how the partner's parameters did here; None if they were not tried.
        of_all: True for the rule for the best of all groups.
        check: asked by the training thread before it adds the move; None: it is added.
    """

    exchange_id: str
    partner: str
    mine: Facts
    theirs: Facts
    received: Received | None
    trial: Trial | None = None
    of_all: bool = False
    check: Check | None = None


def move(local: LocalContext, brought: Brought) -> float | None:
    """Turn what an exchange brought into a move, and hand it to the training thread.

    If nothing was received only the rule's state changes, and the mailbox is free again.

    Args:
        local: the parts of this peer.
        brought: what the exchange brought.

    Returns:
        The L2 distance before the move; None if nothing was received.
    """
    exchange_id, partner, mine, theirs, received, trial, of_all, check = brought
    if local.run.policy.moves_the_other(asked=mine.asked):
        local.slot.gave()
    part = local.slot.mailbox.part
    if received is None:
        local.run.rules.update(0.0, mine, theirs, partner=partner, part=part, of_all=of_all)
        local.slot.release()
        return None
    claimed = theirs.weight
    if claimed == 0.0 and received.zero:
        theirs = theirs._replace(trust=0.0)  # zeros, from a partner that is broken: to follow as equals would harm
    elif local.own.broken:
        theirs = theirs._replace(weight=1.0)  # any partner is better
    note_left_out(local, partner, received, part)
    delta, distance = local.slot.mailbox.difference(received)
    if merges(mine, theirs):
        local.judge.forget_distances(partner)
    judges = not local.own.broken and check is None
    verdict = None
    if judges:
        verdict = local.judge.verdict(partner, theirs, distance, trial, part, scale=_scale(local, mine))
    if verdict is not None:
        theirs = trusting(theirs, verdict)
        local.own.compared(verdict.own)
    finite = math.isfinite(distance)
    good = theirs.trust > 0.0 and finite
    if trial is not None and trial.barrier and verdict is not None:
        share = _cross(local, mine, theirs, partner)
    else:
        share = local.run.rules.update(distance, mine, theirs, partner=partner, part=part, of_all=of_all)
    heals = local.slot.mailbox.lost.healed_by(received) if good else ()
    if not finite:
        share = 0.0  # what overflows a difference would break the model
    if local.own.broken and not (good and share):
        local.slot.release()  # nothing to be healed by
        return distance
    copied = False
    if claimed > 0.0 and good and check is None:
        if local.own.newcomer or local.own.broken:
            local.own.compared(1.0)  # what was measured is what this peer was
        copied = local.own.newcomer and mine.weight == 0.0 and part is None
        local.own.met(copied=copied)
    local.slot.deliver(Move(exchange_id, delta, share, check, local.own.broken, copied, heals))
    return distance


def _scale(local: LocalContext, mine: Facts) -> Scale | None:
    """What distances are compared with; None for a peer that may be far from all others, or follows only one."""
    norm = local.slot.mailbox.norm
    if norm is None or local.own.newcomer or mine.apart is not None or local.run.topology.one_donor:
        return None
    return Scale(norm, len(local.members.known))


def note_left_out(local: LocalContext, partner: str, received: Received, part: Part | None) -> None:
    """Write down which tensors of a partner do not move this peer, since they came with numbers that are not finite.

    Args:
        local: the parts of this peer.
        partner: its id.
        received: what the transfer reported.
        part: of the vector, that was exchanged; None for all of it.
    """
    first = 0 if part is None else part[0]
    names = names_at(local.vector.slots, tuple((first + a, first + b) for a, b in received.left_out))
    if local.journal.left_out(partner, names) and names:
        text = f"not finite at {partner}, so all else moves: {some(names)}"
        log.warning("%s", text)
        local.events.add("signal", text, partner=partner, tensors=[*names[:NAMES_MAX]])


def _cross(local: LocalContext, mine: Facts, theirs: Facts, partner: str) -> float:
    """The share by which this peer moves if the middle between it and the partner is bad: all of the way, or none."""
    share = crossing(mine, theirs, yields=local.peer > partner)
    log.info("a barrier between %s and this peer: %s", partner, "this peer copies it" if share else "this peer stays")
    if share:
        local.members.apart.adopt(theirs.apart, asyncio.get_running_loop().time())
    return share
