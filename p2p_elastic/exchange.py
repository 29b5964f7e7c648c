"""The pairwise exchange as a protocol without I/O.

    initiator                                        responder
      Offer(id, run, schema, step, loss, weight) ->
                                                  <- Accept(step, loss, weight) | Decline(reason)
      ====== the vectors that the run's rule needs, at the same time, chunk by chunk, each checked ======
      Verified(id)  |  Aborted(id, reason)       ->
                                                     commits: its move is sure
                                                  <- Committed(id)  |  Aborted(id, reason)
      commits

The initiator says Verified only when it holds all it needs, so once the responder commits, the initiator can commit
too; it only has to learn that it may. Where that last word is lost, `inquire` asks again under the same id, and the
responder answers from its ledger: an exchange is never applied twice, and a half exchange needs a partner that is gone
for good.

    asker                                            holder
      Fetch(id, run, schema, origin, have)       ->
                                                  <- Given(origin, step, loss) and the vector | Unchanged
                                                     | Referral(holders) | Decline(reason)

A fetch copies a snapshot that some peer (`origin`) published: nobody moves by it, so nobody has to agree on it.

Each function here is a generator: it yields commands, gets what came of them, and returns a `Result`.
"""

from __future__ import annotations

from collections.abc import Generator
from enum import Enum
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, Field

from p2p_elastic.errors import ExchangeError, LocalProtocolError, RemoteProtocolError, SchemaMismatch
from p2p_elastic.rules import Facts, Flow
from p2p_elastic.status import Frozen, Outcome

PROTOCOL_VERSION = 1
CODECS = ("none",)
TERM_MAX, CLOCK_MAX, SHARE_MAX = 2**31 - 1, 2**53 - 1, 2.0**20

ExchangeId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
PeerId = Annotated[str, Field(min_length=1, max_length=128)]
RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
SchemaHash = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Group = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,32}$")]
Step = Annotated[int, Field(ge=0, lt=2**53)]
Weight = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Loss = Annotated[float, Field(allow_inf_nan=False)] | None
Share = Annotated[float, Field(ge=0.0, le=SHARE_MAX, allow_inf_nan=False)]


def printable(text: str) -> str:
    """Without what moves a cursor or hides."""
    return "".join(c if c.isprintable() else "?" for c in text)


Text = Annotated[str, Field(max_length=200), AfterValidator(printable)]
"""A stranger's words; they end in logs and on terminals."""


class DeclineReason(str, Enum):
    """Why a peer does not exchange now. An answer, not an error."""

    BUSY = "busy"  # one exchange at a time
    LEAVING = "leaving"
    NOT_TRAINING = "not-training"  # no step ended in time to take a snapshot
    NOT_FINITE = "not-finite"  # its own parameters are broken
    OTHER_RUN = "other-run"
    OTHER_SCHEMA = "other-schema"
    OTHER_CODEC = "other-codec"
    OTHER_VERSION = "other-version"
    OTHER_RULE = "other-rule"  # in this run nobody offers
    DRAINED = "drained"  # by its operator
    NOT_CENTRE = "not-centre"  # the centre variable is elsewhere
    NO_SNAPSHOT = "no-snapshot"  # none of that peer is held here


class Stamp(Frozen):
    """How fresh a copy of the centre variable is: the term of its centre, and exchanges counted since the run began."""

    term: Annotated[int, Field(ge=0, le=TERM_MAX)] = 0
    clock: Annotated[int, Field(ge=0, le=CLOCK_MAX)] = 0

    @property
    def age(self) -> tuple[int, int]:
        """The greater, the fresher."""
        return self.term, self.clock

    def counted(self) -> Stamp:
        """One exchange later. Stays at the end of its range, where only a liar brings it."""
        return Stamp(term=self.term, clock=min(self.clock + 1, CLOCK_MAX))

    def next_term(self) -> Stamp:
        """The same value under the next centre."""
        return Stamp(term=min(self.term + 1, TERM_MAX), clock=self.clock)


class Offer(Frozen):
    """The initiator's header."""

    version: Annotated[int, Field(ge=1, le=1000)] = PROTOCOL_VERSION
    id: ExchangeId
    peer: PeerId
    run: RunName
    schema_hash: SchemaHash
    elements: Annotated[int, Field(gt=0, lt=2**40)]
    codec: Annotated[str, Field(max_length=32)]
    step: Step
    loss: Loss
    weight: Weight
    share: Share = 0.0


