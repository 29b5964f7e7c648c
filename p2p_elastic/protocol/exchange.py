"""The pairwise exchange as a protocol without I/O.

    initiator                                        responder
      Offer(id, run, schema, step, loss, weight) ->
                                                  <- Accept(step, loss, weight) | Decline(reason)
      Route(id, direct)                          ->    if both said how to connect directly, and have to do it first
      Lane(id, number) on each further stream  ->    if more than one was agreed, over libp2p
      ====== the vectors that the run's rule needs, at the same time, chunk by chunk, each checked ======
      Verified(id)  |  Aborted(id, reason)       ->
                                                     commits: its move is sure
                                                  <- Committed(id)  |  Aborted(id, reason)
      commits

The initiator says Verified only when it holds all it needs, so once the responder commits, the initiator can commit
too; it only has to learn that it may. If that last word is lost, `inquire` asks again under the same id, and the
responder answers from its ledger: an exchange is never applied twice, and a half exchange needs a partner that is gone
for good.

    asker                                            holder
      Fetch(id, run, schema, origin, have)       ->
                                                  <- Given(origin, step, loss) and the vector | Unchanged
                                                     | Referral(holders) | Decline(reason)

A fetch copies a snapshot that some peer (`origin`) published, or a part of the holder's own parameters: neither end
moves by it, so the two need not agree on it.

Each function here is a generator: it yields commands, gets what came of them, and returns a `Result`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator
from typing import NamedTuple

from p2p_elastic.errors import (
    ExchangeError,
    LocalProtocolError,
    PartnerUnreachable,
    RemoteProtocolError,
    SchemaMismatch,
)
from p2p_elastic.protocol.codecs import CODECS
from p2p_elastic.protocol.messages import (
    PROTOCOL_VERSION,
    Aborted,
    Accept,
    Committed,
    Decline,
    DeclineReason,
    Direct,
    Fetch,
    Given,
    Goodbye,
    Heard,
    Inquiry,
    Message,
    Offer,
    Referral,
    Route,
    Stamp,
    Tell,
    Unchanged,
    Verified,
)
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.rules.base import Facts, Stake
from p2p_elastic.rules.methods import Flow

TAKEN_BACK = "the sender's own parameters are not finite"


class Send(NamedTuple):
    """Command: send this message. Comes back with None.

    Attributes:
        message: it goes out before anything else that is yielded later.
    """

    message: Message


class Receive(NamedTuple):
    """Command: receive one message of these types. Comes back with the message.

    Attributes:
        types: the message classes that may come now; any other is the partner's fault.
    """

    types: tuple[type, ...]


class Transfer(NamedTuple):
    """Command: move vectors over the wire. Comes back with None, or with what is wrong with the vector that came.

    Attributes:
        send: whether this end sends its vector.
        receive: whether this end receives the partner's; if both, at the same time.
        whole: whether every tensor that comes must be finite; otherwise the others are taken without it.
    """

    send: bool = True
    receive: bool = True
    whole: bool = False


class Connect(NamedTuple):
    """Command: from now on vectors travel over direct connections. Comes back with None, or with why they do not.

    Attributes:
        theirs: how the partner says that it can be connected.
        streams: how many connections, each of them for both directions.
    """

    theirs: Direct
    streams: int = 1


class Widen(NamedTuple):
    """Command: from now on vectors travel over several streams. Comes back with None.

    Attributes:
        streams: their number, the one of the messages included.
    """

    streams: int


class Commit(NamedTuple):
    """Command: the exchange took place; write it down before the partner hears of it. Comes back with None."""


Command = Send | Receive | Transfer | Connect | Widen | Commit
Answer = Message | str | None


class Result(NamedTuple):
    """How an exchange ended. COMPLETED: move by `mine` and `theirs`. HALF: uncertain, `inquire`.

    Attributes:
        outcome: how it ended, seen from this end.
        mine: what this end said of itself; None if no exchange was agreed.
        theirs: what the partner said of itself; None if no exchange was agreed.
        reason: why it did not complete, or what went wrong although it did.
        centre: how fresh the centre variable is, if that is the partner's vector.
        detail: more of why it was declined, in the partner's words.
    """

    outcome: Outcome
    mine: Facts | None = None
    theirs: Facts | None = None
    reason: str | None = None
    centre: Stamp | None = None
    detail: str = ""


Exchange = Generator[Command, Answer, Result]


def facts(header: Offer | Accept) -> Facts:
    """Turn a header into the facts that a rule needs.

    Args:
        header: of either end; an Offer comes from the end that asked.

    Returns:
        The facts of the peer that sent it, with full trust.
    """
    asked = isinstance(header, Offer)
    stake = None if header.apart is None else Stake(header.apart.steps, header.apart.peers, header.apart.merge)
    centre = header.centre is not None
    return Facts(header.step, header.loss, header.weight, asked=asked, share=header.share, centre=centre, apart=stake)


def initiate(offer: Offer, flow: Flow = Flow.BOTH, agreed_to: Callable[[], None] = lambda: None) -> Exchange:
    """The side that asks.

    Args:
        offer: this peer's header.
        flow: which way parameters travel.
        agreed_to: called when the partner agreed.

    Returns:
        DECLINED, REFUSED, BROKEN, HALF or COMPLETED.

    Raises:
        RemoteProtocolError: if the partner answered what it must not.
        SchemaMismatch: if the partner accepted with another model.
        LocalProtocolError: if the driver handed in a message that was not asked for.
    """
    yield Send(offer)
    answer = yield Receive((Accept, Decline))
    _same_exchange(offer.id, answer)
    if isinstance(answer, Decline):
        return Result(Outcome.DECLINED, reason=answer.reason.value, detail=answer.detail)
    if not isinstance(answer, Accept):
        raise LocalProtocolError(f"received {type(answer).__name__}, but Accept or Decline was asked for")
    if answer.schema_hash != offer.schema_hash:
        raise SchemaMismatch(f"the partner accepted with schema {answer.schema_hash}, offered was {offer.schema_hash}")
    if answer.streams > offer.streams:
        raise RemoteProtocolError(f"accepted {answer.streams} streams, {offer.streams} were offered")
    agreed_to()
    agreed = Result(Outcome.COMPLETED, facts(offer), facts(answer), centre=answer.centre)
    direct = yield from _lead(offer, answer.direct, answer.streams)
    if answer.streams > 1 and not direct:
        yield Widen(answer.streams)
    problem = yield Transfer(send=flow is not Flow.PULL, receive=flow is not Flow.PUSH)
    if isinstance(problem, str):
        yield Send(Aborted(id=offer.id, reason=problem))
        return Result(Outcome.BROKEN if problem == TAKEN_BACK else Outcome.REFUSED, reason=problem)
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
    """The side that was asked and agrees.

    Args:
        offer: the partner's header.
        accept: this peer's header.
        flow: which way parameters travel, seen from the side that asks.

    Returns:
        REFUSED, BROKEN or COMPLETED.
    """
    yield Send(accept)
    direct = yield from _follow(accept, offer.direct, accept.streams)
    if accept.streams > 1 and not direct:
        yield Widen(accept.streams)
    problem = yield Transfer(send=flow is not Flow.PUSH, receive=flow is not Flow.PULL)
    if isinstance(problem, str):
        yield Send(Aborted(id=offer.id, reason=problem))
        return Result(Outcome.BROKEN if problem == TAKEN_BACK else Outcome.REFUSED, reason=problem)
    verdict = yield Receive((Verified, Aborted))
    _same_exchange(offer.id, verdict)
    if isinstance(verdict, Aborted):
        return Result(Outcome.BROKEN, reason=f"the partner aborted: {verdict.reason}")
    yield Commit()
    agreed = Result(Outcome.COMPLETED, facts(accept), facts(offer))
    try:
        yield Send(Committed(id=offer.id))
    except ExchangeError as error:
        return agreed._replace(reason=f"the partner may have missed the last word: {error}")
    return agreed


def inquire(exchange_id: str) -> Exchange:
    """Ask the responder whether an exchange took place. Silence raises an ExchangeError.

    Args:
        exchange_id: of the exchange that ended HALF here.

    Returns:
        COMPLETED or BROKEN, without facts.
    """
    yield Send(Inquiry(id=exchange_id))
    verdict = yield Receive((Committed, Aborted))
    _same_exchange(exchange_id, verdict)
    if isinstance(verdict, Aborted):
        return Result(Outcome.BROKEN, reason=f"the partner aborted: {verdict.reason}")
    return Result(Outcome.COMPLETED)


class Fetched(NamedTuple):
    """What came of a fetch: a snapshot, or which peers have it, or why not.

    Attributes:
        given: the header of the snapshot, if it came; its values are in the received vector.
        unchanged: whether the asker has the newest one already.
        holders: peer ids that have it, too, if this holder sent it often enough.
        reason: why nothing came.
        refused: whether something came, but no valid snapshot.
    """

    given: Given | None = None
    unchanged: bool = False
    holders: tuple[str, ...] = ()
    reason: str | None = None
    refused: bool = False


def fetch(asked: Fetch) -> Generator[Command, Answer, Fetched]:
    """Ask for a snapshot or a part; if `given` is there, its values are in the received vector.

    Args:
        asked: what is asked for.

    Returns:
        What came.

    Raises:
        RemoteProtocolError: if the holder answered what it must not.
        LocalProtocolError: if the driver handed in a message that was not asked for.
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
        raise LocalProtocolError(f"received {type(answer).__name__}, but the answer to a fetch was asked for")
    if answer.origin != asked.origin:
        raise RemoteProtocolError(f"gave a snapshot of {answer.origin}, asked for one of {asked.origin}")
    if asked.part is not None and answer.digest is None:
        raise RemoteProtocolError("gave a part without its digest")
    yield from _lead(asked, answer.direct)
    problem = yield Transfer(send=False, whole=True)
    return Fetched(reason=problem, refused=True) if isinstance(problem, str) else Fetched(given=answer)


