"""From a seed, what happens: who trains together, and which faults come when. Nothing here runs anything.

A fault is a frozen value with `at`, in virtual seconds since the run began. A new kind needs a class here, a way to
draw it (`DRAWS`), and what it does (`world.py`, `World.HANDLERS`).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from chaos.tickets import member

RULES = ("elastic-gossip", "gossip-pull", "gossip-push", "gosgd", "easgd", "eamsgd", "lsgd")
RULE_CHANCES = (6, 1, 1, 1, 1, 1, 1)
SECONDS = 115.0  # how long each peer trains, undisturbed
QUIET_FROM = 65.0  # every fault has ended by then: what follows shows whether the run recovers
STEADY = 2  # so many peers, at least, are neither killed nor leave
BURST = 20
FLOOD = 150


@dataclass(frozen=True)
class Kill:
    """kill -9: the peer ends without a word. `silent`: its machine lost power, so not even its connections end."""

    peer: str
    at: float
    silent: bool


@dataclass(frozen=True)
class Restart:
    """kill -9, and the same identity begins again: from its checkpoint where it `resumes` and has one, otherwise
    as a newcomer. `clock_error`: of its machine's clock, in seconds."""

    peer: str
    at: float
    after: float
    clock_error: float
    resumes: bool


@dataclass(frozen=True)
class FullDisk:
    """No checkpoint of that peer can be written: what it has stays."""

    peer: str
    at: float
    seconds: float


@dataclass(frozen=True)
class Freeze:
    """SIGSTOP, and SIGCONT `seconds` later."""

    peer: str
    at: float
    seconds: float


@dataclass(frozen=True)
class Leave:
    """The peer says goodbye before its last step."""

    peer: str
    at: float


@dataclass(frozen=True)
class Join:
    """A peer that was not there at the start."""

    peer: str
    at: float
    clock_error: float


@dataclass(frozen=True)
class Burst:
    """So many peers join within two seconds, and leave again after a while."""

    at: float
    peers: int
    steps: int


@dataclass(frozen=True)
class Partition:
    """`side` and the others do not reach each other, nor each other's records.

    `holds`: what is sent across arrives when it heals, as TCP repeats it; otherwise it is lost and the streams with it.
    """

    side: tuple[str, ...]
    at: float
    seconds: float
    holds: bool


@dataclass(frozen=True)
class Trouble:
    """A bad link between two peers, or, where `peers` is empty, everywhere: a `share` of what is sent has this happen
    to it."""

    peers: tuple[str, ...]
    at: float
    seconds: float
    action: Literal["drop", "delay", "cut", "corrupt"]
    share: float


@dataclass(frozen=True)
class Outage:
    """The directory answers nobody."""

    at: float
    seconds: float


@dataclass(frozen=True)
class Flood:
    """So many streams of strangers, each with its own identity, to one peer: inquiries, offers, garbage."""

    peer: str
    at: float
    streams: int


@dataclass(frozen=True)
class Revoke:
    """`founder` lets the peer take part no more. In private runs only."""

    peer: str
    founder: str
    at: float


Fault = Kill | Restart | FullDisk | Freeze | Leave | Join | Burst | Partition | Trouble | Outage | Flood | Revoke


class Setting(NamedTuple):
    """What an undisturbed run needs to know; the seeds of one setting share one such run. `private`: with tickets."""

    rule: str
    peers: int
    variant: int
    private: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.name(f"p{i}") for i in range(self.peers))

    def name(self, label: str) -> str:
        """Of a peer: a ticket needs one that comes from a key."""
        return member(label) if self.private else label

    def step_seconds(self, name: str) -> float:
        """Unequal machines: the slowest takes about twice as long as the fastest."""
        return random.Random(f"{self.variant} {name} speed").uniform(0.5, 1.0)


@dataclass(frozen=True)
class Plan:
    """One seed's run."""

    seed: int
    setting: Setting
    faults: tuple[Fault, ...] = ()

    def __str__(self) -> str:
        kind = f"{self.setting.rule}, variant {self.setting.variant}{', private' if self.setting.private else ''}"
        lines = [f"seed {self.seed}: {self.setting.peers} peers, {kind}"]
        return "\n".join([*lines, *(f"  {fault}" for fault in self.faults)])

    @property
    def undisturbed(self) -> Plan:
        """The same without the faults."""
        return Plan(0, self.setting)


