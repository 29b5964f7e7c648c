"""What a peer keeps over a restart, and what it makes of having been away.

Its place in the exchanges: step, random states, what the rule remembers of partners, the first loss, the centre as it
was known. How partners are chosen is not kept: exchange ids come from the same random numbers, and must not come again.
No exchange that is under way is kept: a checkpoint is taken between two steps, after a waiting move was
added, so there is none to be added later.
"""

from __future__ import annotations

import math
import random
from typing import Annotated, Any

from pydantic import Field, JsonValue
from torch import Tensor

from p2p_elastic.health.trust import PARTNERS_MAX, JudgeMemory
from p2p_elastic.peers.local_context import LocalContext
from p2p_elastic.peers.own_state import Progress
from p2p_elastic.peers.rule_states import RuleStates
from p2p_elastic.protocol.messages import CLOCK_MAX, Stamp
from p2p_elastic.rules.base import ExchangeRule
from p2p_elastic.values import Frozen

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


def remembered(local: LocalContext, sequence: int, coin: random.Random) -> PeerMemory:
    """What is to be kept. For the training thread."""
    states, judge, centre = local.run.rules.states, local.judge.memory(), local.run.centre
    return PeerMemory(
        step=local.own.progress.step,
        first_loss=local.own.progress.first_loss,
        newcomer=local.own.newcomer,
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
    local: LocalContext,
    *,
    coin: random.Random,
    loss: float | None,
    centre: Tensor | None,
) -> None:
    """Go on from there, before `run`. `loss`: the last one, in nats; `centre`: the value [D] of the centre variable."""
    memory.coin.recall(coin)
    local.own.resume(Progress(memory.step, loss, memory.first_loss), newcomer=memory.newcomer)
    policy, before = local.run.policy, local.run.rules.states
    recalled = RuleStates(
        _fitting(before.own, memory.rule),
        {peer: _fitting(_fresh(policy.rule, local), state) for peer, state in memory.partners.items()},
        _fitting(before.of_all, memory.of_all),
    )
    local.run.rules.recall(recalled)
    local.judge.recall(JudgeMemory(memory.distances, memory.usual, memory.initial))
    if local.run.centre is not None and memory.centre is not None and centre is not None:
        known = memory.centre
        local.run.centre.value = centre.clone()
        local.run.centre.stamp, local.run.centre.seated = known.stamp, known.seated
        local.run.centre.since = known.stamp.clock if known.since is None else known.since
        local.run.centre.behind = known.behind


def _fresh(rule: ExchangeRule, local: LocalContext) -> Any:
    return rule.init(local.slot.mailbox.mine)


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
