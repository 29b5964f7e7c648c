"""What a peer keeps over a restart, and what it makes of having been away.

Its place in the exchanges: step, random states, what the rule remembers of partners, the first loss, the centre as it
was known. How partners are chosen is not kept: exchange ids come from the same random numbers, and must not come again.
No exchange that is under way is kept: a checkpoint is taken between two steps, after a waiting move was
added, so there is none to be added later.
"""

from __future__ import annotations

import math
import random
import statistics
from typing import Annotated, Any

from pydantic import Field, JsonValue
from torch import Tensor

from p2p_elastic.health.trust import PARTNERS_MAX, Judge, JudgeMemory
from p2p_elastic.peers.local import Local
from p2p_elastic.peers.partners import Members
from p2p_elastic.peers.rule_states import RuleStates
from p2p_elastic.protocol.messages import CLOCK_MAX, Stamp
from p2p_elastic.rules.base import ExchangeRule
from p2p_elastic.values import Frozen

AWAY_PERIODS, AWAY_STEPS_MIN = 4.0, 50
"""So far ahead the others must be, in communication periods and in steps: what staleness alone may explain is less."""
RETURN_SECONDS = 60.0  # after the restart; who trained alone for longer has something of its own to bring

Finite = Annotated[float, Field(allow_inf_nan=False)]
Partner = Annotated[str, Field(max_length=128)]
History = Annotated[tuple[Finite, ...], Field(max_length=100)]


class RandomMemory(Frozen):
    """The state of Python's `random.Random`."""

    version: int
    numbers: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(max_length=625)]
    gauss: Finite | None

    @classmethod
    def of(cls, rng: random.Random) -> RandomMemory:
        version, numbers, gauss = rng.getstate()
        return cls(version=version, numbers=numbers, gauss=gauss)

    def recall(self, rng: random.Random) -> None:
        rng.setstate((self.version, self.numbers, self.gauss))


class CentreMemory(Frozen):
    """The centre variable as this peer knew it; the value itself is a tensor."""

    stamp: Stamp
    seated: bool
    since: Annotated[int, Field(ge=0, le=CLOCK_MAX)] | None = Field(
        default=None, description="the clock when it became the centre; null: not known"
    )
    behind: Annotated[int, Field(ge=0, le=CLOCK_MAX)] = Field(
        default=0, description="exchanges behind the value since then"
    )


class PeerMemory(Frozen):
    """All of it but the centre's value. Rule states are numbers in lists; one that is not finite is left out."""

    step: Annotated[int, Field(ge=0, lt=2**53)]
    first_loss: Finite | None = Field(description="of the untrained model, nats")
    newcomer: bool = Field(description="had not copied anybody yet")
    sequence: Annotated[int, Field(ge=0, lt=2**53)] = Field(description="of its last record")
    coin: RandomMemory = Field(description="of the schedule")
    rule: JsonValue = None
    partners: Annotated[dict[Partner, JsonValue], Field(max_length=PARTNERS_MAX)]
    of_all: JsonValue = None
    distances: Annotated[dict[Partner, History], Field(max_length=PARTNERS_MAX)]
    usual: Finite = 0.0
    initial: Finite | None = None
    centre: CentreMemory | None = None


def remembered(local: Local, sequence: int, coin: random.Random) -> PeerMemory:
    """What is to be kept. For the training thread."""
    states, judge, centre = local.rules.states, local.judge.memory(), local.centre
    return PeerMemory(
        step=local.progress.step,
        first_loss=local.progress.first_loss,
        newcomer=local.newcomer,
        sequence=sequence,
        coin=RandomMemory.of(coin),
        rule=_plain(states.own),
        partners={peer: plain for peer, state in states.partners.items() if (plain := _plain(state)) is not None},
        of_all=_plain(states.of_all),
        distances={peer: d for peer, d in judge.distances.items() if all(map(math.isfinite, d))},
        usual=judge.usual if math.isfinite(judge.usual) else 0.0,
        initial=judge.initial,
        centre=None
        if centre is None
        else CentreMemory(stamp=centre.stamp, seated=centre.seated, since=centre.since, behind=centre.behind),
    )


def recall(
    memory: PeerMemory,
    local: Local,
    *,
    coin: random.Random,
    loss: float | None,
    centre: Tensor | None,
) -> None:
    """Go on from there, before `run`. `loss`: the last one, in nats; `centre`: the value [D] of the centre variable."""
    memory.coin.recall(coin)
    local.progress = local.progress._replace(step=memory.step, loss=loss, first_loss=memory.first_loss)
    local.newcomer, local.returning = memory.newcomer, True
    policy, before = local.policy, local.rules.states
    recalled = RuleStates(
        _fitting(before.own, memory.rule),
        {peer: _fitting(_fresh(policy.rule, local), state) for peer, state in memory.partners.items()},
        _fitting(before.of_all, memory.of_all),
    )
    local.rules.recall(recalled)
    local.judge = Judge()
    local.judge.recall(JudgeMemory(memory.distances, memory.usual, memory.initial))
    if local.centre is not None and memory.centre is not None and centre is not None:
        known = memory.centre
        local.centre.value = centre.clone()
        local.centre.stamp, local.centre.seated = known.stamp, known.seated
        local.centre.since = known.stamp.clock if known.since is None else known.since
        local.centre.behind = known.behind


def was_away_long(step: int, members: Members, period: float) -> bool:
    """Whether the others are so far ahead of `step` that we have nothing to tell them. `period` in steps."""
    steps = [member.record.step for member in members.values() if not member.record.drained]
    if not steps:
        return False
    margin = max(float(AWAY_STEPS_MIN), AWAY_PERIODS * period)
    return statistics.median(steps) - step > margin


def look_back(local: Local, now: float) -> None:
    """After a restart, once others are seen: exchange as before, or as a newcomer. `now` in seconds of the loop."""
    if not local.returning:
        return
    if local.returned_at is None:
        local.returned_at = now
    if now - local.returned_at > RETURN_SECONDS:
        local.returning = False
    elif was_away_long(local.progress.step, local.alive(), local.policy.schedule.mean_period):
        local.returning, local.newcomer = False, True
        local.events.add("weight", "away for long: copies a partner before it counts, as a newcomer would")


def _fresh(rule: ExchangeRule, local: Local) -> Any:
    return rule.init(local.handover.mine)


def _plain(state: Any) -> JsonValue:
    """A rule's state, which is made of numbers and tuples, as JSON; None where a number is not finite."""
    if state is None:
        return None
    if isinstance(state, tuple):
        parts = [_plain(one) for one in state]
        lost = any(plain is None and one is not None for plain, one in zip(parts, state, strict=True))
        return None if lost else parts
    assert isinstance(state, (int, float)), f"a rule's state of type {type(state).__name__}"
    return state if math.isfinite(state) else None


def _tupled(plain: JsonValue) -> Any:
    return tuple(map(_tupled, plain)) if isinstance(plain, list) else plain


def _fitting(fresh: Any, plain: JsonValue) -> Any:
    """The state that was kept; a fresh one where it is not of that rule."""
    state = _tupled(plain)
    if type(state) is not type(fresh) or (isinstance(fresh, tuple) and len(state) != len(fresh)):
        return fresh
    return state
