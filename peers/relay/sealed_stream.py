"""A stream that a relay passes on, sealed between its two ends: the relay sees how many bytes there are, and no more.

    asks                                  answers
      hello: AES?, ephemeral key       ->
                                       <-  hello, signature of both hellos and both peer ids
      signature of the same            ->

Both keys follow from the ephemeral ones (X25519, RFC 7748; HKDF, RFC 5869), each end proves its peer id by the key that
the id is made of (Ed25519), and what is sent is sealed as on direct connections. Whatever a relay does, no end takes
anybody for another peer; it can only break the stream. Source: SIGMA (Krawczyk, CRYPTO 2003), without hiding who the
ends are, which the relay knows.
"""

from __future__ import annotations

import functools
import struct

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from p2p_elastic.errors import PartnerUnreachable, RemoteProtocolError
from p2p_elastic.peers.direct.sealing import KEY_BYTES, TAG_BYTES, Seal, SealedChunks, aes_is_fast, seals
from p2p_elastic.peers.transport.identity import SIGNATURE_BYTES, Identity, peer_from_text, verify
from p2p_elastic.peers.transport.socket_stream import SocketStream
from p2p_elastic.protocol.chunks import Incoming, Outgoing

FRAME_BYTES_MAX = 2**16
LENGTH = struct.Struct("!I")
HELLO_BYTES = 1 + KEY_BYTES
ASKS, ANSWERS = b"p2p-elastic relayed stream, who asks: ", b"p2p-elastic relayed stream, who answers: "
ABOUT = b"p2p-elastic relayed stream"

_aes = functools.cache(aes_is_fast)


class SealedStream:
    """`Stream` over a stream that a relay passes on.

    Args:
        partner: the peer id of the other end, proven.
        inner: to the relay; it belongs to this stream from now on.
        outgoing: of what this end sends.
        incoming: of what it receives.
    """

    headers, relayed = False, True  # every byte is checked

    def __init__(self, partner: str, inner: SocketStream, outgoing: Seal, incoming: Seal) -> None:
        self.partner, self._inner = partner, inner
        self._outgoing, self._incoming = outgoing, incoming
        self._chunks = SealedChunks(outgoing, incoming)
        self._plain = memoryview(b"")  # received, and not asked for yet

    async def send(self, data: bytes | memoryview) -> None:
        """Send all of `data`, on the event loop.

        Args:
            data: any bytes; not kept after the call.

        Raises:
            PartnerUnreachable: if the stream broke.
        """
        whole = memoryview(data)
        for start in range(0, len(whole), FRAME_BYTES_MAX):
            plain = whole[start : start + FRAME_BYTES_MAX]
            head, sealed = LENGTH.pack(len(plain)), bytearray(len(plain) + TAG_BYTES)
            self._outgoing.seal(plain, sealed, head)
            await self._inner.send(head + sealed)

    async def receive_into(self, buffer: memoryview) -> None:
        """Fill a whole buffer, on the event loop.

        Args:
            buffer: what to fill.

        Raises:
            PartnerUnreachable: if the stream broke or ended.
        """
        filled = 0
        while filled < len(buffer):
            if not self._plain:
                self._plain = await self._frame()
            count = min(len(buffer) - filled, len(self._plain))
            buffer[filled : filled + count], self._plain = self._plain[:count], self._plain[count:]
            filled += count

    async def _frame(self) -> memoryview:
        head = await _received(self._inner, LENGTH.size)
        (length,) = LENGTH.unpack(head)
        if not 1 <= length <= FRAME_BYTES_MAX:
            raise PartnerUnreachable("the relayed stream broke: no length", partner=self.partner)
        sealed, plain = await _received(self._inner, length + TAG_BYTES), bytearray(length)
        try:
            self._incoming.open(sealed, plain, head)
        except RemoteProtocolError as error:
            raise PartnerUnreachable(f"the relayed stream broke: {error}", partner=self.partner) from error
        return memoryview(plain)

    async def transfer(self, outgoing: Outgoing | None, incoming: Incoming | None, gap_seconds: float) -> float:
        """Send and fill vectors, as `Stream.transfer` says, in one thread for each direction.

        Args:
            outgoing: what to send; None if nothing travels that way.
            incoming: what to fill; None if nothing travels that way.
            gap_seconds: how long one piece may take.

        Returns:
            The longest time that a piece took, in seconds. No thread is at work any more.
        """
        return await self._inner.transfer(outgoing, incoming, gap_seconds, self)

    async def close(self) -> None:
        """Close the stream; what was sent is in the hands of p2pd, or of the relay."""
        await self._inner.close()

    def abort(self) -> None:
        """Close at once, and wake every thread that waits for it."""
        self._inner.abort()

    # -- in a thread --------------------------------------------------------------------------------------------------

    def send_now(self, _header: bytes, chunk: memoryview) -> None:
        """Send a chunk from a thread; it has no header.

        Args:
            chunk: its bytes.

        Raises:
            ExchangeTimeout: if nothing moved, either way, within the socket's timeout.
            PartnerUnreachable: if the stream broke.
        """
        self._inner.send_now(b"", self._chunks.seal(chunk))

    def fill_now(self, buffer: memoryview, end: float) -> None:
        """Fill a whole buffer from a thread.

        Args:
            buffer: what to fill: exactly one chunk.
            end: by when, in monotonic seconds.

        Raises:
            ExchangeTimeout: if nothing came within the socket's timeout, or not all of it by `end`.
            PartnerUnreachable: if the stream broke or ended, or something was changed on its way.
        """
        self._inner.fill_now(self._chunks.room(len(buffer)), end)
        self._chunks.open(buffer, self.partner)


