"""Asking a member for a snapshot that it holds."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import pytest
import torch
from helpers.peer_parts import introduce, parts_in, record

from p2p_elastic.peers.gossip.snapshot_fetch import SnapshotFetcher
from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.session.conversation import Conversation, Limits
from p2p_elastic.peers.transport.interfaces import Stream
from p2p_elastic.protocol.chunks import Vectors
from p2p_elastic.protocol.exchange import Fetched, give
from p2p_elastic.protocol.messages import Decline, DeclineReason, Fetch, Given, Message, Referral, Unchanged
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.testing.faults import Verdict
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

Answer = Callable[[Conversation, Fetch], Awaitable[None]]


def says(make: Callable[[str], Message]) -> Answer:
    async def answer(conversation: Conversation, asked: Fetch) -> None:
        await conversation.send(make(asked.id))

    return answer


async def gives(conversation: Conversation, asked: Fetch) -> None:
    given = Given(id=asked.id, origin=asked.origin, step=7, loss=0.5)
    await conversation.run(give(given), Vectors.sending(torch.ones(72), asked.codec))


def fetched(
    answer: Answer | None, network: SimulatedNetwork | None = None
) -> tuple[Fetched, torch.Tensor, StrategyParts]:
    """What "a" gets from "b", which answers like that."""
    network = network or SimulatedNetwork()
    parts, into = parts_in(network), torch.zeros(72)
    introduce(parts, parts_in(network, peer="b"))
    fetcher = SnapshotFetcher(parts.local, parts.transport, parts.limits, random.Random(0))

    async def serve(stream: Stream) -> None:
        conversation = Conversation(stream, Limits())
        asked = await conversation.receive((Fetch,), 5.0)
        assert isinstance(asked, Fetch)
        assert (asked.peer, asked.origin, asked.have) == ("a", "c", 3)
        assert answer is not None
        await answer(conversation, asked)
        await conversation.until_closed()

    async def main() -> Fetched:
        if answer is not None:
            await network.transport("b").serve(serve)
        return await fetcher.ask(record("b"), "c", 3, into=into)

    return run_virtual(main()), into, parts


def ended(parts: StrategyParts) -> tuple[Outcome, str | None]:
    last = parts.local.journal.met["b"].last
    return last.outcome, last.reason


def test_what_is_given_is_there_and_in_the_journal() -> None:
    found, into, parts = fetched(gives)
    assert found.given is not None
    assert found.given.step == 7
    assert torch.equal(into, torch.ones(72))
    assert ended(parts) == (Outcome.COMPLETED, None)
    assert set(parts.local.members.alive()) == {"b"}


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda id: Unchanged(id=id), "unchanged"),
        (lambda id: Referral(id=id, holders=("d",)), "referred to others"),
        (lambda id: Decline(id=id, reason=DeclineReason.BUSY), "busy"),
    ],
    ids=["unchanged", "referral", "busy"],
)
def test_other_answers_are_no_fault_of_the_holder(make: Callable[[str], Message], reason: str) -> None:
    found, into, parts = fetched(says(make))
    assert found.given is None
    assert not into.any()
    assert ended(parts) == (Outcome.DECLINED, reason)
    assert set(parts.local.members.alive()) == {"b"}


def test_a_holder_that_is_not_there_becomes_suspect() -> None:
    found, _, parts = fetched(None)
    assert found.given is None
    assert ended(parts)[0] is Outcome.UNREACHABLE
    assert not parts.local.members.alive()


def test_a_snapshot_that_came_damaged_is_refused() -> None:
    def damage(event: object) -> Verdict:
        return Verdict(
            "corrupt" if getattr(event, "source", "") == "b" and getattr(event, "nbytes", 0) > 200 else "pass"
        )

    network = SimulatedNetwork(damage)
    found, _, parts = fetched(gives, network)
    assert network.faults == {"corrupt": 1}
    assert found.given is None
    assert ended(parts)[0] is Outcome.REFUSED
    assert not parts.local.members.alive()


def test_one_that_gives_what_was_not_asked_for_is_refused() -> None:
    found, _, parts = fetched(says(lambda id: Given(id=id, origin="b", step=7, loss=0.5)))
    assert found.given is None
    assert ended(parts)[0] is Outcome.REFUSED
