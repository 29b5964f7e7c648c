"""What is checked of whoever asks for something."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.peer_parts import (
    introduce,
    offer,
    parts_in,
    record,
    talk,
    tell,
    wanted,
)

from p2p_elastic.errors import ExchangeError
from p2p_elastic.peers.gossip.admission import Admission
from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.session.conversation import Conversation, Limits
from p2p_elastic.peers.transport.everybody import Everybody
from p2p_elastic.peers.transport.interfaces import Stream
from p2p_elastic.protocol.exchange import compare, fetch, initiate
from p2p_elastic.protocol.messages import DeclineReason, Fetch, Heard, Offer, Stamp, Tell
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.protocol.roles import Role
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual


async def admitting(parts: StrategyParts, admitted: list[object]) -> None:
    """Serve: what is not declined is `admitted`, and its stream ends."""
    admission = Admission(parts.local)

    async def answer(stream: Stream) -> None:
        conversation = Conversation(stream, Limits())
        asked = await conversation.receive((Offer, Fetch, Tell), 5.0)
        if isinstance(asked, Tell):
            declined = await admission.declines_other_run(conversation, asked)
        else:
            assert isinstance(asked, (Offer, Fetch))
            declined = await admission.declines(conversation, asked)
        if not declined:
            admitted.append(asked)
        await conversation.until_closed()

    await parts.transport.serve(answer)


def declined(asked: Offer | Fetch, *, state: str = "", **context: Any) -> str | None:
    """Why that is declined by a peer in that state; None where it is not."""
    network, admitted = SimulatedNetwork(access=context.pop("access", Everybody())), list[object]()
    parts = parts_in(network, **context)
    if state == "drained":
        parts.local.own.condition.drain()
    elif state:
        parts.local.departure.leave()
    if state == "awaits b":
        parts.local.departure.await_taker("b")

    async def ask() -> str | None:
        await admitting(parts, admitted)
        try:
            if isinstance(asked, Fetch):
                return (await talk(network, "b", "a", fetch(asked))).reason
            result = await talk(network, "b", "a", initiate(asked))
        except ExchangeError:
            return None
        assert result.outcome is Outcome.DECLINED
        return result.reason

    reason = run_virtual(ask())
    assert (reason is None) == (admitted == [asked])
    assert parts.local.journal.declined_by_us.total() == (reason is not None)
    return reason and reason.split(":")[0].split(" ")[0]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({}, None),
        ({"run": "other"}, "other-run"),
        ({"schema_hash": "f" * 32}, "other-schema"),
        ({"elements": 71}, "other-schema"),
        ({"codec": "int8"}, "other-codec"),
        ({"version": 1}, "other-version"),
        ({"part": (0, 9)}, "other-rule"),
    ],
)
def test_an_offer_has_to_fit_the_run_and_the_model(said: dict[str, Any], reason: str | None) -> None:
    assert declined(offer(**said)) == reason


def test_where_a_run_has_fragments_an_offer_may_be_of_a_part() -> None:
    assert declined(offer(part=(0, 9)), fragments=8) is None


def test_copies_may_be_exact_in_any_run_and_exchanges_may_not() -> None:
    assert declined(wanted(), codec="int8") is None
    assert declined(wanted(part=(0, 9)), codec="int8") is None
    assert declined(offer(), codec="int8") == "other-codec"
    assert declined(wanted(codec="float16"), codec="int8") == "other-codec"


@pytest.mark.parametrize(("state", "reason"), [("drained", "drained"), ("leaving", "leaving"), ("awaits b", None)])
@pytest.mark.parametrize("asked", [offer(), wanted()], ids=["offer", "fetch"])
def test_who_is_drained_or_leaves_declines_all_but_the_one_that_is_awaited(
    state: str, reason: str | None, asked: Offer | Fetch
) -> None:
    assert declined(asked, state=state) == reason


class Roles:
    """`Access` in which everybody has one role."""

    def __init__(self, role: Role) -> None:
        self._role = role

    def allows(self, _peer: str, role: Role = Role.OBSERVER) -> bool:
        return self._role >= role


@pytest.mark.parametrize(
    ("asked", "needed"),
    [(wanted(), Role.OBSERVER), (offer(), Role.TRAINER), (offer(centre=Stamp(term=1, clock=5)), Role.CENTRE)],
    ids=["fetch", "offer", "centre"],
)
@pytest.mark.parametrize("role", Role)
def test_in_a_private_run_each_request_needs_a_role(asked: Offer | Fetch, needed: Role, role: Role) -> None:
    reason = declined(asked, access=Roles(role))
    assert reason == (None if role >= needed else "not-admitted")


def test_the_one_that_is_awaited_has_to_fit_as_any_other() -> None:
    assert declined(offer(run="other"), state="awaits b") == "other-run"


@pytest.mark.parametrize(("run", "answered"), [("test", True), ("other", False)])
def test_words_of_another_run_are_declined_and_counted(run: str, answered: bool) -> None:
    network, admitted = SimulatedNetwork(), list[object]()
    parts = parts_in(network)

    async def main() -> None:
        await admitting(parts, admitted)
        if answered:
            with pytest.raises(ExchangeError):  # the test's server says nothing
                await talk(network, "b", "a", compare(tell(run=run)))
        else:
            assert await talk(network, "b", "a", compare(tell(run=run))) is None

    run_virtual(main())
    assert bool(admitted) is answered
    assert parts.local.journal.declined_by_us == ({} if answered else {DeclineReason.OTHER_RUN.value: 1})


def test_who_asks_is_heard_of_and_may_be_nobody_else() -> None:
    network = SimulatedNetwork()
    parts = parts_in(network)
    introduce(parts, parts_in(network, peer="b"))
    found = list[str]()

    async def answer(stream: Stream) -> None:
        conversation, admission = Conversation(stream, Limits()), Admission(parts.local)
        found.append(admission.identify(conversation))
        found.append(admission.identify(conversation, "b"))
        with pytest.raises(ExchangeError, match="claims to be 'c', is b"):
            admission.identify(conversation, "c")
        found.append("end")

    async def main() -> None:
        parts.local.members.failed("b", Outcome.TIMEOUT)
        assert not parts.local.members.alive()
        await parts.transport.serve(answer)
        stream = await network.transport("b").open(record("a"))
        with pytest.raises(ExchangeError):
            await Conversation(stream, Limits()).receive((Heard,), 5.0)
        assert set(parts.local.members.alive()) == {"b"}

    run_virtual(main())
    assert found == ["b", "b", "end"]
