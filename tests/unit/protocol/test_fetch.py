"""Fetching a snapshot, comparing losses, and exchanges that go one way: the generators without I/O."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from pydantic import ValidationError

from p2p_elastic.errors import PartnerUnreachable, RemoteProtocolError
from p2p_elastic.protocol.exchange import (
    Command,
    Commit,
    Fetched,
    Receive,
    Send,
    Transfer,
    compare,
    fetch,
    give,
    initiate,
    objection,
    respond,
)
from p2p_elastic.protocol.messages import (
    PROTOCOL_VERSION,
    Accept,
    Committed,
    Decline,
    DeclineReason,
    Fetch,
    Given,
    Offer,
    Referral,
    Stamp,
    Tell,
    Unchanged,
    Verified,
)
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.rules.methods import Flow

ID, OTHER_ID = "a" * 32, "b" * 32
SCHEMA = "1" * 32
ASKED = Fetch(id=ID, peer="bob", run="run", schema_hash=SCHEMA, elements=10, codec="none", origin="leader", have=3)
GIVEN = Given(id=ID, origin="leader", step=5, loss=0.5)
TOLD = Tell(id=ID, peer="bob", run="run", step=3, loss=0.5)
OFFER = Offer(
    id=ID, peer="alice", run="run", schema_hash=SCHEMA, elements=10, codec="none", step=7, loss=0.5, weight=1.0
)
ACCEPT = Accept(id=ID, peer="bob", schema_hash=SCHEMA, step=9, loss=None, weight=0.25)


def drive(generator: Generator[Command, Any, Any], *answers: object) -> tuple[list[Command], Any]:
    """Run it with these answers to what is not a Send or Commit; its commands and its result."""
    commands, left = [next(generator)], list(answers)
    try:
        while True:
            wants = isinstance(commands[-1], (Receive, Transfer))
            commands.append(generator.send(left.pop(0) if wants else None))
    except StopIteration as end:
        assert not left
        return commands, end.value


@pytest.mark.parametrize(
    ("answer", "fetched"),
    [
        (Unchanged(id=ID), Fetched(unchanged=True)),
        (Referral(id=ID, holders=("x", "y")), Fetched(holders=("x", "y"))),
        (Decline(id=ID, reason=DeclineReason.BUSY), Fetched(reason="busy")),
    ],
)
def test_an_answer_without_a_snapshot_ends_a_fetch(answer: object, fetched: Fetched) -> None:
    commands, result = drive(fetch(ASKED), answer)
    assert commands == [Send(ASKED), Receive((Given, Unchanged, Referral, Decline))]
    assert result == fetched


def test_a_snapshot_is_received_and_nothing_is_sent() -> None:
    commands, result = drive(fetch(ASKED), GIVEN, None)
    assert commands[-1] == Transfer(send=False, receive=True, whole=True)
    assert result == Fetched(given=GIVEN)


def test_a_snapshot_that_is_not_finite_is_refused() -> None:
    _, result = drive(fetch(ASKED), GIVEN, "not finite")
    assert result == Fetched(reason="not finite", refused=True)


PART = ASKED.model_copy(update={"part": (2, 6), "step": 4})
GIVEN_PART = GIVEN.model_copy(update={"digest": "0" * 64})


def test_a_part_comes_with_its_digest() -> None:
    assert drive(fetch(PART), GIVEN_PART, None)[1] == Fetched(given=GIVEN_PART)
    with pytest.raises(RemoteProtocolError):
        drive(fetch(PART), GIVEN)


@pytest.mark.parametrize(
    "part", [(0, 0), (3, 3), (4, 3), (-1, 3), (0, 11), (10, 11), (0, 2**40), (0,), (0, 1, 2), "ab"]
)
def test_what_is_no_part_of_the_vector_is_no_message(part: object) -> None:
    with pytest.raises(ValidationError):
        Fetch.model_validate({**ASKED.model_dump(), "part": part})


def test_the_whole_vector_and_its_last_element_are_parts() -> None:
    for part in ((0, 10), (9, 10)):
        assert Fetch.model_validate({**ASKED.model_dump(), "part": part}).part == part


@pytest.mark.parametrize(
    "answer",
    [
        GIVEN.model_copy(update={"origin": "somebody else"}),
        GIVEN.model_copy(update={"id": OTHER_ID}),
        Unchanged(id=OTHER_ID),
        Referral(id=OTHER_ID, holders=("x",)),
        Decline(id=OTHER_ID, reason=DeclineReason.BUSY),
    ],
)
def test_a_fetch_refuses_what_it_did_not_ask_for(answer: object) -> None:
    with pytest.raises(RemoteProtocolError):
        drive(fetch(ASKED), answer)


def test_giving_sends_and_receives_nothing() -> None:
    commands, result = drive(give(GIVEN), None)
    assert commands == [Send(GIVEN), Transfer(send=True, receive=False)]
    assert result is None


def test_losses_are_compared_or_not() -> None:
    theirs = TOLD.model_copy(update={"peer": "alice", "loss": None})
    assert drive(compare(TOLD), theirs) == ([Send(TOLD), Receive((Tell, Decline))], theirs)
    assert drive(compare(TOLD), Decline(id=ID, reason=DeclineReason.OTHER_RUN))[1] is None
    with pytest.raises(RemoteProtocolError):
        drive(compare(TOLD), theirs.model_copy(update={"id": OTHER_ID}))


@pytest.mark.parametrize("flow", list(Flow))
def test_parameters_travel_as_the_flow_says_and_both_ends_agree(flow: Flow) -> None:
    asked, result = drive(initiate(OFFER, flow), ACCEPT, None, Committed(id=ID))
    answered, agreed = drive(respond(OFFER, ACCEPT, flow), None, Verified(id=ID))
    out = next(c for c in asked if isinstance(c, Transfer))
    back = next(c for c in answered if isinstance(c, Transfer))
    assert (out.send, out.receive) == (back.receive, back.send) == (flow is not Flow.PULL, flow is not Flow.PUSH)
    assert (result.outcome, agreed.outcome) == (Outcome.COMPLETED,) * 2
    assert (result.mine, result.theirs) == (agreed.theirs, agreed.mine)
    assert answered.index(Commit()) < answered.index(Send(Committed(id=ID)))


@pytest.mark.parametrize("flow", list(Flow))
def test_one_way_too_a_lost_last_word_is_half_an_exchange(flow: Flow) -> None:
    generator = initiate(OFFER, flow)
    next(generator)
    generator.send(None)
    generator.send(ACCEPT)
    assert generator.send(None) == Send(Verified(id=ID))
    with pytest.raises(StopIteration) as end:
        generator.throw(PartnerUnreachable("gone"))
    assert end.value.value.outcome is Outcome.HALF


def test_the_stamp_of_the_centre_comes_with_what_was_agreed() -> None:
    stamp = Stamp(term=2, clock=9)
    _, result = drive(initiate(OFFER), ACCEPT.model_copy(update={"centre": stamp}), None, Committed(id=ID))
    assert result.centre == stamp


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": PROTOCOL_VERSION + 1}, DeclineReason.OTHER_VERSION),
        ({"run": "other"}, DeclineReason.OTHER_RUN),
        ({"schema_hash": "2" * 32}, DeclineReason.OTHER_SCHEMA),
        ({"elements": 11}, DeclineReason.OTHER_SCHEMA),
        ({"codec": "zip"}, DeclineReason.OTHER_CODEC),
    ],
)
def test_a_fetch_from_elsewhere_is_declined(change: dict[str, object], reason: DeclineReason) -> None:
    assert objection(ASKED, run="run", schema_hash=SCHEMA, elements=10) is None
    decline = objection(ASKED.model_copy(update=change), run="run", schema_hash=SCHEMA, elements=10)
    assert decline is not None
    assert decline.reason is reason


@pytest.mark.parametrize(
    ("message", "change"),
    [
        (Referral, {"id": ID, "holders": ()}),
        (Referral, {"id": ID, "holders": ("x",) * 5}),
        (Referral, {"id": ID, "holders": ("x" * 129,)}),
        (Given, {"id": ID, "origin": "", "step": 1, "loss": None}),
        (Given, {"id": ID, "origin": "x", "step": -1, "loss": None}),
        (Given, {"id": ID, "origin": "x", "step": 2**53, "loss": None}),
        (Given, {"id": ID, "origin": "x", "step": 1, "loss": float("nan")}),
        (Given, {"id": ID, "origin": "x", "step": 1, "loss": None, "digest": "0" * 63}),
        (Given, {"id": ID, "origin": "x", "step": 1, "loss": None, "digest": "G" * 64}),
        (Tell, {"id": ID, "peer": "x", "run": "r", "step": 1, "loss": float("-inf")}),
        (Stamp, {"term": 2**31, "clock": 0}),
        (Stamp, {"term": 0, "clock": 2**53}),
        (Offer, {**OFFER.model_dump(), "share": 2.0**20 + 1}),
        (Offer, {**OFFER.model_dump(), "share": -0.5}),
    ],
)
def test_what_is_out_of_range_is_no_message(message: Any, change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        message(**change)
