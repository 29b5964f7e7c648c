"""The messages that a peer answers, and which part answers each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from p2p_elastic.peers.gossip.admission import Admission
from p2p_elastic.peers.gossip.answering import Answering
from p2p_elastic.peers.gossip.comparing import Comparing
from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.lifecycle.announcer import Presence
from p2p_elastic.peers.lifecycle.departures import Goodbyes
from p2p_elastic.peers.lifecycle.donor import Donor
from p2p_elastic.peers.lifecycle.giving import Giving
from p2p_elastic.peers.lifecycle.other_models import Describing
from p2p_elastic.peers.session.answers import table_of
from p2p_elastic.peers.session.responder import Responder


class Answered(NamedTuple):
    """The parts that register the messages which they answer in the table of the responder.

    Attributes:
        exchanges: answers offers.
        fetches: gives parameters to newcomers and followers.
        comparisons: answers with this peer's loss.
        goodbyes: hears members that leave.
        descriptions: tells the schema of this peer's model.
    """

    exchanges: Answering
    fetches: Giving
    comparisons: Comparing
    goodbyes: Goodbyes
    descriptions: Describing


def responder_of(answered: Answered, parts: StrategyParts) -> Responder:
    """Build the responder, which serves the streams to a peer.

    Args:
        answered: what it answers.
        parts: of that peer.

    Returns:
        The responder.
    """
    local = parts.local
    refused = local.journal.streams_refused
    return Responder(table_of(answered), parts.limits, local.members.waits_of, refused, local.access)


def answered_by(parts: StrategyParts, presence: Presence, look: Callable[[], Awaitable[None]]) -> Answered:
    """Put together what a peer answers.

    Args:
        parts: of that peer.
        presence: announces what follows from a goodbye.
        look: reads the directory anew.

    Returns:
        The parts that answer.
    """
    local, limits, admission = parts.local, parts.limits, Admission(parts.local)
    return Answered(
        Answering(local, limits, admission),
        Giving(local, admission, Donor(local, limits, look)),
        Comparing(local, admission),
        Goodbyes(local, admission, presence, parts.initiator, parts.own),
        Describing(local, admission),
    )
