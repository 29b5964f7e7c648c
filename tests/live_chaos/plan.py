"""What is done to whom and when: drawn from a seed before anything starts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

PROCESS_KINDS = ("kill", "kill-daemon", "stop", "stop-daemon", "leave", "burst", "full-disk")
PROXY_KINDS = ("cut", "delay", "hole", "corrupt", "part")
NAMESPACE_KINDS = ("unplug", "part")
RETURN_SECONDS = 10.0  # a peer loads PyTorch before it is there again


class Fault(NamedTuple):
    """One thing to do. `seconds` is how long it lasts, or until the peer is started again."""

    at: float
    kind: str
    victim: int  # 0 .. peers - 1
    other: int  # the other end of a link; elsewhere it means nothing
    seconds: float

    def __str__(self) -> str:
        link = f" - {self.other + 1}" if self.kind in ("cut", "delay", "hole", "corrupt") else ""
        return f"{self.at:6.1f} s  {self.kind:12} peer {self.victim + 1}{link} for {self.seconds:.1f} s"


def draw(seed: int, seconds: float, peers: int, process_kinds: Sequence[str], link_kinds: Sequence[str]) -> list[Fault]:
    """Faults for so many seconds: one series for processes and one for links, each kind as often as any other.

    Each fault of a series ends before the next one begins, and at most one process in two is away at a time.
    """
    rng = random.Random(seed)
    found = [*_series(rng, seconds, peers, process_kinds, 0.5), *_series(rng, seconds, peers, link_kinds, 1.5)]
    return sorted(found)


def _series(rng: random.Random, seconds: float, peers: int, kinds: Sequence[str], begin: float) -> list[Fault]:
    faults: list[Fault] = []
    back = [0.0] * peers
    deck: list[str] = []
    now = begin
    while kinds and now < seconds:
        deck = deck or rng.sample(list(kinds), len(kinds))
        kind = deck.pop()
        # A peer that was started again is spared until it is there.
        there = [i for i in range(peers) if back[i] <= now]
        if len(there) <= peers // 2 or len(there) < 2:
            now += 1.0
            deck.append(kind)
            continue
        victim, other = rng.sample(there, 2)
        lasts = round(rng.uniform(1.0, 4.0), 1)
        faults.append(Fault(round(now, 1), kind, victim, other, lasts))
        back[victim] = now + lasts + (RETURN_SECONDS if kind in ("kill", "leave") else 0.0)
        now += lasts + rng.uniform(0.5, 1.5)
    return faults
