"""Exchanges over direct connections in virtual time: with the same outcome, also if these fail at any moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from helpers.swarm import Member, simulate, tiny_model, values
from torch import Tensor

from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.rules.methods import find_method
from p2p_elastic.rules.policy import Policy, rule_of
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.testing.faults import Event, Verdict
from p2p_elastic.testing.virtual_network import SimulatedNetwork

NAMES = ["a", "b", "c", "d"]


def run(judge: Callable[[Event], Verdict] = lambda _event: Verdict(), **options: object) -> list[Member]:
    return simulate(SimulatedNetwork(judge, direct=True), NAMES, **options)  # type: ignore[arg-type]


def the_sum(members: list[Member]) -> Tensor:
    return torch.stack([values(m.model) for m in members]).sum(dim=0)


PIECE_BYTES = 4 * values(tiny_model(0)).numel()
START = torch.stack([values(tiny_model(i)) for i in range(len(NAMES))]).sum(dim=0)


def ways(members: list[Member]) -> tuple[int, Counter[str]]:
    """Completed exchanges that went directly, and the others by the reason."""
    totals = [m.peer.exchanges() for m in members]
    return sum(t.direct for t in totals), sum((Counter(t.not_direct) for t in totals), Counter[str]())


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("codec", ["none", "int8"])
def test_all_exchanges_go_directly_and_the_sum_stays(codec: str, streams: int) -> None:
    members = run(codec=codec, streams=streams)
    direct, others = ways(members)
    completed = sum(m.peer.exchanges().by_outcome[Outcome.COMPLETED] for m in members)
    assert direct == completed > 100
    assert not others
    torch.testing.assert_close(the_sum(members), START, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rule", ["gossip-pull", "gossip-push", "easgd", "lsgd", "gosgd"])
def test_every_rule_goes_directly(rule: str) -> None:
    method = find_method(rule)
    policy = Policy(rule_of(method, 0.3, "fixed"), Schedule(period=8), topology=method.topology, flow=method.flow)
    direct, _ = ways(run(policy=policy))
    assert direct > 20


@pytest.mark.parametrize("action", ["cut", "silence"])
def test_where_nobody_can_dial_all_exchanges_go_over_libp2p(action: str) -> None:
    judge = lambda e: Verdict(action, 0.001) if e.kind == "connect" else Verdict()  # noqa: E731
    members = run(judge, steps=3000)  # type: ignore[arg-type]
    direct, others = ways(members)
    assert direct == 0
    assert others.total() == sum(m.peer.exchanges().by_outcome[Outcome.COMPLETED] for m in members) > 60
    assert set(others) <= {"not connected", "not in time", "no way to dial", "partner"}
    assert others["no way to dial"] > others["not connected"] + others["not in time"]  # it is not tried each time
    assert not sum(m.peer.exchanges().failed_lately for m in members)
    torch.testing.assert_close(the_sum(members), START, rtol=0, atol=1e-5)


@pytest.mark.parametrize("action", ["cut", "silence", "corrupt"])
def test_connections_that_die_in_the_middle_cost_their_exchange_and_nothing_else(action: str) -> None:
    """Only pieces of vectors are hit that travel directly: those of the others are larger by their headers."""
    hit = Counter[int]()

    def judge(event: Event) -> Verdict:
        if event.kind == "piece" and event.nbytes == PIECE_BYTES and event.number == 0:
            hit[event.nbytes] += 1
            if hit[event.nbytes] % 3 == 0:
                return Verdict(action)  # type: ignore[arg-type]
        return Verdict()

    members = run(judge, steps=6000 if action == "silence" else 2000)  # a silence takes seconds
    outcomes = sum((Counter(m.peer.exchanges().by_outcome) for m in members), Counter[Outcome]())
    assert hit.total() >= 3
    assert outcomes[Outcome.COMPLETED] > 100
    assert outcomes[Outcome.BROKEN] + outcomes[Outcome.TIMEOUT] >= 1
    _, others = ways(members)
    assert others["failed lately"] + others["partner"] > 0
    torch.testing.assert_close(the_sum(members), START, rtol=0, atol=1e-5)
