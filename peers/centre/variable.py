"""The centre variable of EASGD: its value at the peer that is the centre, and a copy of it elsewhere.

Every member keeps the centre as it last saw it, with a stamp that says how fresh that is. `succession.py` says which
member is the centre. If two claim the place, one steps down: it hands over its value, which the one that stands takes
in, each weighted by the exchanges behind it since the two were one.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import torch

from p2p_elastic.common.bounded import forget_oldest
from p2p_elastic.health.trust import PARTNERS_MAX, Judge, Verdict, history_of, trusting
from p2p_elastic.parameters.vector import Part, place_of
from p2p_elastic.peers.centre.momentum import CentreMomentum
from p2p_elastic.peers.centre.succession import Candidate, candidates, rightful, succession
from p2p_elastic.peers.exchange.rule_states import share_of
from p2p_elastic.peers.exchange.snapshots import Snapshot
from p2p_elastic.peers.membership.liveness import Members
from p2p_elastic.protocol.blocks import Seams
from p2p_elastic.protocol.chunks import Vectors
from p2p_elastic.protocol.codecs import seams_within
from p2p_elastic.protocol.messages import CLOCK_MAX, DeclineReason, Stamp
from p2p_elastic.protocol.messages import Given as PartGiven
from p2p_elastic.protocol.records import CentreClaim
from p2p_elastic.rules.base import ExchangeRule, Facts
from p2p_elastic.rules.merging import inherited_share
from p2p_elastic.status.schema import CentreStatus

log = logging.getLogger(__name__)
VACANT_ANNOUNCEMENTS = 0.5  # intervals between announcements that a place is vacant before the heir takes it
TURN_ANNOUNCEMENTS = 2.0  # and that each one in line has for it before it is the next one's turn


class Given(NamedTuple):
    """A centre variable that is given up, for the one that stands.

    Attributes:
        value: its parameters [D].
        stamp: how fresh it is.
        tries: how often handing it over was tried.
    """

    value: torch.Tensor
    stamp: Stamp
    tries: int = 0


def only_centre(given: PartGiven) -> DeclineReason | None:
    """Say why what a donor gives is not the centre variable.

    Args:
        given: the header of a part.

    Returns:
        `NOT_CENTRE`; None if it is the centre variable.
    """
    return DeclineReason.NOT_CENTRE if given.centre is None else None


class _Shares:
    """The rule, and what it remembers: of each partner, or of all together, as the rule asks; the outer optimizer."""

    def __init__(self, rule: ExchangeRule, momentum: CentreMomentum) -> None:
        self._rule, self.momentum = rule, momentum
        self.states: dict[str, Any] = {}

    def of(self, history: str, value: torch.Tensor, distance: float, *, mine: Facts, theirs: Facts) -> float:
        """How far the centre moves to the partner of that history, as a share of the L2 distance."""
        key = history if self._rule.per_partner else ""
        return share_of(self._rule, self.states, key, value, distance, mine=mine, theirs=theirs)


class _Vacancy:
    """How long nobody has been the centre, in announcements."""

    def __init__(self, announce_seconds: float) -> None:
        self.announce_seconds = announce_seconds
        self._since: float | None = None

    def begins(self, now: float) -> None:
        """Nobody is the centre, at `now` in seconds; a second call changes nothing."""
        self._since = now if self._since is None else self._since

    def lasts(self, announcements: float, now: float) -> bool:
        """Whether it has lasted for that many announcements, at `now` in seconds."""
        return self._since is not None and now - self._since >= announcements * self.announce_seconds

    def ends(self) -> None:
        """A peer is the centre."""
        self._since = None


class Centre:
    """The value [D] and its stamp. Belongs to the network thread.

    `value` is replaced whole and never changed in place: any thread may read the one that it holds.

    Args:
        value: the first one [D]: the model's parameters, the same at every peer of the run.
        rule: of the run, for the centre's end of each exchange.
        seated: whether this peer is the centre: at first the founder.
        announce_seconds: how often members announce themselves.
        momentum: the centre's outer optimizer; None: it has none.
    """

    def __init__(
        self,
        value: torch.Tensor,
        rule: ExchangeRule,
        *,
        seated: bool,
        announce_seconds: float,
        momentum: CentreMomentum | None = None,
    ) -> None:
        self.value = value
        self.stamp = Stamp(term=1 if seated else 0)
        self.seated = seated
        self.holder: str | None = None  # the peer that is the centre, as far as is known; None: none is
        self._vacancy = _Vacancy(announce_seconds)
        self._shares = _Shares(rule, momentum or CentreMomentum())
        self.judge = Judge()  # of the peers that meet the centre here
        self.given: Given | None = None  # this peer's, until it is handed over
        self.since = self.stamp.clock  # the clock when this peer became the centre,
        self.behind = 0  # and the exchanges behind the value since then
        self._inherited: dict[tuple[str, int], None] = {}  # peers and terms that were handed over
        self._vectors: Vectors | None = None
        self._shown: Snapshot | None = None
        self.part: Part | None = None  # that is exchanged now; None: all of it
        self._lock = asyncio.Lock()

    # -- exchanges ----------------------------------------------------------------------------------------------------

    @property
    def vectors(self) -> Vectors:
        """What goes out, as it was when it was reserved, and where the partner's comes in; both [D]."""
        if self._vectors is None:  # two vectors more, at the centre only
            self._vectors = Vectors(torch.empty_like(self.value), torch.empty_like(self.value))
        return self._vectors

    @property
    def reserved(self) -> bool:
        """Whether an exchange has the centre, from `reserve` to `free`."""
        return self._lock.locked()

    @property
    def histories(self) -> Collection[str]:
        """The histories of partners that the rule remembers, the latest last; PARTNERS_MAX at most."""
        return self._shares.states.keys()

    async def reserve(self, part: Part | None = None) -> None:
        """Wait for the turn of an exchange, and freeze what goes out, until `free`.

        Args:
            part: of the value; None for all of it.
        """
        await self._lock.acquire()
        self.vectors.mine.copy_(self.value)
        self.part = part
        if part is not None:
            self.vectors.theirs.copy_(self.value)  # what does not travel is the same at both

    def travelling(self, codec: str, seams: Seams = ()) -> Vectors:
        """Give views of what goes out and comes in, of the part that is reserved.

        Args:
            codec: encodes both.
            seams: of the tensors in the value.

        Returns:
            The two views, each as long as the part.
        """
        mine, theirs = self.vectors.mine[self.place], self.vectors.theirs[self.place]
        return Vectors(mine, theirs, codec, seams=seams_within(seams, *(self.part or (0, len(self.value)))))

    @property
    def place(self) -> slice:
        """Where in the vectors the reserved part is."""
        return place_of(self.part)

    def free(self) -> None:
        """Let the next one in."""
        self._lock.release()

    def move(
        self,
        partner: str,
        mine: Facts,
        theirs: Facts,
        judged: Callable[[float], Verdict | None] = lambda _distance: None,
    ) -> float:
        """Move towards the vector received, which is overwritten.

        Nothing moves if another peer became the centre meanwhile, or if the distance is not finite.

        Args:
            partner: whose vector it is.
            mine, theirs: what the centre and the partner say of themselves.
            judged: L2 distance -> how the partner is judged; None: it is trusted.

        Returns:
            The L2 distance before the move.
        """
        vectors, place = self.vectors, self.place
        delta = vectors.theirs[place].sub_(vectors.mine[place])
        distance = float(torch.linalg.vector_norm(delta))
        if self.seated and math.isfinite(distance):
            theirs = trusting(theirs, judged(distance))
            share = self._shares.of(history_of(partner, self.part), self.value, distance, mine=mine, theirs=theirs)
            value = self.value.clone()
            value[place].add_(delta, alpha=share)
            self._shares.momentum.step_(value, self.value, place)
            self.value = value
            self.stamp = self.stamp.counted()
            self.behind += 1
        return distance

    def inherits(self, peer: str, stamp: Stamp) -> bool:
        """Whether a centre variable that is given up for the one here is taken in: once each.

        Args:
            peer, stamp: which peer gave it up, and how fresh it was then.

        Returns:
            False also if the centre is not here, or if the term of `stamp` is higher.
        """
        return self.seated and stamp.term <= self.stamp.term and (peer, stamp.term) not in self._inherited

    def inheritance(self, stamp: Stamp) -> float:
        """Say how far the centre variable would move to one that is given up for it.

        Args:
            stamp: of the centre variable that is given up.

        Returns:
            A share of the distance, 0 to 1.
        """
        return inherited_share(self.behind, stamp.clock - self.since)

    def take_in(self, peer: str, stamp: Stamp, share: float) -> float:
        """Take in the centre variable received, which is overwritten.

        Args:
            peer, stamp: which peer gave it up, and how fresh it was then.
            share: of the distance, 0 to 1, that the value moves; at 0 only that it came is remembered.

        Returns:
            The L2 distance before the move.
        """
        vectors = self.vectors
        delta = vectors.theirs.sub_(vectors.mine)
        distance = float(torch.linalg.vector_norm(delta))
        self._inherited[peer, stamp.term] = None
        forget_oldest(self._inherited, PARTNERS_MAX)
        if self.seated and share > 0.0 and math.isfinite(distance):
            self.value = self.value + delta.mul_(share)
            self.stamp = self.stamp.counted()
            self.behind = min(self.behind + max(0, stamp.clock - self.since), CLOCK_MAX)
            log.warning("took in the centre of %s (term %d): %.2g of the way to it", peer, stamp.term, share)
        return distance

    def saw(self, value: torch.Tensor, stamp: Stamp, part: Part | None = None) -> None:
        """Keep what the centre just sent, unless this peer knows a fresher one or is the centre.

        Args:
            value: the centre variable [D], or the part of it.
            stamp: how fresh it is.
            part: where it belongs; None for all of it.
        """
        if not self.seated and stamp.age >= self.stamp.age:
            known = value.clone() if part is None else self.value.clone()
            if part is not None:
                known[slice(*part)] = value
            self.value, self.stamp = known, stamp

    def shown(self, peer: str) -> Snapshot | None:
        """Show the value to a peer that only wants to see it.

        Args:
            peer: this peer's id.

        Returns:
            The same snapshot until the value changes; None if this peer is not the centre.
        """
        if not self.seated:
            return None
        if self._shown is None or self._shown.vector is not self.value:
            self._shown = Snapshot(peer, self.stamp.clock, None, self.value)
        return self._shown

    # -- the succession -----------------------------------------------------------------------------------------------

    def status(self) -> CentreStatus:
        """Say which peer holds the centre variable, and how fresh the value here is.

        Returns:
            What users see of it.
        """
        return CentreStatus(holder=self.holder, here=self.seated, term=self.stamp.term, exchanges=self.stamp.clock)

    def claim(self) -> CentreClaim:
        """Say how fresh the value here is, and whether this peer is the centre.

        Returns:
            The claim, for this peer's record.
        """
        return CentreClaim(stamp=self.stamp, seated=self.seated)

    def look(self, peer: str, members: Members, now: float, *, leaving: bool = False, drained: bool = False) -> bool:
        """Judge which peer is the centre, and take the place or give it up if that follows.

        Args:
            peer, members: this peer's id, and the others.
            now: in monotonic seconds.
            leaving, drained: then it takes no place; drained, it gives the place up once another member has a copy.

        Returns:
            Whether this peer took the place or gave it up: that should be announced.
        """
        others = list(candidates(members, now, self._vacancy.announce_seconds))
        heirs = any(c.stamp.term > 0 and not c.seated for c in others)  # those that have a copy
        if drained and self.seated and heirs and not self._lock.locked():  # the exchange under way ends first
            log.warning("drained: the others choose another centre")
            self.seated, self.holder = False, None
            return True
        own = Candidate(peer, self.stamp, self.seated)
        top = rightful([own, *others])
        self.holder = None if top is None else top.peer
        if top is not None:
            self._vacancy.ends()
            return self._step_down(top) if self.seated and top.peer != peer else False
        self._vacancy.begins(now)
        turn = VACANT_ANNOUNCEMENTS + TURN_ANNOUNCEMENTS * succession([own, *others]).index(own)
        if leaving or drained or not others or not self._vacancy.lasts(turn, now):
            return False
        self._take_over(peer, others)
        return True

    def inherit(self, peer: str, members: Members, now: float) -> None:
        """Take the place of a centre that leaves, and whose value is here already.

        Args:
            peer, members: this peer's id, and the others: the new term is above all of theirs.
            now: in monotonic seconds.
        """
        self._take_over(peer, list(candidates(members, now, self._vacancy.announce_seconds)))

    def give_up(self, heir: str) -> None:
        """Leave the place to a peer that has the value.

        Args:
            heir: its id.
        """
        self.seated, self.holder = False, heir

    def _step_down(self, top: Candidate) -> bool:
        log.warning(
            "the centre is %s (term %d) now; the one here, term %d, ends", top.peer, top.stamp.term, self.stamp.term
        )
        self.seated = False
        self.given = Given(self.value, self.stamp) if self.behind else None
        self.stamp = Stamp(term=0)  # whatever it sends next is the run's
        return True

    def _take_over(self, peer: str, others: list[Candidate]) -> None:
        highest = max([self.stamp.term, *(c.stamp.term for c in others)])
        self.stamp = Stamp(term=highest, clock=self.stamp.clock).next_term()
        log.warning("this peer is the centre from now on (term %d)", self.stamp.term)
        self.seated, self.holder = True, peer
        self._vacancy.ends()
        self._shares.momentum.begin()
        self.given, self.since, self.behind = None, self.stamp.clock, 0