class Accept(Frozen):
    """The responder's header: the same facts of its own. `centre` is there where its vector is the centre variable."""

    id: ExchangeId
    peer: PeerId
    schema_hash: SchemaHash
    step: Step
    loss: Loss
    weight: Weight
    share: Share = 0.0
    centre: Stamp | None = None


class Decline(Frozen):
    """No, with a reason."""

    id: ExchangeId
    reason: DeclineReason
    detail: Text = ""


class Verified(Frozen):
    """All of the partner's numbers arrived, whole and finite."""

    id: ExchangeId


class Committed(Frozen):
    """The exchange took place."""

    id: ExchangeId


class Aborted(Frozen):
    """The exchange did not take place; nobody moves."""

    id: ExchangeId
    reason: Text


class Inquiry(Frozen):
    """Did this exchange take place? Asked by its initiator, who missed the last word."""

    id: ExchangeId


class Fetch(Frozen):
    """Give me the newest snapshot of `origin` that you hold, unless it is the one of its step `have`."""

    version: Annotated[int, Field(ge=1, le=1000)] = PROTOCOL_VERSION
    id: ExchangeId
    peer: PeerId
    run: RunName
    schema_hash: SchemaHash
    elements: Annotated[int, Field(gt=0, lt=2**40)]
    codec: Annotated[str, Field(max_length=32)]
    origin: PeerId
    have: Step | None = None


class Given(Frozen):
    """Here it is; the vector follows."""

    id: ExchangeId
    origin: PeerId
    step: Step
    loss: Loss


class Unchanged(Frozen):
    """You have the newest one that is held here."""

    id: ExchangeId


class Referral(Frozen):
    """It was sent from here often enough; these have it too."""

    id: ExchangeId
    holders: Annotated[tuple[PeerId, ...], Field(min_length=1, max_length=4)]


class Tell(Frozen):
    """How well our training goes; answered by the same of the partner's. For choosing leaders."""

    id: ExchangeId
    peer: PeerId
    run: RunName
    step: Step
    loss: Loss


Message = (
    Offer | Accept | Decline | Verified | Committed | Aborted | Inquiry | Fetch | Given | Unchanged | Referral | Tell
)


class Send(NamedTuple):
    """Command: send this message. Comes back with None."""

    message: Message


class Receive(NamedTuple):
    """Command: receive one message of these types. Comes back with the message."""

    types: tuple[type, ...]


class Transfer(NamedTuple):
    """Command: send our vector and receive theirs, at the same time where both. Comes back with None, or what is wrong
    with what came."""

    send: bool = True
    receive: bool = True


class Commit(NamedTuple):
    """Command: the exchange took place; write it down before the partner hears of it. Comes back with None."""


Command = Send | Receive | Transfer | Commit
Answer = Message | str | None


class Result(NamedTuple):
    """How an exchange ended. COMPLETED: move by `mine` and `theirs`. HALF: uncertain, `inquire`.

    `centre` is there where the partner's vector is the centre variable.
    """

    outcome: Outcome
    mine: Facts | None = None
    theirs: Facts | None = None
    reason: str | None = None
    centre: Stamp | None = None


Exchange = Generator[Command, Answer, Result]


def facts(header: Offer | Accept) -> Facts:
    """The facts of the peer that sent this header."""
    asked = isinstance(header, Offer)
    return Facts(header.step, header.loss, header.weight, asked=asked, share=header.share)


def initiate(offer: Offer, flow: Flow = Flow.BOTH) -> Exchange:
    """The side that asks; parameters travel as `flow` says.

    Raises:
        RemoteProtocolError, SchemaMismatch: the partner answered what it must not.
    """
    yield Send(offer)
    answer = yield Receive((Accept, Decline))
    _same_exchange(offer.id, answer)
    if isinstance(answer, Decline):
        return Result(Outcome.DECLINED, reason=answer.reason.value)
    if not isinstance(answer, Accept):
        raise LocalProtocolError(f"received {type(answer).__name__} where Accept or Decline was asked for")
    if answer.schema_hash != offer.schema_hash:
        raise SchemaMismatch(f"the partner accepted with schema {answer.schema_hash}, ours is {offer.schema_hash}")
    agreed = Result(Outcome.COMPLETED, facts(offer), facts(answer), centre=answer.centre)
    problem = yield Transfer(send=flow is not Flow.PULL, receive=flow is not Flow.PUSH)
    if isinstance(problem, str):
        yield Send(Aborted(id=offer.id, reason=problem))
        return Result(Outcome.REFUSED, reason=problem)
    try:
        yield Send(Verified(id=offer.id))
        verdict = yield Receive((Committed, Aborted))
    except ExchangeError as error:
        return agreed._replace(outcome=Outcome.HALF, reason=str(error))
    _same_exchange(offer.id, verdict)
    if isinstance(verdict, Aborted):
        return Result(Outcome.BROKEN, reason=f"the partner aborted: {verdict.reason}")
    return agreed


