"""Members of the run that train another model: they are no partners, but people hear in what the models differ.

asker                                      asked
  Describe(id, run, schema_hash)       ->
                                        <- Described(id, nbytes), and the schema in chunks | Decline(reason)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from pydantic import ValidationError

from p2p_elastic.common.bounded import forget_oldest
from p2p_elastic.errors import ExchangeError, RemoteProtocolError
from p2p_elastic.parameters.schema import Schema
from p2p_elastic.peers.gossip.admission import Admission
from p2p_elastic.peers.gossip.initiator import new_id
from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.session.answers import Answers
from p2p_elastic.peers.session.call import Call
from p2p_elastic.peers.session.conversation import Conversation, Limits
from p2p_elastic.peers.state.context import LocalContext
from p2p_elastic.peers.transport.interfaces import Transport
from p2p_elastic.protocol.messages import SCHEMA_BYTES_MAX, Decline, DeclineReason, Describe, Described
from p2p_elastic.protocol.records import PeerRecord

log = logging.getLogger(__name__)
AGAIN_SECONDS = 600.0  # after which the same peer may ask, or be asked, for the same schema again
REMEMBERED = 200  # peers that asked or were asked, and hashes whose difference is known


class Describing:
    """Tells others the schema of this peer's model: each of them once in AGAIN_SECONDS.

    Args:
        local: the parts of this peer.
        admission: says which askers are heard.
    """

    def __init__(self, local: LocalContext, admission: Admission) -> None:
        self._local, self._admission = local, admission
        self._told: dict[str, float] = {}

    def register(self, answers: Answers) -> None:
        """Register the answer to those who ask for the schema.

        Args:
            answers: the table of the responder.
        """
        answers.register(Describe, self.describe)

    async def describe(self, conversation: Conversation, asked: Describe) -> None:
        """Send the schema, or say why not.

        Args:
            conversation: with the peer that asks.
            asked: says which schema is wanted.

        Raises:
            ExchangeError: if it is another peer than it says, or if the answer cannot be sent.
        """
        peer = self._admission.identify(conversation, asked.peer)
        if await self._admission.declines_other_run(conversation, asked):
            return
        local, now = self._local, asyncio.get_running_loop().time()
        text = local.vector.schema.model_dump_json().encode()
        reason: DeclineReason | None = None
        if asked.schema_hash != local.vector.schema_hash or len(text) > SCHEMA_BYTES_MAX:
            reason = DeclineReason.OTHER_SCHEMA
        elif now - self._told.get(peer, -AGAIN_SECONDS) < AGAIN_SECONDS:
            reason = DeclineReason.PACED
        if reason is not None:
            await self._admission.say_no(conversation, Decline(id=asked.id, reason=reason))
            return
        self._told[peer] = now
        forget_oldest(self._told, REMEMBERED)
        await conversation.send(Described(id=asked.id, nbytes=len(text)))
        await conversation.send_bytes(text)
        local.journal.gave(conversation.traffic)


class OtherModels:
    """Asks members that have another model for its schema: one of each schema, one after the other.

    Args:
        parts: of this peer.
    """

    def __init__(self, parts: StrategyParts) -> None:
        self._parts, self._local = parts, parts.local
        self._asked: dict[tuple[str, str], float] = {}

    @property
    def pending(self) -> bool:
        """Whether there is a member to be asked."""
        return self._next() is not None

    def _next(self) -> PeerRecord | None:
        members = self._local.members
        return next(
            (
                record
                for peer, record in sorted(members.foreign.items())
                if record.schema_hash not in members.differences and not self._asked_lately(peer, record.schema_hash)
            ),
            None,
        )

    def _asked_lately(self, peer: str, schema_hash: str) -> bool:
        if (peer, schema_hash) not in self._asked:
            return False
        return asyncio.get_running_loop().time() - self._asked[peer, schema_hash] < AGAIN_SECONDS

    async def ask(self) -> None:
        """Ask one member, if one is to be asked, and write down in what its model differs."""
        record = self._next()
        if record is None:
            return
        local = self._local
        self._asked[record.peer, record.schema_hash] = asyncio.get_running_loop().time()
        forget_oldest(self._asked, REMEMBERED)
        try:
            schema = await self._schema_of(record)
        except ExchangeError as error:
            log.info("the schema of %s: %s", record.peer, error)
            return
        difference = None if schema is None else local.vector.schema.difference(schema)
        if difference is not None:
            local.members.differs(record.schema_hash, difference)
            text = f"{record.peer} trains another model in this run: {difference}"
            log.warning("%s", text)
            local.events.add("signal", text, peer=record.peer, difference=difference)

    async def _schema_of(self, record: PeerRecord) -> Schema | None:
        """The schema that it announced; None if it declines."""
        local, parts = self._local, self._parts
        asked = Describe(
            id=new_id(parts.rng), peer=local.peer, run=local.run.context.run, schema_hash=record.schema_hash
        )
        return await fetch_schema(asked, record, parts.transport, parts.limits, local.journal.gave)


async def fetch_schema(
    asked: Describe,
    record: PeerRecord,
    transport: Transport,
    limits: Limits,
    gave: Callable[[tuple[int, int]], None] = lambda _: None,
) -> Schema | None:
    """Ask a member for the schema of its model.

    Args:
        asked: the question.
        record: of the member.
        transport: to it.
        limits: of the conversation.
        gave: told of the bytes sent and received.

    Returns:
        The schema that it announced; None if it declines.

    Raises:
        ExchangeError: if it cannot be reached, is too slow, or sends something else.
    """
    async with Call(transport, record, limits, gave=gave) as conversation:
        await conversation.send(asked)
        answer = await conversation.receive((Described, Decline), limits.idle_seconds)
        if not isinstance(answer, Described):
            return None
        if answer.id != asked.id:
            raise RemoteProtocolError(f"answered {answer.id}, asked was {asked.id}", partner=record.peer)
        return believed(await conversation.receive_bytes(answer.nbytes), record)


def believed(text: bytes, record: PeerRecord) -> Schema:
    """Read a schema, and check that it is the one that was announced.

    Args:
        text: JSON.
        record: of the peer that sent it, with the hash that it announced.

    Returns:
        The schema.

    Raises:
        RemoteProtocolError: if it is none, or another one.
    """
    try:
        schema = Schema.model_validate_json(text)
    except ValidationError as error:
        raise RemoteProtocolError(f"sent no schema: {error.errors()[0]['msg']}", partner=record.peer) from error
    if schema.hash != record.schema_hash:
        raise RemoteProtocolError(
            f"sent a schema of hash {schema.hash}, announced {record.schema_hash}", partner=record.peer
        )
    return schema