def compare(told: Tell) -> Generator[Command, Answer, Tell | None]:
    """Tell a partner how well this peer's training goes, and hear of the partner's.

    Args:
        told: this peer's step and loss.

    Returns:
        The partner's; None if it declines.
    """
    yield Send(told)
    answer = yield Receive((Tell, Decline))
    _same_exchange(told.id, answer)
    return answer if isinstance(answer, Tell) else None


def say_goodbye(goodbye: Goodbye) -> Generator[Command, Answer, Heard | None]:
    """Tell a member that this peer leaves.

    Args:
        goodbye: what is left, and for how long.

    Returns:
        The member's answer; None if it declines to hear of it.
    """
    yield Send(goodbye)
    answer = yield Receive((Heard, Decline))
    _same_exchange(goodbye.id, answer)
    return answer if isinstance(answer, Heard) else None


def give(given: Given, theirs: Direct | None = None) -> Generator[Command, Answer, None]:
    """Send a snapshot that was asked for.

    Args:
        given: its header; the vector follows.
        theirs: how the asker says that it can be connected.

    Returns:
        None, when all is sent.
    """
    yield Send(given)
    yield from _follow(given, theirs)
    yield Transfer(receive=False)


def objection(
    offer: Offer | Fetch, *, run: str, schema_hash: str, elements: int, codecs: Collection[str] = tuple(CODECS)
) -> Decline | None:
    """Check whether an offer fits this peer at all, whatever it is doing now.

    Args:
        offer: what a partner asks for.
        run: the run that this peer trains.
        schema_hash: of this peer's model.
        elements: of this peer's vector.
        codecs: the names that this peer can decode.

    Returns:
        The Decline that says what does not fit; None if all does.
    """
    checks = (
        (
            offer.version == PROTOCOL_VERSION,
            DeclineReason.OTHER_VERSION,
            f"spoken here: version {PROTOCOL_VERSION}",
        ),
        (offer.run == run, DeclineReason.OTHER_RUN, f"this peer trains {run!r}"),
        (
            offer.schema_hash == schema_hash and offer.elements == elements,
            DeclineReason.OTHER_SCHEMA,
            f"this peer's model has schema {schema_hash} and {elements} elements",
        ),
        (offer.codec in codecs, DeclineReason.OTHER_CODEC, f"this peer knows {', '.join(codecs)}"),
    )
    for passed, reason, detail in checks:
        if not passed:
            return Decline(id=offer.id, reason=reason, detail=detail)
    return None