def respond(offer: Offer, accept: Accept, flow: Flow = Flow.BOTH) -> Exchange:
    """The side that was asked and agrees."""
    yield Send(accept)
    problem = yield Transfer(send=flow is not Flow.PUSH, receive=flow is not Flow.PULL)
    if isinstance(problem, str):
        yield Send(Aborted(id=offer.id, reason=problem))
        return Result(Outcome.REFUSED, reason=problem)
    verdict = yield Receive((Verified, Aborted))
    _same_exchange(offer.id, verdict)
    if isinstance(verdict, Aborted):
        return Result(Outcome.BROKEN, reason=f"the partner aborted: {verdict.reason}")
    yield Commit()
    agreed = Result(Outcome.COMPLETED, facts(accept), facts(offer))
    try:
        yield Send(Committed(id=offer.id))
    except ExchangeError as error:
        return agreed._replace(reason=f"the partner may have missed our last word: {error}")
    return agreed


def inquire(exchange_id: str) -> Exchange:
    """Ask the responder whether an exchange took place: COMPLETED or BROKEN. Raises ExchangeError on silence."""
    yield Send(Inquiry(id=exchange_id))
    verdict = yield Receive((Committed, Aborted))
    _same_exchange(exchange_id, verdict)
    if isinstance(verdict, Aborted):
        return Result(Outcome.BROKEN, reason=f"the partner aborted: {verdict.reason}")
    return Result(Outcome.COMPLETED)


class Fetched(NamedTuple):
    """What came of a fetch: a snapshot, or who else has it, or why not; `refused` where what came is no snapshot."""

    given: Given | None = None
    unchanged: bool = False
    holders: tuple[str, ...] = ()
    reason: str | None = None
    refused: bool = False


def fetch(asked: Fetch) -> Generator[Command, Answer, Fetched]:
    """Ask for a snapshot; it is in the received vector where `given` is there.

    Raises:
        RemoteProtocolError: the holder answered what it must not.
    """
    yield Send(asked)
    answer = yield Receive((Given, Unchanged, Referral, Decline))
    _same_exchange(asked.id, answer)
    if isinstance(answer, Decline):
        return Fetched(reason=answer.reason.value)
    if isinstance(answer, Unchanged):
        return Fetched(unchanged=True)
    if isinstance(answer, Referral):
        return Fetched(holders=answer.holders)
    if not isinstance(answer, Given):
        raise LocalProtocolError(f"received {type(answer).__name__} where the answer to a fetch was asked for")
    if answer.origin != asked.origin:
        raise RemoteProtocolError(f"gave a snapshot of {answer.origin}, asked for one of {asked.origin}")
    problem = yield Transfer(send=False)
    return Fetched(reason=problem, refused=True) if isinstance(problem, str) else Fetched(given=answer)


def compare(told: Tell) -> Generator[Command, Answer, Tell | None]:
    """Tell a partner how our training goes, and hear of its; None where it declines."""
    yield Send(told)
    answer = yield Receive((Tell, Decline))
    _same_exchange(told.id, answer)
    return answer if isinstance(answer, Tell) else None


def give(given: Given) -> Generator[Command, Answer, None]:
    """Send a snapshot that was asked for."""
    yield Send(given)
    yield Transfer(receive=False)


def objection(offer: Offer | Fetch, *, run: str, schema_hash: str, elements: int) -> Decline | None:
    """What speaks against this offer, whatever we are doing now; None where nothing does."""
    checks = (
        (offer.version == PROTOCOL_VERSION, DeclineReason.OTHER_VERSION, f"we speak version {PROTOCOL_VERSION}"),
        (offer.run == run, DeclineReason.OTHER_RUN, f"we train {run!r}"),
        (
            offer.schema_hash == schema_hash and offer.elements == elements,
            DeclineReason.OTHER_SCHEMA,
            f"our model has schema {schema_hash} and {elements} elements",
        ),
        (offer.codec in CODECS, DeclineReason.OTHER_CODEC, f"we speak {', '.join(CODECS)}"),
    )
    for passed, reason, detail in checks:
        if not passed:
            return Decline(id=offer.id, reason=reason, detail=detail)
    return None


def _same_exchange(exchange_id: str, message: Answer) -> None:
    got = getattr(message, "id", None)
    if got != exchange_id:
        raise RemoteProtocolError(f"answered exchange {got}, asked for {exchange_id}")