class _Draw:
    """The state while one plan is drawn: who may still be taken away."""

    def __init__(self, rng: random.Random, setting: Setting) -> None:
        self.rng, self.setting, self.names = rng, setting, setting.names
        self.mortal = rng.sample(self.names, len(self.names) - STEADY)
        self.joined = 0

    def when(self, latest: float = QUIET_FROM) -> float:
        return round(self.rng.uniform(2.0, latest), 2)

    def span(self, least: float, most: float) -> tuple[float, float]:
        """(at, seconds), over before the quiet time."""
        seconds = round(self.rng.uniform(least, most), 2)
        return self.when(QUIET_FROM - seconds), seconds

    def clock_error(self) -> float:
        return self.rng.choice([0.0, 0.0, 3600.0, -3600.0, -30.0])


def _kill(draw: _Draw) -> Fault | None:
    return Kill(draw.mortal.pop(), draw.when(), draw.rng.random() < 0.5) if draw.mortal else None


def _restart(draw: _Draw) -> Fault | None:
    if not draw.mortal:
        return None
    at, after = draw.span(0.5, 25.0)
    return Restart(draw.mortal.pop(), at, after, draw.clock_error(), draw.rng.random() < 0.5)


def _full_disk(draw: _Draw) -> Fault:
    return FullDisk(draw.rng.choice(draw.names), *draw.span(5.0, 50.0))


def _leave(draw: _Draw) -> Fault | None:
    return Leave(draw.mortal.pop(), draw.when()) if draw.mortal else None


def _join(draw: _Draw) -> Fault:
    draw.joined += 1
    return Join(draw.setting.name(f"late{draw.joined}"), draw.when(), draw.clock_error())


def _freeze(draw: _Draw) -> Fault:
    return Freeze(draw.rng.choice(draw.names), *draw.span(0.5, draw.rng.choice([3.0, 12.0, 40.0])))


def _burst(draw: _Draw) -> Fault:
    return Burst(draw.when(QUIET_FROM - 25.0), BURST, draw.rng.randint(4, 20))


def _partition(draw: _Draw) -> Fault:
    side = draw.rng.sample(draw.names, draw.rng.randint(1, len(draw.names) - 1))
    return Partition(tuple(sorted(side)), *draw.span(2.0, 40.0), holds=draw.rng.random() < 0.5)


def _trouble(draw: _Draw) -> Fault:
    everywhere = draw.rng.random() < 0.3
    peers = () if everywhere else tuple(sorted(draw.rng.sample(draw.names, 2)))
    at, seconds = draw.span(5.0, 50.0)
    action = draw.rng.choice(["drop", "delay", "cut", "corrupt"])
    share = round(draw.rng.uniform(0.02, 0.12 if everywhere else 0.4), 2)
    return Trouble(peers, at, seconds, action, share)


def _outage(draw: _Draw) -> Fault:
    return Outage(*draw.span(2.0, 30.0))


def _flood(draw: _Draw) -> Fault:
    return Flood(draw.rng.choice(draw.names), draw.when(), FLOOD)


def _revoke(draw: _Draw) -> Fault | None:
    founder, others = draw.names[0], [name for name in draw.mortal if name != draw.names[0]]
    if not others:
        return None
    draw.mortal.remove(others[-1])
    return Revoke(others[-1], founder, draw.when())


DRAWS: tuple[tuple[Callable[[_Draw], Fault | None], float], ...] = (
    (_kill, 3),
    (_restart, 3),
    (_full_disk, 1),
    (_freeze, 3),
    (_leave, 1.5),
    (_join, 2),
    (_burst, 0.5),
    (_partition, 2),
    (_trouble, 6),
    (_outage, 1),
    (_flood, 0.7),
)
"""How each kind of fault is drawn, and how often against the others."""


def plan_of(seed: int, rule: str | None = None, *, private: bool = False) -> Plan:
    """The plan of this seed, by this rule where one is given; in a private run half of them revoke somebody, too."""
    rng = random.Random(f"chaos {seed}")
    drawn = rng.choices(RULES, RULE_CHANCES)[0]
    setting = Setting(rule or drawn, rng.choices(range(3, 9), (3, 4, 4, 3, 2, 2))[0], rng.randrange(2), private)
    draw = _Draw(rng, setting)
    kinds = rng.choices([kind for kind, _ in DRAWS], [chance for _, chance in DRAWS], k=rng.randint(1, 6))
    if private and rng.random() < 0.5:
        kinds.insert(0, _revoke)  # while somebody is left whom it can meet
    faults = [fault for kind in kinds if (fault := kind(draw)) is not None]
    return Plan(seed, setting, tuple(sorted(faults, key=lambda fault: fault.at)))