def _lead(asked: Offer | Fetch, theirs: Direct | None, streams: int = 1) -> Generator[Command, Answer, bool]:
    """The end that asks connects, and says whether it worked; if not, all goes on over libp2p.

    Of connections that both ends hold nothing has to be said.
    """
    if theirs is None:
        return False
    if asked.direct is None:
        raise RemoteProtocolError("answered how to connect directly, which was not asked")
    why = yield Connect(theirs, streams)
    if not theirs.held:
        yield Send(Route(id=asked.id, direct=why is None))
    elif isinstance(why, str):
        raise RemoteProtocolError(why)
    return why is None


def _follow(answer: Accept | Given, theirs: Direct | None, streams: int = 1) -> Generator[Command, Answer, bool]:
    if answer.direct is None:
        return False
    if theirs is None:
        raise LocalProtocolError("said how to connect directly, which was not asked")
    if not answer.direct.held:
        route = yield Receive((Route,))
        _same_exchange(answer.id, route)
        if not isinstance(route, Route) or not route.direct:
            return False
    why = yield Connect(theirs, streams)
    if isinstance(why, str):
        raise PartnerUnreachable(f"the partner is connected directly, this end is not: {why}")
    return True


def _same_exchange(exchange_id: str, message: Answer) -> None:
    got = getattr(message, "id", None)
    if got != exchange_id:
        raise RemoteProtocolError(f"answered exchange {got}, asked for {exchange_id}")
