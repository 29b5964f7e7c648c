"""Exchanges over thin links, in virtual time: rates each way, that all streams share."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from helpers.swarm import Member, build_member, run_members
from torch import nn

from p2p_elastic.peers.state.views import link_of
from p2p_elastic.protocol.limits import AUTO_FRAGMENTS
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.testing.faults import Event, Judge, Verdict
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

ELEMENTS = 1_000_000


def wide(value: float) -> nn.Module:
    model = nn.Module()
    model.weight = nn.Parameter(torch.full((ELEMENTS,), value))
    return model


def shaped(bits_per_second: float, rtt_seconds: float) -> Judge:
    """A network in which all that a peer sends shares one rate."""
    free: dict[str, float] = {}

    def judge(event: Event) -> Verdict:
        seconds = 8 * event.nbytes / bits_per_second
        free[event.source] = max(free.get(event.source, 0.0), event.now) + seconds
        return Verdict(seconds=free[event.source] - event.now + rtt_seconds / 2)

    return judge


def two(judge: Judge, steps: int, *, codec: str, fragments: int, direct: bool = False) -> list[Member]:
    network = SimulatedNetwork(judge=judge, direct=direct)
    members = [
        build_member(
            network,
            name,
            model=wide(value),
            schedule=Schedule(period=32),
            step_seconds=0.1,
            announce_seconds=5.0,
            refresh_seconds=3.0,
            codec=codec,
            fragments=fragments,
        )
        for name, value in (("a", 1.0), ("b", 3.0))
    ]

    async def main() -> None:
        await run_members(members, steps=steps)

    run_virtual(main())
    return members


@pytest.mark.parametrize("rtt_seconds", [0.02, 0.3])
@pytest.mark.parametrize("bits_per_second", [256e3, 1e6, 10e6])
def test_automatic_exchanges_complete_on_a_thin_link(bits_per_second: float, rtt_seconds: float) -> None:
    members = two(shaped(bits_per_second, rtt_seconds), 2400, codec="auto", fragments=AUTO_FRAGMENTS)
    outcomes = Counter[Outcome]()
    for member in members:
        outcomes.update(member.peer.exchanges().by_outcome)
    assert outcomes[Outcome.COMPLETED] >= 20
    assert set(outcomes) <= {Outcome.COMPLETED, Outcome.DECLINED}
    link = link_of(members[0].peer.parts)
    assert link is not None
    assert link.exchange_seconds < 10.0
    assert link.limits
    assert (link.codec, link.fragments > 1) == ("int8", bits_per_second < 10e6)


@pytest.mark.parametrize("direct", [False, True])
def test_a_whole_model_crosses_a_link_on_which_one_chunk_takes_nearly_the_longest_silence(direct: bool) -> None:
    members = two(shaped(256e3, 0.02), 3200, codec="none", fragments=1, direct=direct)
    exchanges = members[0].peer.exchanges()
    assert exchanges.by_outcome[Outcome.COMPLETED] >= 1
    assert (exchanges.direct >= 1) == direct
    assert not set(exchanges.by_outcome) & {Outcome.TIMEOUT, Outcome.BROKEN, Outcome.HALF}