async def seal_asking(stream: SocketStream, identity: Identity, partner: str) -> SealedStream:
    """Seal a stream that this end asked a relay for. It has no deadline of its own.

    Args:
        stream: to the relay, which passes it on.
        identity: of this end.
        partner: the peer id that the other end has to prove.

    Returns:
        The sealed stream.

    Raises:
        PartnerUnreachable: if the stream broke, or somebody else is at the other end.
    """
    key, mine = _hello()
    await stream.send(mine)
    theirs = await _received(stream, HELLO_BYTES)
    said = mine + theirs + identity.peer_bytes + peer_from_text(partner)
    await _check(stream, partner, ANSWERS + said)
    await stream.send(identity.sign(ASKS + said))
    outgoing, incoming = _seals(key, mine, theirs, theirs, partner)
    return SealedStream(partner, stream, outgoing, incoming)


async def seal_answering(stream: SocketStream, identity: Identity, partner: str) -> SealedStream:
    """Seal a stream that a relay brings. It has no deadline of its own.

    Args:
        stream: from the relay.
        identity: of this end.
        partner: the peer id that the other end has to prove; so far the relay says it.

    Returns:
        The sealed stream.

    Raises:
        PartnerUnreachable: if the stream broke, or somebody else is at the other end.
    """
    key, mine = _hello()
    theirs = await _received(stream, HELLO_BYTES)
    said = theirs + mine + peer_from_text(partner) + identity.peer_bytes
    await stream.send(mine + identity.sign(ANSWERS + said))
    await _check(stream, partner, ASKS + said)
    incoming, outgoing = _seals(key, theirs, mine, theirs, partner)
    return SealedStream(partner, stream, outgoing, incoming)


def _hello() -> tuple[X25519PrivateKey, bytes]:
    key = X25519PrivateKey.generate()
    return key, bytes([_aes()]) + key.public_key().public_bytes_raw()


async def _check(stream: SocketStream, partner: str, said: bytes) -> None:
    if not verify(peer_from_text(partner), await _received(stream, SIGNATURE_BYTES), said):
        raise PartnerUnreachable("the relay leads to somebody else", partner=partner)


def _seals(key: X25519PrivateKey, asks: bytes, answers: bytes, theirs: bytes, partner: str) -> tuple[Seal, Seal]:
    """The seals of who asks and of who answers, by the two hellos and the one that came."""
    try:
        shared = key.exchange(X25519PublicKey.from_public_bytes(theirs[1:]))
    except ValueError as error:  # a point of small order
        raise PartnerUnreachable("the other end has no key", partner=partner) from error
    keys = HKDF(SHA256(), 2 * KEY_BYTES, asks + answers, ABOUT).derive(shared)
    return seals(keys, aes=bool(asks[0]) and bool(answers[0]))


async def _received(stream: SocketStream, count: int) -> bytes:
    data = bytearray(count)
    await stream.receive_into(memoryview(data))
    return bytes(data)
