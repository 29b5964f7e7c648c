"""Under which keys the members of a run announce themselves, and which of them a peer reads.

A run of up to SHARD_MEMBERS members has one key, which everybody reads. A larger one has 2^k, its shards, by the first
k bits of a hash of the peer id: k grows with the run, so a shard has 32 to 64 members on average, however many there
are. A peer reads its own shard and another one, which it draws anew now and then, in turns: half of its view is from
either. So nobody reads more than a view, no key has many readers, and all views together are a random graph.

Nobody counts the members. Whoever reads a shard knows about how many there are, each record says what its peer
believes, and a peer believes the geometric mean of its own count and the median of what it is told. Near the number at
which k changes members announce themselves with either k, so all find each other while they disagree.
Those that believe in fewer than one of the best says look whether there are as many.

In a large run the first key has those that others look for first: anchors, which newcomers find and which are drawn by
their hash, those with a copy of the centre variable, and those with the lowest losses. In a run of thousands there are
several such keys, each for a share of the readers. Each group of Leader SGD has one more, for its own lowest losses.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
import statistics
from collections import deque
from collections.abc import Collection, Iterable, Mapping

from p2p_elastic.peers.discovery.dht_keys import (
    Looking,
    Shown,
    best_key,
    group_key,
    level_of,
    members_key,
    place_of,
    shard_of,
)
from p2p_elastic.peers.discovery.view import ANCHORS_MAX, HALF_VIEW, LOWEST_MAX, claims_centre, loss_of
from p2p_elastic.protocol.limits import MEMBERS_MAX, VIEW_MAX

BOTH = 1.25  # times the number at which k changes, or part of it: there members announce themselves with either k
LED, LED_AT_FIRST = 1.5, 16.0  # so far a peer believes a count against what it is told: it is one node's word
STAY = 1.12  # so far beyond that number a peer reads as before: who moves sees its whole view anew
ANCHORS = 32  # on average
BEST_READERS, BEST_KEYS_MAX = 1024, 16  # of each key of the best, and how many there are
BEST_SHOWN = LOWEST_MAX  # at a look
LOOKS_TO_MOVE = 3  # at one k, before another one is believed
CONTACTS_ENOUGH = 8  # wanted peers in a view: if they are fewer, others that are wanted are read where they are,
STRAYS_READ = 2  # so many at a look
LINGER = 12  # announcements under a key that is chosen no more: until nobody reads it, or a stale record looks dead
OTHER_LOOKS = 80  # before another shard is drawn: four minutes
ABOUT = re.compile(rb'"about":([0-9]{1,7})[,}]')


class MemberShards:
    """Where a peer announces itself, and what it reads of the others.

    Args:
        entries: the DHT.
        own: this peer's id.

    Attributes:
        wanted: peer ids of members that looks are to show, the most important first; in a large run some of them.
    """

    def __init__(self, entries: Looking, own: str) -> None:
        self._entries, self._own, self._rng = entries, own, random.Random(own)
        self.wanted: Collection[str] = ()
        self._looked: Mapping[str, bytes] | None = None  # this peer's entry in the last look; None: there was none yet
        self._held: dict[str, Shown] = {}  # key -> what it showed the last time
        self._announced: dict[str, int] = {}  # key -> for how many more announcements
        self._group = ""
        self._begin(1.0)

    def _begin(self, size: float) -> None:
        """Believe a number of members, and forget what was counted before."""
        self._size = size
        self._level = level = level_of(size)
        self._mine, self._other = shard_of(self._own, level), 0
        self._looks, self._counts = 0, deque[int](maxlen=5)
        self._read: dict[str, int] = {}  # key -> the look that read it last

    @property
    def count(self) -> int:
        """How many members there are about, with this peer."""
        more = max((shown.in_all for shown in self._held.values()), default=1)
        return max(round(self._size), min(more, 2 * VIEW_MAX), 1)  # at once more than a view, if a node says so

    def reads(self, peer: str) -> bool:
        """Whether a member would be shown by what is read now, if there is room.

        Args:
            peer: its id.

        Returns:
            False if it is in another shard.
        """
        return not self._level or shard_of(peer, self._level) in (self._mine, self._other)

    async def choose(self, run: str) -> None:
        """Find out how large a run is, before the first announcement in it.

        Args:
            run: the run's name.

        Raises:
            DirectoryError: if the DHT does not answer.
        """
        first = await self._entries.look(members_key(run))
        told = _told_by_anchors(first.bodies)
        self._announced = {}
        self._begin(told if level_of(told) else max(1, first.in_all))

    @property
    def announced(self) -> Collection[str]:
        """The keys under which this peer's record may still be."""
        return self._announced.keys()

    def keys(self, run: str, body: bytes, group: str = "") -> tuple[str, ...]:
        """Name the keys under which this peer announces itself now; to be called for each announcement.

        Args:
            run: the run's name.
            body: its record, as JSON.
            group: whose best it reads from now on; empty: of none.

        Returns:
            Those that others read, and those that they read before.
        """
        self._group = group
        chosen = self._chosen(run, body)
        lingering = {key: left - 1 for key, left in self._announced.items() if left > 1}
        self._announced = {**lingering, **dict.fromkeys(chosen, LINGER)}
        return tuple(self._announced)

    def _chosen(self, run: str, body: bytes) -> list[str]:
        levels = {level_of(self._size / BOTH), level_of(self._size * BOTH)}
        keys = [members_key(run, level, shard_of(self._own, level)) for level in sorted(levels)]
        if 0 in levels:
            return keys
        best, *group = self._bests(run)
        if place_of(self._own) * self._size < ANCHORS or self._is_looked_for(best, body):
            keys += [best_key(run, number) for number in range(_best_keys(self._size * BOTH))]
        return keys + [key for key in group if self._is_looked_for(key, body)]

    def _is_looked_for(self, key: str, body: bytes) -> bool:
        """Whether a record is one of the best, as far as those under a key are known here."""
        shown, own = self._held.get(key), loss_of(body)
        bodies = () if shown is None else (other for peer, other in shown.bodies.items() if peer != self._own)
        losses = [loss for other in bodies if (loss := loss_of(other)) is not None]
        return claims_centre(body) or (own is not None and (len(losses) < BEST_SHOWN - 1 or own < max(losses)))

    def _best(self, run: str) -> str:
        return best_key(run, int(place_of(self._own) * _best_keys(self._size)))

    def _bests(self, run: str) -> list[str]:
        """The keys of those that this peer looks for first: in all of the run, and in its group."""
        return [self._best(run), *([group_key(run, self._group)] if self._group else [])]

    async def own(self, run: str) -> Mapping[str, bytes]:
        """Read the entry under this peer's id; if `look` was called since the last time, as it was then.

        Args:
            run: the run's name.

        Returns:
            This peer's id -> body; empty if there is none.

        Raises:
            DirectoryError: if the DHT does not answer.
        """
        looked, self._looked = self._looked, None
        key = members_key(run, self._level, self._mine)
        return self._own_entry(await self._entries.get(key)) if looked is None else looked

    async def look(self, run: str, near: Collection[str] = ()) -> list[Shown]:
        """Read the entries of the members; of a large run a sample, half of it anew.

        Args:
            run: the run's name.
            near: peer ids of members that are to be among them, if there is room beside those that are wanted.

        Returns:
            Those of each key, as it was last read.

        Raises:
            DirectoryError: if the DHT does not answer.
        """
        level, turn = self._level, self._looks
        self._looks += 1
        if level and turn % OTHER_LOOKS == 0:
            drawn = self._rng.randrange(2**level - 1)
            self._other = drawn + (drawn >= self._mine)
        mine, other = members_key(run, level, self._mine), members_key(run, level, self._other)
        key, shard = (other, self._other) if level and turn % 2 else (mine, self._mine)
        here = [peer for peer in dict.fromkeys((*self.wanted, *near)) if shard_of(peer, level) == shard]
        asked = {key: self._entries.look(key, here, HALF_VIEW if level else VIEW_MAX)}
        if level and key == mine:
            asked |= {best: self._entries.look(best, (), BEST_SHOWN) for best in self._bests(run)}
        finer = self._finer(run) if key == other else level
        deep = shard_of(self._own, finer)
        probe = members_key(run, finer, deep)
        if finer > level:
            asked[probe] = self._entries.look(probe)
        strays = self._strays(run, (mine, other)) if level else {}
        for one in sorted(strays, key=lambda one: self._read.get(one, -1))[:STRAYS_READ]:
            asked[one] = self._entries.look(one, strays[one], len(strays[one]))
        places = {one: (level, shard_of(names[0], level)) for one, names in strays.items()}
        places |= {mine: (level, self._mine), other: (level, self._other), probe: (finer, deep)}
        answers = dict(zip(asked, await asyncio.gather(*asked.values()), strict=True))
        shown = {one: _in_its_shard(found, *places.get(one, (0, 0))) for one, found in answers.items()}
        kept = {mine, other, *self._bests(run), *strays}
        self._read = {one: at for one, at in {**self._read, **dict.fromkeys(shown, turn)}.items() if one in kept}
        self._held = {one: found for one, found in {**self._held, **shown}.items() if one in kept}
        view = list(self._held.values())
        self._looked = next(filter(None, (self._own_entry(one.bodies) for one in view)), {})
        self._learn(shown[key])
        there = len(shown[probe].bodies.keys() - {self._own}) if finer > level else 0
        if there >= CONTACTS_ENOUGH and there << finer > self._size * BOTH:
            self._begin(float(min(there << finer, MEMBERS_MAX)))
        return view

    def _finer(self, run: str) -> int:
        """The k of the largest number of members that one of the best believes in: elsewhere there may be more."""
        shown = self._held.get(self._best(run))
        return 0 if shown is None else level_of(max(map(_said, shown.bodies.values()), default=0))

    def _strays(self, run: str, places: Collection[str]) -> dict[str, list[str]]:
        """The wanted peers that are to be read where they are, by the key of their shard.

        A flood of records may fill a view: then those that this peer has to do with are not lost in it.
        """
        seen = {peer for key in places if key in self._held for peer in self._held[key].bodies}
        met, strays = sum(peer in seen for peer in self.wanted), dict[str, list[str]]()
        for peer in self.wanted:
            key = members_key(run, self._level, shard_of(peer, self._level))
            if peer not in seen and key not in places and met < CONTACTS_ENOUGH:
                strays.setdefault(key, []).append(peer)
                met += 1
        return strays

    def _learn(self, shown: Shown) -> None:
        """Take in how many members a shard has, and how many there are as its members say."""
        others = [body for peer, body in shown.bodies.items() if peer != self._own]
        self._counts.append(max(1, shown.in_all) << self._level)
        own = float(statistics.median(self._counts))
        told, most = (_told(others), LED) if self._level else (_told_by_anchors(shown.bodies), LED_AT_FIRST)
        agree = level_of(told) == self._level or 1.0 / BOTH < told / self._size < BOTH
        own = min(max(own, told / most), told * most)
        if not self._level and agree:  # all of them are here; of many one node may say anything
            self._size = own if shown.in_all > VIEW_MAX else float(max(1, shown.in_all))
        elif agree and others:
            self._size = math.sqrt(own * told)
        elif len(self._counts) >= LOOKS_TO_MOVE:
            self._size = told if others else 1.0  # nobody is here: the first key shows whether anybody is elsewhere
        self._size = min(self._size, float(MEMBERS_MAX))
        near = {level_of(self._size / STAY), level_of(self._size * STAY)}
        if self._level not in near and len(self._counts) >= LOOKS_TO_MOVE:
            self._begin(self._size)

    def _own_entry(self, entries: Mapping[str, bytes]) -> Mapping[str, bytes]:
        return {self._own: entries[self._own]} if self._own in entries else {}


def _told(bodies: Iterable[bytes]) -> float:
    """The median of what records say of the number of members; those that see all do not say it."""
    return float(statistics.median([*map(_said, bodies)] or [VIEW_MAX]))


def _told_by_anchors(bodies: Mapping[str, bytes]) -> float:
    """The same of the first key, where anybody may be who says that it is the best: its anchors are many, or there is
    no large run."""
    anchors = [bodies[peer] for peer in sorted(bodies, key=place_of)[:ANCHORS_MAX]]
    return _told([*anchors, *[b""] * (ANCHORS_MAX - len(anchors))])


def _said(body: bytes) -> int:
    found = ABOUT.search(body)
    return VIEW_MAX if found is None else min(int(found[1]), MEMBERS_MAX)


def _best_keys(size: float) -> int:
    return min(max(1, int(size // BEST_READERS)), BEST_KEYS_MAX)


def _in_its_shard(shown: Shown, level: int, shard: int) -> Shown:
    """Leave out who is under the key of another shard than its own: members cannot choose where they are seen."""
    if not level:
        return shown
    return shown._replace(bodies={p: body for p, body in shown.bodies.items() if shard_of(p, level) == shard})
