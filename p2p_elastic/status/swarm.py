"""A run as a whole, by the members that some of its peers see: how they differ, and which need somebody's attention."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from pydantic import Field

from p2p_elastic.protocol.limits import VIEW_MAX
from p2p_elastic.status.schema import MemberStatus, PeerStatus
from p2p_elastic.values import Frozen, Many

BINS = 12
ATTENTION_MAX = 20
SPREAD_ENOUGH = 4  # values, before one of them is called unusual
UNUSUAL = 3.0  # so many interquartile ranges beyond a quartile,
UNUSUAL_SHARE = 0.1  # and so far from it, as a share of the median
SLOW = 0.25  # of the median speed
COUNTS_LITTLE = 0.5


class Spread(Frozen):
    """How a number differs among members."""

    count: int = Field(description="members that say it")
    lowest: float
    quarter: float = Field(description="a quarter of them are below")
    median: float
    three_quarters: float = Field(description="a quarter of them are above")
    highest: float
    bins: Many[int] = Field(description="members in each of as many equal parts from the lowest to the highest")


class Attention(Frozen):
    """A member that somebody may have to look at."""

    peer: str = Field(description="peer id")
    addresses: Many[str] = Field(description="multiaddrs of its record; some say where its page is")
    reasons: Many[str] = Field(description="what is unusual about it, for people")


class SwarmStatus(Frozen):
    """The run as a whole. In a large run of a sample: the members that the peers that were asked see."""

    run: str = Field(description="name of the run")
    task: str = Field(description="name of the task")
    rule: str = Field(description="name of the way to train together")
    members: int = Field(description="how many there are, about")
    seen: int = Field(description="of which this was made")
    states: dict[str, int] = Field(description="alive, suspect, dead and drained members; the last are alive, too")
    versions: dict[str, int] = Field(description="what members run -> how many of them")
    loss: Spread | None = Field(description="in nats; null: nobody says it")
    step: Spread | None = Field(description="steps made")
    steps_per_second: Spread | None = Field(description="of each member")
    weight: Spread | None = Field(description="what each claims to count for")
    steps_per_second_in_all: float | None = Field(description="of all members, about; null: nobody says it")
    attention: Many[Attention] = Field(description="those with the most reasons first")
    attention_in_all: int = Field(description="how many there are, of those seen")


class _Seen(NamedTuple):
    """A member, and what those that see it make of it."""

    member: MemberStatus
    reasons: list[str]


def swarm_of(asked: Sequence[PeerStatus]) -> SwarmStatus:
    """Put together what one or several peers of a run see.

    Args:
        asked: at least one; members that several see count once, as the peer sees it that heard of it last.

    Returns:
        The run as a whole. Peers of other runs than the first are left out.
    """
    first, asked = asked[0], [status for status in asked if status.run == asked[0].run]
    seen: dict[str, _Seen] = {}
    for status in asked:
        seen[status.peer] = _Seen(_itself(status), [])
    for status in asked:
        for member in status.members:
            known = seen.get(member.peer)
            if known is None or (known.member.age_seconds > member.age_seconds):
                seen[member.peer] = _Seen(member, [] if known is None else known.reasons)
    for status in asked:
        for partner in status.partners:
            if partner.peer in seen and partner.trust < COUNTS_LITTLE:
                said = "; ".join(partner.reasons) or "by its moves"
                seen[partner.peer].reasons.append(f"trusted {partner.trust:.2g} by {status.peer[-6:]}: {said}")
    there = [one.member for one in seen.values() if one.member.state != "dead"]
    told = {name: _told(there, value) for name, value in VALUES.items()}
    spreads = {name: spread_of(values) for name, values in told.items()}
    attention = _attention(seen.values(), spreads, Counter(map(_runs, there)))
    speeds = told["steps_per_second"]
    about = max(status.network.members_about for status in asked)
    members = max(len(there), about) if about > VIEW_MAX else len(there)
    return SwarmStatus(
        run=first.run,
        task=first.task,
        rule=first.rule,
        members=members,
        seen=len(there),
        states=dict(Counter(_state(one.member) for one in seen.values())),
        versions=dict(Counter(map(_runs, there)).most_common()),
        **spreads,
        steps_per_second_in_all=statistics.fmean(speeds) * members if speeds else None,
        attention=tuple(attention[:ATTENTION_MAX]),
        attention_in_all=len(attention),
    )


def spread_of(values: Sequence[float]) -> Spread | None:
    """Summarize numbers.

    Args:
        values: in any order.

    Returns:
        Quartiles by linear interpolation, and counts of equal parts; None without values.

    Example:
        >>> spread = spread_of([1.0, 2.0, 3.0, 4.0, 5.0])
        >>> spread.quarter, spread.median, spread.three_quarters, sum(spread.bins)
        (2.0, 3.0, 4.0, 5)
    """
    if not values:
        return None
    ranked = sorted(values)
    low, high = ranked[0], ranked[-1]
    quartiles = statistics.quantiles(ranked, method="inclusive") if len(ranked) > 1 else ranked * 3
    width = (high - low) / BINS
    parts = Counter(min(BINS - 1, int((value - low) / width)) if width > 0.0 else 0 for value in ranked)
    return Spread(
        count=len(ranked),
        lowest=low,
        quarter=quartiles[0],
        median=quartiles[1],
        three_quarters=quartiles[2],
        highest=high,
        bins=tuple(parts[number] for number in range(BINS)),
    )


Value = Callable[[MemberStatus], float | None]
VALUES: dict[str, Value] = {
    "loss": lambda member: member.loss,
    "step": lambda member: member.step,
    "steps_per_second": lambda member: member.steps_per_second,
    "weight": lambda member: member.weight,
}


def _told(members: Iterable[MemberStatus], value: Value) -> list[float]:
    found = (value(member) for member in members)
    return [float(number) for number in found if number is not None and math.isfinite(number)]


def _itself(status: PeerStatus) -> MemberStatus:
    """A peer as a member of its run, as it sees itself."""
    return MemberStatus(
        peer=status.peer,
        addresses=status.network.addresses,
        version=status.version,
        protocol=status.protocol,
        state="alive",
        step=status.training.step,
        loss=status.training.loss,
        weight=status.weight,
        drained=status.drained,
        steps_per_second=status.training.steps_per_second,
        age_seconds=0.0,
    )


def _state(member: MemberStatus) -> str:
    return "drained" if member.drained and member.state == "alive" else member.state


def _runs(member: MemberStatus) -> str:
    return "unknown" if member.version is None else f"{member.version} (protocol {member.protocol})"


def _attention(seen: Iterable[_Seen], spreads: dict[str, Spread | None], versions: Counter[str]) -> list[Attention]:
    usual = versions.most_common(1)[0][0]
    found = []
    for member, said in seen:
        reasons = [*_unusual(member, spreads), *said]
        if (state := _state(member)) != "alive":
            reasons.insert(0, state)
        if _runs(member) != usual and member.state != "dead":
            reasons.append(f"runs {_runs(member)}")
        if reasons:
            found.append(Attention(peer=member.peer, addresses=member.addresses, reasons=tuple(reasons)))
    return sorted(found, key=lambda one: (-len(one.reasons), one.peer))


def _unusual(member: MemberStatus, spreads: dict[str, Spread | None]) -> Iterable[str]:
    loss, speed, step = spreads["loss"], spreads["steps_per_second"], spreads["step"]
    if member.state == "dead":
        return
    if member.loss is not None and loss is not None and loss.count >= SPREAD_ENOUGH:
        beyond = max(UNUSUAL * (loss.three_quarters - loss.quarter), UNUSUAL_SHARE * abs(loss.median))
        if not member.loss <= loss.three_quarters + beyond:
            yield f"loss {member.loss:.4g}, half of the others below {loss.median:.4g}"
    if member.weight < COUNTS_LITTLE:
        yield f"weight {member.weight:.2g}"
    own = member.steps_per_second
    if speed is not None and own is not None and speed.count >= SPREAD_ENOUGH and own < SLOW * speed.median:
        yield f"{own:.2g} steps/s, half of the others above {speed.median:.2g}"
    if step is not None and step.count >= SPREAD_ENOUGH and member.step < SLOW * step.quarter:
        yield f"at step {member.step:,}, three quarters of the others beyond {step.quarter:,.0f}"
