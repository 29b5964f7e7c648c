"""How two peers of a private run show each other their tickets, and pass revocations on, over a stream of its own.

    asks      chain | revocations
    answers   1 | chain | revocations | renewed chain of the asker, or nothing
              or 0 | why the asker is not let in | revocations, if its chain was once good

Each part has its length before it. An open peer does not serve this protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import struct
from collections.abc import Sequence

from p2p_elastic.common.addresses import usable
from p2p_elastic.common.bounded import forget_oldest
from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.errors import NotAdmitted, PartnerUnreachable
from p2p_elastic.peers.admission.access_list import AccessList
from p2p_elastic.peers.admission.revocations import LISTS_BYTES_MAX
from p2p_elastic.peers.admission.tickets import CHAIN_BYTES_MAX
from p2p_elastic.peers.transport.interfaces import Host, Stream
from p2p_elastic.protocol.messages import printable
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.protocol.roles import Role

log = logging.getLogger(__name__)
PROTOCOL = "/p2p-elastic/admission/1"
SECONDS = 5.0
AT_ONCE = 32  # that are answered
RENEW_SECONDS = 30.0  # between two tries to have the own ticket renewed
INTRODUCED_MAX, COMPARED_MAX = 4096, 4096
REASON_MAX = 200
LENGTH = struct.Struct("!I")
LET_IN, REFUSED = b"\x01", b"\x00"


class Introductions:
    """Introduces this peer to others and hears others. Belongs to the network thread.

    Args:
        host: opens and serves streams.
        access: says who is let in.
        rng: chooses the issuer that renews this peer's ticket.

    Attributes:
        access: as given.
    """

    def __init__(self, host: Host[Stream], access: AccessList, rng: random.Random) -> None:
        self._host, self.access, self._rng = host, access, rng
        self._introduced: dict[str, None] = {}
        self._under_way: dict[str, asyncio.Future[None]] = {}
        self._compared: dict[tuple[str, str, str], None] = {}
        self._answering = 0
        self._renews_at = 0.0
        self._keeping: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        """From now on answer others."""
        await self._host.serve(PROTOCOL, self.answer)

    def forget(self, peer: str) -> None:
        """Introduce this peer again next time: it is not known there any more.

        Args:
            peer: that refused this one, or did not answer.
        """
        self._introduced.pop(peer, None)

    async def ensure(self, peer: str) -> None:
        """See that a connected peer knows this peer's ticket, and this one that peer's; at once in an open run.

        Args:
            peer: its id.

        Raises:
            NotAdmitted: if one of the two does not let the other in.
            PartnerUnreachable: if it does not answer.
        """
        if not self.access.private or (peer in self._introduced and self.access.allows(peer)):
            return
        asking = self._under_way.get(peer)
        if asking is None:
            asking = self._under_way[peer] = asyncio.ensure_future(self.meet(peer))
            asking.add_done_callback(lambda asked: self._end(peer, asked))
        await asyncio.shield(asking)

    def _end(self, peer: str, asked: asyncio.Future[None]) -> None:
        self._under_way.pop(peer, None)
        if not asked.cancelled():
            asked.exception()  # whoever waited for it may have given up

    async def meet(self, peer: str) -> None:
        """Introduce this peer to a connected one, whatever came before.

        Args:
            peer: its id.

        Raises:
            NotAdmitted: if one of the two does not let the other in.
            PartnerUnreachable: if it does not answer.
        """
        self.forget(peer)
        try:
            await wait_for(self._meet(peer), SECONDS)
        except asyncio.TimeoutError as error:
            raise PartnerUnreachable(f"did not show its ticket within {SECONDS:g} s", partner=peer) from error
        self._introduced[peer] = None
        forget_oldest(self._introduced, INTRODUCED_MAX)

    async def _meet(self, peer: str) -> None:
        access = self.access
        stream = await self._host.open_stream(peer, PROTOCOL)
        try:
            await stream.send(_packed(access.chain) + _packed(access.revoked))
            verdict = bytearray(1)
            await stream.receive_into(memoryview(verdict))
            if bytes(verdict) != LET_IN:
                reason = (await _receive(stream, REASON_MAX)).decode(errors="replace")
                with contextlib.suppress(PartnerUnreachable):  # earlier versions send none
                    access.merge(await _receive(stream, LISTS_BYTES_MAX))
                raise NotAdmitted(f"it does not let this peer in: {printable(reason)}")
            chain, revoked = await _receive(stream, CHAIN_BYTES_MAX), await _receive(stream, LISTS_BYTES_MAX)
            renewed = await _receive(stream, CHAIN_BYTES_MAX)
            access.hear(peer, chain, revoked)
            if renewed:
                access.renew(renewed)
        finally:
            await stream.close()

    async def is_private(self, peer: str) -> bool:
        """Whether a connected peer is in a private run.

        Args:
            peer: its id.

        Returns:
            False also if it does not answer.
        """
        try:
            stream = await wait_for(self._host.open_stream(peer, PROTOCOL), SECONDS)
            stream.abort()
        except (PartnerUnreachable, asyncio.TimeoutError):
            return False
        return True

    async def answer(self, stream: Stream) -> None:
        """Answer a peer that introduces itself.

        Args:
            stream: from it; its proven id is what the ticket has to be for.
        """
        if self._answering >= AT_ONCE:
            stream.abort()
            return
        self._answering += 1
        try:
            await wait_for(self._answer(stream), SECONDS)
        except (PartnerUnreachable, asyncio.TimeoutError) as error:
            log.info("%s introduced itself in vain: %s", stream.partner, error)
            stream.abort()
        finally:
            self._answering -= 1

    async def _answer(self, stream: Stream) -> None:
        access, peer, chain = self.access, stream.partner, b""
        try:
            chain, revoked = await _receive(stream, CHAIN_BYTES_MAX), await _receive(stream, LISTS_BYTES_MAX)
            access.hear(peer, chain, revoked)
            renewed = access.renewed(peer)
        except NotAdmitted as error:
            log.info("%s is not let in: %s", peer, error)
            # Whose issuer was revoked has to hear of it: it may have another ticket, and still meets that issuer.
            lists = access.revoked if access.knows(peer, chain) else b""
            await stream.send(REFUSED + _packed(str(error).encode()[:REASON_MAX]) + _packed(lists))
        else:
            await stream.send(LET_IN + _packed(access.chain) + _packed(access.revoked) + _packed(renewed))
        with contextlib.suppress(PartnerUnreachable):
            await stream.receive_into(memoryview(bytearray(1)))  # the end that reads the last word closes first

    def keep_soon(self, records: Sequence[PeerRecord]) -> None:
        """Begin `keep`, if the one before has ended.

        Args:
            records: of the members, each admitted.
        """
        if self._keeping is None or self._keeping.done():
            self._keeping = asyncio.ensure_future(self.keep(records))

    async def keep(self, records: Sequence[PeerRecord]) -> None:
        """After each look at the members: pass revocations on both ways, and have the own ticket renewed in time.

        Args:
            records: of the members, each admitted.
        """
        access = self.access
        if not access.private:
            return
        chosen = [r for r in records if r.revoked != access.revoked_digest and self._new(r)]
        if access.renewal_due and (now := asyncio.get_running_loop().time()) >= self._renews_at:
            self._renews_at = now + RENEW_SECONDS
            issuers = [r for r in records if access.role_of(r.peer) == Role.ISSUER]
            chosen += self._rng.sample(issuers, min(1, len(issuers)))
        for record in chosen:
            try:
                await self._host.connect(record.peer, usable(record.peer, record.addresses))
                await self.meet(record.peer)
            except (NotAdmitted, PartnerUnreachable) as error:
                log.info("introducing this peer to %s: %s", record.peer, error)

    def _new(self, record: PeerRecord) -> bool:
        """Whether the two did not compare these lists before: a member that takes none is not asked for ever."""
        key = (record.peer, record.revoked, self.access.revoked_digest)
        if key in self._compared:
            return False
        self._compared[key] = None
        forget_oldest(self._compared, COMPARED_MAX)
        return True


def _packed(data: bytes) -> bytes:
    return LENGTH.pack(len(data)) + data


async def _receive(stream: Stream, most: int) -> bytes:
    """Receive a part. Its length is checked before there is memory for it."""
    head = bytearray(LENGTH.size)
    await stream.receive_into(memoryview(head))
    (length,) = LENGTH.unpack(head)
    if length > most:
        raise NotAdmitted(f"{length} bytes where at most {most} may come")
    data = bytearray(length)
    if length:
        await stream.receive_into(memoryview(data))
    return bytes(data)
