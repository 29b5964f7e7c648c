"""What a peer keeps over a restart, and what it makes of having been away.

Its place in the exchanges: step, random states, what the rule remembers of partners, the first loss, and what its
topology keeps. How partners are chosen is not kept: exchange ids come from the same random numbers, and must not come
again. No exchange that is under way is kept: a checkpoint is taken between two steps, after a waiting move was
added, so there is none to be added later.
"""

from __future__ import annotations

import math
import random
from typing import Any

from pydantic import JsonValue
from torch import Tensor

from p2p_elastic.health.trust import JudgeMemory
from p2p_elastic.peers.exchange.rule_states import RuleStates
from p2p_elastic.peers.state.context import LocalContext
from p2p_elastic.peers.state.own_state import Progress
from p2p_elastic.peers.state.peer_memory import PeerMemory, RandomMemory
from p2p_elastic.rules.base import ExchangeRule


def remembered(local: LocalContext, sequence: int, coin: random.Random) -> PeerMemory:
    """Gather what is to be kept. For the training thread.

    Args:
        local: the peer's state.
        sequence: of its last record.
        coin: of the schedule.

    Returns:
        What `recall` goes on from. Numbers that are not finite are left out.
    """
    states, judge = local.run.rules.states, local.judge.memory()
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
        **local.run.topology.memory(),
    )


def recall(
    memory: PeerMemory,
    local: LocalContext,
    *,
    coin: random.Random,
    loss: float | None,
    value: Tensor | None,
) -> None:
    """Go on from what was kept, before the peer runs.

    Args:
        memory: what `remembered` gave.
        local: the peer's state, which is changed.
        coin: of the schedule, which is changed.
        loss: the last one, in nats; None if it is not known.
        value: of what all exchange with [D]; None if there is no such thing.
    """
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
    local.run.topology.recall(memory, value)


def _fresh(rule: ExchangeRule, local: LocalContext) -> Any:
    return rule.init(local.slot.mailbox.mine)


def _plain(state: Any) -> JsonValue:
    """A rule's state, which is made of numbers and tuples, as JSON; None if a number is not finite."""
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
    """The state that was kept; a fresh one if it is not of that rule."""
    state = _tupled(plain)
    if type(state) is not type(fresh) or (isinstance(fresh, tuple) and len(state) != len(fresh)):
        return fresh
    return state
