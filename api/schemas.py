"""The answers that exist only over HTTP; all others are in `p2p_elastic.status`."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from pydantic import Field

from p2p_elastic.status import ExchangeRecord, Frozen, MemberStatus, Outcome, PeerStatus, Reason


class Ready(Frozen):
    """The peer trains and can be reached."""

    ready: Literal[True] = True


class NotReady(Frozen):
    """The peer does not train yet, or no longer, or cannot be reached."""

    ready: Literal[False] = False
    reason: Reason


class Problem(Frozen):
    """Why a request was not answered."""

    detail: str


class PartnerStatus(Frozen):
    """A peer with which one of the last exchanges was."""

    peer: str
    exchanges: dict[Outcome, int] = Field(description="how many of the last exchanges ended which way")
    last: ExchangeRecord = Field(description="the newest of them")


class Peers(Frozen):
    """The other peers of the run, and those with which this peer exchanged lately."""

    members: tuple[MemberStatus, ...]
    partners: tuple[PartnerStatus, ...] = Field(description="the latest first; a partner may have left the run since")

    @classmethod
    def of(cls, status: PeerStatus) -> Peers:
        """The part of a status that is about other peers."""
        newest_first = sorted(status.last_exchanges, key=lambda record: record.age_seconds)
        by_partner: dict[str, list[ExchangeRecord]] = {}
        for record in newest_first:
            by_partner.setdefault(record.partner, []).append(record)
        partners = (
            PartnerStatus(peer=peer, exchanges=Counter(record.outcome for record in records), last=records[0])
            for peer, records in by_partner.items()
        )
        return cls(members=status.members, partners=tuple(partners))
