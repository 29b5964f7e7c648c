"""Peers that exchange often: few asks are declined as busy, and partners that say so without reason do no harm."""

from __future__ import annotations

import asyncio
import random

import pytest
import torch
from helpers.swarm import Member, begin_as_equals, build_member, run_members, tiny_model, values

from p2p_elastic.errors import ExchangeError
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.session.conversation import Conversation, Limits
from p2p_elastic.protocol.messages import Decline, DeclineReason, Offer
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.testing.faults import Event, Verdict
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

NAMES = "abcdefgh"
PERIOD, STEPS = 8, 400
USUAL, LONG = 0.003, 0.015  # seconds that each piece takes: an exchange then lasts 2 steps, or nearly a period


def network(seconds: float) -> SimulatedNetwork:
    """Each piece takes about that long."""
    rng = random.Random(1)

    def judge(event: Event) -> Verdict:
        late = event.kind in ("open", "piece")
        return Verdict(seconds=seconds * rng.uniform(0.5, 1.5) if late else 0.0)

    return SimulatedNetwork(judge=judge)


async def train(net: SimulatedNetwork, count: int) -> list[Member]:
    """Peers of about the same speed, all due at about the same time."""
    members = [
        build_member(
            net, NAMES[i], seed=i, schedule=Schedule(period=PERIOD), moving_rate=0.3, step_seconds=0.01 + 0.0005 * i
        )
        for i in range(count)
    ]
    begin_as_equals(members)
    await run_members(members, steps=STEPS)
    return members


def completed(members: list[Member]) -> int:
    """Exchanges; each is counted at both ends."""
    return sum(m.peer.exchanges().by_outcome.get(Outcome.COMPLETED, 0) for m in members) // 2


def declined(members: list[Member], reason: str = "busy") -> int:
    return sum(m.peer.exchanges().declined_by_partner.get(reason, 0) for m in members)


@pytest.mark.parametrize(
    ("count", "seconds", "share"),
    [(2, USUAL, 0.01), (4, USUAL, 0.05), (8, USUAL, 0.1), (2, LONG, 0.05), (4, LONG, 0.2)],
)
def test_few_asks_are_declined_as_busy(count: int, seconds: float, share: float) -> None:
    members = run_virtual(train(network(seconds), count))
    asks = completed(members) + declined(members)
    assert declined(members) <= share * asks
    if seconds == USUAL:
        assert completed(members) > 0.75 * count * STEPS / PERIOD  # of those that were due
    before = torch.stack([values(tiny_model(i)) for i in range(count)]).sum(dim=0)
    after = torch.stack([values(m.model) for m in members]).sum(dim=0)
    torch.testing.assert_close(after, before, rtol=0, atol=4e-6)


def test_offers_that_cross_become_one_exchange() -> None:
    members = run_virtual(train(network(LONG), 2))
    totals = [m.peer.exchanges() for m in members]
    crossed = sum(t.declined_by_us.get("busy", 0) for t in totals)
    assert crossed > 10  # the offer of the larger id
    assert declined(members) <= 1  # which is no ask in vain: the two exchange
    assert completed(members) >= crossed


async def says_that_it_is_busy(net: SimulatedNetwork, detail: str, asked: list[float]) -> None:
    """A member that declines each offer, and says this."""

    async def handle(stream: object) -> None:
        conversation = Conversation(stream, Limits())  # type: ignore[arg-type]
        try:
            offer = await conversation.receive((Offer,), 5.0)
            asked.append(asyncio.get_running_loop().time())
            assert isinstance(offer, Offer)
            await conversation.send(Decline(id=offer.id, reason=DeclineReason.BUSY, detail=detail))
            await conversation.until_closed()
        except ExchangeError:
            pass

    schema = ParameterVector(tiny_model(0)).schema_hash
    await net.transport("0").serve(handle)
    for sequence in range(10**6):
        record = PeerRecord(peer="0", run="test", schema_hash=schema, sequence=sequence)
        await net.directory("0").announce(record)
        await asyncio.sleep(1.0)


@pytest.mark.parametrize("detail", ["free in 1000.000 s", "free in 0.000 s", "asked you at the same time", ""])
@pytest.mark.parametrize("count", [1, 3])
def test_one_that_always_says_so_does_no_harm(count: int, detail: str) -> None:
    net, asked = network(USUAL), list[float]()

    async def main() -> list[Member]:
        liar = asyncio.ensure_future(says_that_it_is_busy(net, detail, asked))
        await asyncio.sleep(0.1)
        try:
            return await train(net, count)
        finally:
            liar.cancel()

    members = run_virtual(main())
    assert [m.steps for m in members] == [STEPS] * count
    assert 0 < len(asked) <= count * (STEPS // PERIOD + 8)  # 8: the farewell asks again
    if count > 1:
        assert completed(members) > 0.7 * count * STEPS / PERIOD
