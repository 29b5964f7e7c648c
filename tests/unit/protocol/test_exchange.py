"""The pairwise exchange without I/O: both generators against each other, and against partners that misbehave."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import product

import pytest
from pydantic import ValidationError

from p2p_elastic.errors import (
    ExchangeError,
    ExchangeTimeout,
    LocalProtocolError,
    PartnerUnreachable,
    RemoteProtocolError,
    SchemaMismatch,
)
from p2p_elastic.protocol.exchange import (
    Commit,
    Connect,
    Exchange,
    Receive,
    Result,
    Send,
    Transfer,
    initiate,
    inquire,
    objection,
    respond,
)
from p2p_elastic.protocol.messages import (
    PROTOCOL_VERSION,
    Aborted,
    Accept,
    Committed,
    Decline,
    DeclineReason,
    Direct,
    Inquiry,
    Message,
    Offer,
    Verified,
)
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.rules.base import Facts

ID, OTHER_ID = "a" * 32, "b" * 32
SCHEMA, OTHER_SCHEMA = "1" * 32, "2" * 32
OFFER = Offer(
    id=ID, peer="alice", run="run", schema_hash=SCHEMA, elements=10, codec="none", step=7, loss=0.5, weight=1.0
)
ACCEPT = Accept(id=ID, peer="bob", schema_hash=SCHEMA, step=9, loss=None, weight=0.25)
NOT_FINITE = "the parameters received are not finite"


@dataclass
class End:
    """One end of an exchange, obeyed as a `Conversation` would, but for the faults that it is given.

    Args:
        problem: what its transfer says; an error is raised.
        loses: messages of these types that it sends never arrive.
        cut_at: sending a message of this type fails.
        unconnected: why it does not come to be connected directly.
    """

    exchange: Exchange
    problem: str | ExchangeError | None = None
    loses: tuple[type, ...] = ()
    cut_at: type | None = None
    unconnected: str | None = None
    inbox: deque[Message] = field(default_factory=deque)
    done: list[str] = field(default_factory=list)
    result: Result | None = None
    error: ExchangeError | None = None

    def __post_init__(self) -> None:
        self.command = next(self.exchange)

    @property
    def running(self) -> bool:
        return self.result is None and self.error is None

    @property
    def committed(self) -> bool:
        return "Commit" in self.done

    @property
    def outcome(self) -> Outcome | None:
        return None if self.result is None else self.result.outcome

    def advance(self, partner: End) -> bool:
        """Obey one command; False where none can be obeyed now."""
        if not self.running or (isinstance(self.command, Receive) and not self.inbox):
            return False
        try:
            answer = self._obey(partner)
        except ExchangeError as error:
            self.fail(error)
        else:
            self._go_on(lambda: self.exchange.send(answer))
        return True

    def fail(self, error: ExchangeError) -> None:
        self._go_on(lambda: self.exchange.throw(error))

    def _go_on(self, step: object) -> None:
        try:
            self.command = step()  # type: ignore[operator]
        except StopIteration as end:
            self.result = end.value
        except ExchangeError as error:
            self.error = error

    def _obey(self, partner: End) -> Message | str | None:
        command = self.command
        if isinstance(command, Send):
            name = type(command.message)
            self.done.append(name.__name__)
            if name is self.cut_at:
                raise PartnerUnreachable("the stream is cut")
            if name not in (*self.loses, Offer):  # the responder's generator was made from the offer
                partner.inbox.append(command.message)
            return None
        if isinstance(command, Receive):
            message = self.inbox.popleft()
            if not isinstance(message, command.types):
                raise RemoteProtocolError(f"{type(message).__name__} is not due")
            return message
        self.done.append(type(command).__name__)
        if isinstance(command, Transfer):
            if isinstance(self.problem, ExchangeError):
                raise self.problem
            return self.problem
        if isinstance(command, Connect):
            return self.unconnected
        assert isinstance(command, Commit)
        return None


def converse(asking: End, answering: End) -> None:
    """Let both ends run until they have ended; who waits for what never comes gets a timeout."""
    while asking.running or answering.running:
        if not (asking.advance(answering) or answering.advance(asking)):
            (asking if asking.running else answering).fail(ExchangeTimeout("silence"))


def ask(*answers: Message, exchange: Exchange | None = None) -> End:
    """The end of an initiator whose partner says this and then nothing more."""
    end, silent = End(exchange or initiate(OFFER), inbox=deque(answers)), End(inquire(ID))
    while end.running:
        if not end.advance(silent):
            end.fail(ExchangeTimeout("silence"))
    return end


def answer(*messages: Message) -> End:
    """The end of a responder whose partner offers, says this and then nothing more."""
    return ask(*messages, exchange=respond(OFFER, ACCEPT))


# ---------------------------------------------------------------- both ends


def test_both_ends_complete_with_the_same_two_facts() -> None:
    asking, answering = End(initiate(OFFER)), End(respond(OFFER, ACCEPT))
    converse(asking, answering)
    alice, bob = Facts(7, 0.5, 1.0, asked=True), Facts(9, None, 0.25)
    assert asking.result == Result(Outcome.COMPLETED, mine=alice, theirs=bob)
    assert answering.result == Result(Outcome.COMPLETED, mine=bob, theirs=alice)
    assert asking.done == ["Offer", "Transfer", "Verified"]
    assert answering.done == ["Accept", "Transfer", "Commit", "Committed"]


def test_an_exchange_is_written_down_before_the_partner_hears_of_it() -> None:
    answering = answer(Verified(id=ID))
    assert answering.done.index("Commit") < answering.done.index("Committed")


def test_numbers_that_are_not_finite_abort_at_the_initiator() -> None:
    asking, answering = End(initiate(OFFER), problem=NOT_FINITE), End(respond(OFFER, ACCEPT))
    converse(asking, answering)
    assert asking.result == Result(Outcome.REFUSED, reason=NOT_FINITE)
    assert answering.result == Result(Outcome.BROKEN, reason=f"the partner aborted: {NOT_FINITE}")
    assert not answering.committed


def test_numbers_that_are_not_finite_abort_at_the_responder() -> None:
    asking, answering = End(initiate(OFFER)), End(respond(OFFER, ACCEPT), problem=NOT_FINITE)
    converse(asking, answering)
    assert asking.result == Result(Outcome.BROKEN, reason=f"the partner aborted: {NOT_FINITE}")
    assert answering.result == Result(Outcome.REFUSED, reason=NOT_FINITE)
    assert not answering.committed


DIRECT = Direct(token="1" * 32, secret="2" * 64, aes=True, dials=True)


def directly(held: tuple[str, ...], unconnected: str | None = None) -> tuple[End, End]:
    offer = OFFER.model_copy(update={"direct": DIRECT})
    accept = ACCEPT.model_copy(update={"direct": DIRECT.model_copy(update={"held": held})})
    asking, answering = End(initiate(offer), unconnected=unconnected), End(respond(offer, accept))
    converse(asking, answering)
    return asking, answering


def test_what_connects_directly_says_whether_it_did_and_goes_on_either_way() -> None:
    for unconnected in (None, "refused"):
        asking, answering = directly((), unconnected)
        assert asking.done == ["Offer", "Connect", "Route", "Transfer", "Verified"]
        assert answering.done == ["Accept", *["Connect"] * (unconnected is None), "Transfer", "Commit", "Committed"]
        assert asking.outcome is answering.outcome is Outcome.COMPLETED


def test_connections_that_both_hold_are_used_without_a_word() -> None:
    asking, answering = directly(("3" * 32,))
    assert asking.done == ["Offer", "Connect", "Transfer", "Verified"]
    assert answering.done == ["Accept", "Connect", "Transfer", "Commit", "Committed"]
    assert asking.outcome is answering.outcome is Outcome.COMPLETED


def test_a_partner_that_names_connections_which_are_not_here_is_refused_before_anything_travels() -> None:
    asking, answering = directly(("3" * 32,), "answered with connections that are not here")
    assert isinstance(asking.error, RemoteProtocolError)
    assert "Transfer" not in asking.done
    assert not answering.committed


def test_a_lost_last_word_leaves_the_exchange_half() -> None:
    asking, answering = End(initiate(OFFER)), End(respond(OFFER, ACCEPT), loses=(Committed,))
    converse(asking, answering)
    assert answering.outcome is Outcome.COMPLETED
    assert asking.result == Result(Outcome.HALF, Facts(7, 0.5, 1.0, asked=True), Facts(9, None, 0.25), "silence")


def test_a_stream_cut_before_the_last_word_leaves_the_responder_completed_with_a_note() -> None:
    asking, answering = End(initiate(OFFER)), End(respond(OFFER, ACCEPT), cut_at=Committed)
    converse(asking, answering)
    assert (asking.outcome, answering.outcome) == (Outcome.HALF, Outcome.COMPLETED)
    assert answering.result is not None
    assert answering.result.reason == "the partner may have missed the last word: the stream is cut"


def test_a_stream_cut_at_verified_is_half_since_it_may_have_arrived() -> None:
    asking = End(initiate(OFFER), cut_at=Verified)
    converse(asking, End(respond(OFFER, ACCEPT)))
    assert asking.outcome is Outcome.HALF


MESSAGES = (Accept, Verified, Committed, Aborted)
PROBLEMS = (None, NOT_FINITE, RemoteProtocolError("checksum of a chunk differs"))


def test_whatever_fails_nobody_moves_alone_without_knowing_it() -> None:
    outcomes = set()
    for lost, cut_at, problem, other_problem in product((None, *MESSAGES), (None, *MESSAGES), PROBLEMS, PROBLEMS):
        loses = () if lost is None else (lost,)
        asking = End(initiate(OFFER), problem, loses, cut_at)
        answering = End(respond(OFFER, ACCEPT), other_problem, loses, cut_at)
        converse(asking, answering)
        assert answering.committed == (answering.outcome is Outcome.COMPLETED)
        assert answering.committed or asking.outcome is not Outcome.COMPLETED
        assert not answering.committed or asking.outcome in (Outcome.COMPLETED, Outcome.HALF)
        outcomes.add(asking.outcome)
    assert outcomes == {Outcome.COMPLETED, Outcome.HALF, Outcome.BROKEN, Outcome.REFUSED, None}


# ---------------------------------------------------------------- the initiator and bad partners


def test_a_decline_is_an_answer_with_its_reason() -> None:
    declined = ask(Decline(id=ID, reason=DeclineReason.BUSY))
    assert declined.result == Result(Outcome.DECLINED, reason="busy")
    assert declined.done == ["Offer"]


@pytest.mark.parametrize(
    "message",
    [
        Accept(id=OTHER_ID, peer="bob", schema_hash=SCHEMA, step=9, loss=None, weight=1.0),
        Decline(id=OTHER_ID, reason=DeclineReason.BUSY),
    ],
)
def test_an_answer_to_another_exchange_is_the_partners_fault(message: Message) -> None:
    asking = ask(message)
    assert isinstance(asking.error, RemoteProtocolError)
    assert OTHER_ID in str(asking.error)
    assert asking.done == ["Offer"]


def test_an_accept_with_another_schema_is_a_mismatch_before_anything_travels() -> None:
    asking = ask(ACCEPT.model_copy(update={"schema_hash": OTHER_SCHEMA}))
    assert isinstance(asking.error, SchemaMismatch)
    assert OTHER_SCHEMA in str(asking.error)
    assert SCHEMA in str(asking.error)
    assert "Transfer" not in asking.done


@pytest.mark.parametrize("message", [OFFER, Verified(id=ID), Committed(id=ID), Inquiry(id=ID)])
def test_a_message_that_is_not_due_instead_of_an_answer_is_the_partners_fault(message: Message) -> None:
    assert isinstance(ask(message).error, RemoteProtocolError)


def test_a_driver_that_hands_in_what_was_not_asked_for_is_our_own_fault() -> None:
    exchange = initiate(OFFER)
    next(exchange)
    exchange.send(None)
    with pytest.raises(LocalProtocolError, match="received Verified, but Accept or Decline"):
        exchange.send(Verified(id=ID))


def test_silence_instead_of_an_answer_is_a_timeout() -> None:
    assert isinstance(ask().error, ExchangeTimeout)


def test_a_transfer_that_breaks_is_no_exchange_and_nothing_more_is_said() -> None:
    broken = PartnerUnreachable("the stream ended")
    asking, answering = End(initiate(OFFER), problem=broken), End(respond(OFFER, ACCEPT), problem=broken)
    converse(asking, answering)
    assert asking.error is answering.error is broken
    assert (asking.done, answering.done) == (["Offer", "Transfer"], ["Accept", "Transfer"])


@pytest.mark.parametrize("message", [OFFER, ACCEPT, Verified(id=ID)])
def test_nonsense_instead_of_the_last_word_is_half_since_the_partner_may_have_moved(message: Message) -> None:
    assert ask(ACCEPT, message).outcome is Outcome.HALF


def test_the_last_word_on_another_exchange_does_not_complete_this_one() -> None:
    asking = ask(ACCEPT, Committed(id=OTHER_ID))
    assert isinstance(asking.error, RemoteProtocolError) or asking.outcome is Outcome.HALF


# ---------------------------------------------------------------- the responder and bad partners


@pytest.mark.parametrize("message", [OFFER, ACCEPT, Committed(id=ID), Inquiry(id=ID), Verified(id=OTHER_ID)])
def test_nothing_but_verified_under_the_same_id_commits(message: Message) -> None:
    answering = answer(message)
    assert isinstance(answering.error, RemoteProtocolError)
    assert not answering.committed


def test_a_silent_initiator_is_a_timeout_and_nothing_is_committed() -> None:
    answering = answer()
    assert isinstance(answering.error, ExchangeTimeout)
    assert not answering.committed


# ---------------------------------------------------------------- asking again


def test_an_inquiry_completes_what_the_partner_committed() -> None:
    asking = ask(Committed(id=ID), exchange=inquire(ID))
    assert asking.result == Result(Outcome.COMPLETED)
    assert asking.done == ["Inquiry"]


def test_an_inquiry_ends_what_the_partner_aborted() -> None:
    asking = ask(Aborted(id=ID, reason="not committed"), exchange=inquire(ID))
    assert asking.result == Result(Outcome.BROKEN, reason="the partner aborted: not committed")


def test_an_inquiry_without_an_answer_is_a_timeout() -> None:
    assert isinstance(ask(exchange=inquire(ID)).error, ExchangeTimeout)


@pytest.mark.parametrize("message", [Committed(id=OTHER_ID), Aborted(id=OTHER_ID, reason=""), Verified(id=ID), OFFER])
def test_an_inquiry_believes_no_other_answer(message: Message) -> None:
    assert isinstance(ask(message, exchange=inquire(ID)).error, RemoteProtocolError)


# ---------------------------------------------------------------- offers that cannot be accepted


def object_to(**changes: object) -> Decline | None:
    offer = Offer.model_validate({**OFFER.model_dump(), **changes})
    return objection(offer, run="run", schema_hash=SCHEMA, elements=10)


def test_nothing_speaks_against_an_offer_that_fits() -> None:
    assert object_to() is None


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"version": PROTOCOL_VERSION + 1}, DeclineReason.OTHER_VERSION, f"version {PROTOCOL_VERSION}"),
        ({"run": "elsewhere"}, DeclineReason.OTHER_RUN, "'run'"),
        ({"schema_hash": OTHER_SCHEMA}, DeclineReason.OTHER_SCHEMA, SCHEMA),
        ({"elements": 11}, DeclineReason.OTHER_SCHEMA, "10 elements"),
        ({"codec": "zstd"}, DeclineReason.OTHER_CODEC, "none"),
        ({"version": 9, "run": "elsewhere", "codec": "zstd"}, DeclineReason.OTHER_VERSION, "version"),
        ({"run": "elsewhere", "elements": 11}, DeclineReason.OTHER_RUN, "'run'"),
    ],
)
def test_an_offer_that_does_not_fit_is_declined_with_what_we_have(
    changes: dict[str, object], reason: DeclineReason, detail: str
) -> None:
    decline = object_to(**changes)
    assert decline is not None
    assert (decline.id, decline.reason) == (ID, reason)
    assert detail in decline.detail


def test_the_longest_names_still_fit_into_a_decline() -> None:
    decline = objection(OFFER, run="x" * 64, schema_hash=OTHER_SCHEMA, elements=2**40 - 1)
    assert decline is not None


def test_messages_do_not_change() -> None:
    with pytest.raises(ValidationError):
        OFFER.step = 8  # type: ignore[misc]
