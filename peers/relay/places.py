"""This peer's places at relays, if it cannot be dialled, and streams that come and go through them."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence

from p2p_elastic.common.addresses import PeerAddress, usable
from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.errors import ExchangeError, NotAdmitted, PartnerUnreachable
from p2p_elastic.peers.relay.circuits import (
    PROTOCOL,
    RELAYED,
    Answer,
    Circuit,
    Verdict,
    Wish,
    circuit_address,
    circuits,
    hear,
    hear_answer,
    say,
)
from p2p_elastic.peers.relay.sealed_stream import SealedStream, seal_answering, seal_asking
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.peers.transport.interfaces import Handler, Host, Introducing
from p2p_elastic.peers.transport.socket_stream import SocketStream
from p2p_elastic.protocol.records import PeerRecord

log = logging.getLogger(__name__)
LOOK_SECONDS = 2.0  # until somebody is there to ask
KEEP_SECONDS, JUDGED_SECONDS = 45.0, 300.0  # between two rounds if this peer cannot be dialled, and otherwise
PLACES_WANTED, ASKED_MAX = 2, 3
ASK_SECONDS, SEAL_SECONDS = 6.0, 5.0


class Places:
    """Keeps a place at some relays as long as this peer cannot be dialled. Belongs to the network thread.

    Args:
        host: opens and serves streams.
        identity: of this peer.
        introductions: by which this peer and others let each other in.
        others: the records of the other members, as they are now.
        own: this peer's own addresses, as they are now.
        changed: called when `addresses` changed.
        rng: chooses whom to ask.

    Attributes:
        reachable: whether members can dial this peer; None: nobody who could tell was asked yet.
        seen_at: the IP address at which a relay sees it, while it has a place there; None: without a place.
    """

    def __init__(
        self,
        host: Host[SocketStream],
        identity: Identity,
        introductions: Introducing,
        *,
        others: Callable[[], Sequence[PeerRecord]],
        own: Callable[[], Sequence[str]],
        changed: Callable[[], None],
        rng: random.Random,
    ) -> None:
        self._host, self._identity, self._introductions = host, identity, introductions
        self._others, self._own, self._changed, self._rng = others, own, changed, rng
        self._asked: frozenset[str] = frozenset()
        self._kept: Mapping[str, str] = {}  # relay -> the address of who has a place there; replaced whole
        self.reachable: bool | None = None
        self.seen_at: str | None = None
        self.handler: Handler | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """Those under which this peer is reached through relays."""
        return tuple(self._kept.values())

    @property
    def relays(self) -> tuple[str, ...]:
        """The peer ids of the relays."""
        return tuple(self._kept)

    async def serve(self) -> None:
        """From now on take the streams that relays bring."""
        await self._host.serve(RELAYED, self._answer)

    # -- places -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """For ever: find out whether this peer can be dialled, and keep its places if it cannot."""
        loop, due = asyncio.get_running_loop(), 0.0
        while True:
            if loop.time() >= due or self._new_relays():
                judged = await self.look()
                pause = KEEP_SECONDS if self.reachable is False else JUDGED_SECONDS
                due = loop.time() + (pause if judged else 0.0)
            await asyncio.sleep(LOOK_SECONDS)

    def _new_relays(self) -> bool:
        """Whether there are relays that were not asked yet, though another place would help."""
        if self.reachable or len(self._kept) >= PLACES_WANTED:
            return False
        return any(record.relay and record.peer not in self._asked for record in self._others())

    async def look(self) -> bool:
        """Ask some members once whether they can dial this peer; relays, if there are any.

        Returns:
            False if nobody who knows this peer was there to ask.
        """
        asked = self._chosen()
        self._asked = frozenset(record.peer for record in asked)
        answers = await asyncio.gather(*map(self._ask, asked))
        said = {record: answer for record, answer in zip(asked, answers, strict=True) if answer is not None}
        if said:
            self.reachable = _judged(said.values())
        places = {
            record.peer: circuit_address(record.peer, record.places)
            for record, answer in said.items()
            if answer.verdict is Verdict.GRANTED and not self.reachable
        }
        seen = [said[record].text for record in said if record.peer in places]
        self.seen_at = next(filter(_is_ip, seen), None)
        kept = {relay: address for relay, address in places.items() if address is not None}
        if kept != self._kept:
            self._kept = kept
            log.info("reached through %s", ", ".join(kept) or "no relay")
            self._changed()
        return bool(said)

    def _chosen(self) -> list[PeerRecord]:
        """Relays at which this peer has a place, then others, then any member that can be dialled."""
        there = [r for r in self._others() if not (r.left or circuits(r.peer, r.places))]
        self._rng.shuffle(there)
        there.sort(key=lambda record: (record.peer not in self._kept, not record.relay))
        return there[: PLACES_WANTED if any(record.relay for record in there) else ASKED_MAX]

    async def _ask(self, record: PeerRecord) -> Answer | None:
        """What a member says to this peer's wish for a place; None if it does not answer or does not know this peer."""
        try:
            answer = await wait_for(self._ask_for_place(record), ASK_SECONDS)
        except (ExchangeError, NotAdmitted, asyncio.TimeoutError) as error:
            log.info("asking %s for a place: %r", record.peer, error)
            return None
        return None if answer.verdict is Verdict.REFUSED else answer

    async def _ask_for_place(self, record: PeerRecord) -> Answer:
        stream = await self._open(record.peer, usable(record.peer, record.places))
        try:
            await say(stream, Wish.PLACE, "\n".join(self._own()))
            return await hear_answer(stream)
        finally:
            await stream.close()

    async def _open(self, peer: str, addresses: Sequence[PeerAddress]) -> SocketStream:
        await self._host.connect(peer, addresses)
        await self._introductions.ensure(peer)
        return await self._host.open_stream(peer, PROTOCOL)

    # -- streams ------------------------------------------------------------------------------------------------------

    async def reach(self, peer: str, ways: Sequence[Circuit]) -> SealedStream:
        """Open a stream to a peer through a relay.

        Args:
            peer: its id.
            ways: through which it is reached, as it says.

        Returns:
            The stream, sealed between the two.

        Raises:
            PartnerUnreachable: if no way leads to it; with what came of the last one.
        """
        problem = PartnerUnreachable("it has no relay", partner=peer)
        for way in ways:
            try:
                return await self._lead(peer, way)
            except (ExchangeError, NotAdmitted) as error:
                problem = PartnerUnreachable(f"through relay {way.relay}: {error}", partner=peer)
        raise problem

    async def _lead(self, peer: str, way: Circuit) -> SealedStream:
        stream = await self._open(way.relay, way.where)
        try:
            await say(stream, Wish.CIRCUIT, peer)
            answer = await hear_answer(stream)
            if answer.verdict is not Verdict.GRANTED:
                raise PartnerUnreachable(f"{answer.verdict.name.lower()}: {answer.text}", partner=peer)
            return await seal_asking(stream, self._identity, peer)
        except BaseException:
            stream.abort()
            raise

    async def _answer(self, stream: SocketStream) -> None:
        """Take a stream that a relay brings, if this peer has a place there."""
        try:
            if stream.partner not in self._kept or self.handler is None:
                raise PartnerUnreachable("this peer has no place there", partner=stream.partner)
            sealed = await wait_for(self._sealed(stream), SEAL_SECONDS)
        except (ExchangeError, ValueError, asyncio.TimeoutError) as error:
            log.info("a stream through relay %s came to nothing: %r", stream.partner, error)
            stream.abort()
            return
        await self.handler(sealed)

    async def _sealed(self, stream: SocketStream) -> SealedStream:
        _, asker = await hear(stream)
        return await seal_answering(stream, self._identity, asker)


def _judged(answers: Iterable[Answer]) -> bool | None:
    """Whether this peer can be dialled. Who sees it at a private address is near: that says nothing of others."""
    found = {answer.verdict for answer in answers if answer.verdict is not Verdict.REACHED or _is_global(answer.text)}
    return True if Verdict.REACHED in found else False if found else None


def _is_ip(host: str) -> bool:
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False


def _is_global(host: str) -> bool:
    return _is_ip(host) and ipaddress.ip_address(host).is_global
