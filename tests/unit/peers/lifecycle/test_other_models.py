"""Hearing in what the models of others differ, once for each, and believing only what they announced."""

from __future__ import annotations

import asyncio

import pytest
from helpers.peer_parts import ID, parts_in, record, serve
from torch import nn

from p2p_elastic.errors import RemoteProtocolError
from p2p_elastic.parameters.schema import Schema
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.gossip.admission import Admission
from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.lifecycle.other_models import AGAIN_SECONDS, Describing, OtherModels, believed
from p2p_elastic.peers.session.answers import Answers
from p2p_elastic.peers.session.conversation import CHUNK_BYTES, Conversation
from p2p_elastic.peers.state.views import other_models_of
from p2p_elastic.protocol.messages import Decline, Describe, Described
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

THERE = Schema(tensors=(("weight", (8, 9)), ("bias", (8,))))
OURS = ParameterVector(nn.Linear(8, 8)).schema


class Other:
    """A peer that answers with these bytes, whatever is asked for; or that its schema is longer than they are."""

    def __init__(self, text: bytes, more: int = 0) -> None:
        self.text, self.more, self.asked = text, more, 0

    def register(self, answers: Answers) -> None:
        answers.register(Describe, self.answer)

    async def answer(self, conversation: Conversation, asked: Describe) -> None:
        self.asked += 1
        await conversation.send(Described(id=asked.id, nbytes=len(self.text) + self.more))
        await conversation.send_bytes(self.text)


def asked(network: SimulatedNetwork, *others: str, text: bytes, more: int = 0) -> tuple[StrategyParts, list[int]]:
    """A peer that looked for others, and asked until none was left; and how often each of them was asked."""
    parts = parts_in(network)
    answering = [Other(text, more) for _ in others]

    async def main() -> None:
        for name, other in zip(others, answering, strict=True):
            await serve(parts_in(network, peer=name), other)
        parts.local.members.look([record(name, schema_hash=THERE.hash) for name in others], 0.0)
        models = OtherModels(parts)
        while models.pending:
            await models.ask()

    run_virtual(main())
    return parts, [other.asked for other in answering]


def differences(parts: StrategyParts) -> dict[str, str | None]:
    return {other.peer: other.difference for other in other_models_of(parts.local)}


def test_one_of_those_that_have_a_model_is_asked_and_the_first_difference_is_said_of_all() -> None:
    parts, times = asked(SimulatedNetwork(), "b", "c", text=THERE.model_dump_json().encode())
    said = "weight is [8, 8] here and [8, 9] there"
    assert differences(parts) == {"b": said, "c": said}
    assert times == [1, 0]
    assert [event.text for event in parts.local.events.since(0)] == [f"b trains another model in this run: {said}"]
    assert not parts.local.members.known


@pytest.mark.parametrize(
    ("text", "more"), [(b"[]", 0), (OURS.model_dump_json().encode(), 0), (THERE.model_dump_json().encode(), 1)]
)
def test_what_is_no_schema_or_another_than_announced_is_not_believed(text: bytes, more: int) -> None:
    parts, times = asked(SimulatedNetwork(), "b", "c", text=text, more=more)
    assert differences(parts) == {"b": None, "c": None}
    assert times == [1, 1]  # each once, until AGAIN_SECONDS later


def test_a_member_that_does_not_answer_is_asked_again_much_later() -> None:
    network = SimulatedNetwork()
    parts = parts_in(network)

    async def main() -> list[bool]:
        parts.local.members.look([record("b", schema_hash=THERE.hash)], 0.0)
        models, seen = OtherModels(parts), []
        for seconds in (0.0, 1.0, AGAIN_SECONDS):
            await asyncio.sleep(seconds)
            seen.append(models.pending)
            await models.ask()
        return seen

    assert run_virtual(main()) == [True, False, True]


def test_those_that_have_this_peers_model_left_or_are_too_many_are_no_other_models() -> None:
    parts = parts_in(SimulatedNetwork())
    records = [record("b"), record("c", schema_hash=THERE.hash, left=True)]
    parts.local.members.look(records, 0.0)
    assert not parts.local.members.foreign
    parts.local.members.look([record(f"p{i}", schema_hash=THERE.hash) for i in range(80)], 0.0)
    assert len(parts.local.members.foreign) == 50


def told(*asking: Describe) -> list[str | Schema]:
    """What comes of asking the peer "a" these: its schema, or why it declines."""
    network = SimulatedNetwork()
    parts = parts_in(network)

    async def ask(one: Describe) -> str | Schema:
        stream = await network.transport(one.peer).open(record("a"))
        conversation = Conversation(stream, parts.limits)
        try:
            await conversation.send(one)
            answer = await conversation.receive((Described, Decline), 5.0)
            if isinstance(answer, Decline):
                return answer.reason.value
            assert isinstance(answer, Described)
            return Schema.model_validate_json(await conversation.receive_bytes(answer.nbytes))
        finally:
            await stream.close()

    async def main() -> list[str | Schema]:
        await serve(parts, Describing(parts.local, Admission(parts.local)))
        return [await ask(one) for one in asking]

    return run_virtual(main())


def describe(**said: str) -> Describe:
    return Describe.model_validate({"id": ID, "peer": "b", "run": "test", "schema_hash": OURS.hash, **said})


def test_a_stranger_is_told_the_schema_once_in_a_while() -> None:
    assert told(describe(), describe(), describe(peer="c")) == [OURS, "paced", OURS]


def test_another_run_or_hash_is_declined() -> None:
    assert told(describe(run="other"), describe(schema_hash="f" * 32)) == ["other-run", "other-schema"]


def test_a_schema_of_many_chunks_arrives_whole() -> None:
    network = SimulatedNetwork()
    long = Schema(tensors=tuple((f"block.{i}." + "x" * 400, (i,)) for i in range(700)))
    text = long.model_dump_json().encode()
    assert len(text) > 2 * CHUNK_BYTES

    async def main() -> bytes:
        await serve(parts_in(network), Other(text))
        stream = await network.transport("b").open(record("a"))
        conversation = Conversation(stream, parts_in(network, peer="b").limits)
        await conversation.send(describe())
        answer = await conversation.receive((Described,), 5.0)
        assert isinstance(answer, Described)
        return await conversation.receive_bytes(answer.nbytes)

    assert believed(run_virtual(main()), record("a", schema_hash=long.hash)) == long


def test_a_wrong_hash_is_said() -> None:
    with pytest.raises(RemoteProtocolError, match=f"of hash {OURS.hash}, announced {THERE.hash}"):
        believed(OURS.model_dump_json().encode(), record("b", schema_hash=THERE.hash))
