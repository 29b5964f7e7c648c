"""At every peer: say whether another one can be dialled from here. With `--relay`: keep places for those that cannot.

Only members of the run are served. What is passed on is sealed by the two ends (`sealed_stream.py`), and its rate is
bounded: both ways of all circuits together.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from p2p_elastic.common.addresses import PeerAddress, usable
from p2p_elastic.common.bounded import forget_oldest
from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.errors import ExchangeError, PartnerUnreachable
from p2p_elastic.peers.relay.circuits import PROTOCOL, RELAYED, Verdict, Wish, hear, say
from p2p_elastic.peers.transport.interfaces import Host
from p2p_elastic.peers.transport.probing import probe, resolve
from p2p_elastic.peers.transport.socket_stream import SocketStream
from p2p_elastic.rate_limit import Bucket
from p2p_elastic.status.schema import RelayStatus

log = logging.getLogger(__name__)
REQUEST_SECONDS, DIAL_SECONDS = 5.0, 2.0
AT_ONCE = 32  # requests that are heard, beside circuits
ADDRESSES_MAX = 8
PLACE_SECONDS = 150.0  # asked for again every 45
PLACES_MAX, CIRCUITS_MAX, CIRCUITS_PER_PEER = 256, 64, 8
SILENT_SECONDS = 180.0  # a circuit in which nothing moves for longer is closed
PIECE_BYTES = 2**18
DIALLED_SECONDS, DIALLED_MAX = 240.0, 1024  # a verdict on the same addresses holds so long


class _Dialled(NamedTuple):
    addresses: str
    reached: bool
    until: float


class Relay:
    """Answers peers that ask for a place or a circuit. Belongs to the network thread.

    Args:
        host: opens and serves streams.
        serves: peer id -> whether it is a member that is served.
        bytes_per_second: what may be passed on, on average; None: nothing is, and only addresses are tried.
    """

    def __init__(self, host: Host[SocketStream], serves: Callable[[str], bool], bytes_per_second: float | None) -> None:
        self._host, self._serves = host, serves
        self._bucket = None if bytes_per_second is None else Bucket(bytes_per_second)
        self._places: dict[str, float] = {}  # peer id -> until when, by the event loop's clock
        self._circuits: list[frozenset[str]] = []  # the two ends of each
        self._dialled: dict[str, _Dialled] = {}
        self._requests = self._passed_on = 0

    async def serve(self) -> None:
        """From now on answer others."""
        await self._host.serve(PROTOCOL, self.answer)

    @property
    def offered(self) -> bool:
        """Whether this peer passes on what others send to each other."""
        return self._bucket is not None

    def status(self) -> RelayStatus | None:
        """Say what this peer does for others.

        Returns:
            None if it is no relay.
        """
        if self._bucket is None:
            return None
        return RelayStatus(
            places=len(self._places),
            circuits=len(self._circuits),
            bytes_passed_on=self._passed_on,
            max_bytes_per_second=self._bucket.rate,
        )

    async def answer(self, stream: SocketStream) -> None:
        """Answer one request, and pass on what belongs to it.

        Args:
            stream: of the peer that asks.
        """
        if self._requests >= AT_ONCE:
            stream.abort()
            return
        self._requests += 1
        target: SocketStream | None = None
        try:
            target = await wait_for(self._request(stream), REQUEST_SECONDS)
        except (ExchangeError, asyncio.TimeoutError) as error:
            log.info("%s asked in vain for a place or a circuit: %s", stream.partner, error)
            stream.abort()
        finally:
            self._requests -= 1
        if target is not None:
            await self._pass_on(stream, target)

    async def _request(self, stream: SocketStream) -> SocketStream | None:
        """Say a verdict. Returns the stream to the peer that was asked for, if there is one."""
        wish, text = await hear(stream)
        if not self._serves(stream.partner):
            await _end(stream, Verdict.REFUSED, "only members of the run are served")
        elif wish == Wish.PLACE:
            await _end(stream, await self._place(stream, text), stream.remote)
        elif wish == Wish.CIRCUIT and (why := self._objection(stream.partner, text)) is not None:
            await _end(stream, *why)
        elif wish == Wish.CIRCUIT:
            return await self._lead(stream, text)
        else:
            await _end(stream, Verdict.REFUSED, "an unknown wish")
        return None

    # -- places -------------------------------------------------------------------------------------------------------

    async def _place(self, stream: SocketStream, text: str) -> Verdict:
        peer, now = stream.partner, asyncio.get_running_loop().time()
        known = self._dialled.pop(peer, None)
        if known is None or known.addresses != text or known.until <= now:
            known = _Dialled(text, await self._reaches(stream, text.split("\n")), now + DIALLED_SECONDS)
        self._dialled[peer] = known
        forget_oldest(self._dialled, DIALLED_MAX)
        if known.reached:
            self._places.pop(peer, None)
            return Verdict.REACHED
        self._places = {other: until for other, until in self._places.items() if until > now}
        if self._bucket is None or (len(self._places) >= PLACES_MAX and peer not in self._places):
            return Verdict.NO_RELAY
        self._places[peer] = now + PLACE_SECONDS
        return Verdict.GRANTED

    async def _reaches(self, stream: SocketStream, addresses: Sequence[str]) -> bool:
        """Whether a port answers at one of a peer's addresses, of those that are where the peer's own stream is from.

        Others are not tried: behind two routers the same private address is two machines, and who is asked to try any
        address would scan ports for strangers.
        """
        own = usable(stream.partner, addresses[:ADDRESSES_MAX])
        return any(await asyncio.gather(*(_answers(address, stream.remote) for address in own)))

    # -- circuits -----------------------------------------------------------------------------------------------------

    def _objection(self, asker: str, target: str) -> tuple[Verdict, str] | None:
        """Why there is no circuit between two peers; None if there may be one."""
        if self._bucket is None:
            return Verdict.NO_RELAY, "this peer is no relay"
        if self._places.get(target, 0.0) <= asyncio.get_running_loop().time() or target == asker:
            return Verdict.NOT_HERE, "it has no place here"
        of_asker = sum(asker in circuit for circuit in self._circuits)
        if len(self._circuits) >= CIRCUITS_MAX or of_asker >= CIRCUITS_PER_PEER:
            return Verdict.REFUSED, "too many circuits"
        return None

    async def _lead(self, stream: SocketStream, peer: str) -> SocketStream | None:
        try:
            target = await self._host.open_stream(peer, RELAYED)
        except PartnerUnreachable as error:
            self._places.pop(peer, None)
            await _end(stream, Verdict.NOT_HERE, str(error))
            return None
        try:
            await say(target, None, stream.partner)
            await say(stream, Verdict.GRANTED, "")
        except BaseException:
            target.abort()
            raise
        return target

    async def _pass_on(self, one: SocketStream, other: SocketStream) -> None:
        """Pass on what comes, both ways, until one end closes or nothing moves any more."""
        circuit = frozenset((one.partner, other.partner))
        self._circuits.append(circuit)
        ways = [asyncio.ensure_future(self._way(*pair)) for pair in ((one, other), (other, one))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._circuits.remove(circuit)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            await other.close()
            await one.close()

    async def _way(self, source: SocketStream, target: SocketStream) -> None:
        assert self._bucket is not None, "no relay passes anything on"
        buffer, loop = memoryview(bytearray(PIECE_BYTES)), asyncio.get_running_loop()
        try:
            while count := await wait_for(source.receive_some(buffer), SILENT_SECONDS):
                await asyncio.sleep(self._bucket.wait(loop.time()))
                self._bucket.spend(count, loop.time(), loop.time())
                await wait_for(target.send(buffer[:count]), SILENT_SECONDS)
                self._passed_on += count
        except (PartnerUnreachable, asyncio.TimeoutError) as error:
            log.debug("the circuit from %s to %s ended: %s", source.partner, target.partner, error)


async def _end(stream: SocketStream, verdict: Verdict, text: str) -> None:
    """Say a verdict that is the last word: the end that reads it closes first."""
    await say(stream, verdict, text)
    try:
        await stream.receive_some(memoryview(bytearray(1)))
    except PartnerUnreachable:
        return


async def _answers(address: PeerAddress, remote: str) -> bool:
    if address.host.value != remote:
        try:
            hosts = await wait_for(resolve(address), DIAL_SECONDS)
        except (OSError, asyncio.TimeoutError):
            return False
        if remote not in hosts:
            return False
    return (await probe(address, DIAL_SECONDS)).seconds is not None
