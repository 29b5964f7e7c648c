"""Streams of those that are no members: each costs the peer something, and must leave nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from chaos.tickets import RUN
from p2p_elastic.errors import ExchangeError
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.protocol.framing import pack
from p2p_elastic.protocol.messages import Inquiry, Offer, Tell
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.testing.virtual_network import SimulatedNetwork

AT_ONCE = 15


def _inquiry(name: str, number: int, vector: ParameterVector) -> bytes:
    return pack(Inquiry(id=f"{number:032x}"))


def _offer(name: str, number: int, vector: ParameterVector) -> bytes:
    return pack(
        Offer(
            id=f"{number:032x}",
            peer=name,
            run="another",
            schema_hash=vector.schema_hash,
            elements=vector.elements,
            codec="none",
            step=number,
            loss=0.0,
            weight=1.0,
        )
    )


def _tell(name: str, number: int, vector: ParameterVector) -> bytes:
    return pack(Tell(id=f"{number:032x}", peer=name, run=RUN, step=number, loss=0.0))


def _garbage(name: str, number: int, vector: ParameterVector) -> bytes:
    return bytes(number % 256 for _ in range(40))


SAYINGS: tuple[Callable[[str, int, ParameterVector], bytes], ...] = (_inquiry, _inquiry, _offer, _tell, _garbage)


async def flood(network: SimulatedNetwork, peer: str, numbers: range, vector: ParameterVector) -> None:
    """Strangers with these numbers say one thing each; some then wait for an answer, some do not."""
    record = PeerRecord(peer=peer, run=RUN, schema_hash=vector.schema_hash)
    for first in range(0, len(numbers), AT_ONCE):
        await asyncio.gather(*(_say(network, record, n, vector) for n in numbers[first : first + AT_ONCE]))


async def _say(network: SimulatedNetwork, record: PeerRecord, number: int, vector: ParameterVector) -> None:
    name = f"stranger{number}"
    with contextlib.suppress(ExchangeError):  # what comes of it is the peer's concern
        stream = await network.transport(name).open(record)
        try:
            await stream.send(SAYINGS[number % len(SAYINGS)](name, number, vector))
            await asyncio.sleep(0.2)
        finally:
            if number % 3:
                stream.abort()
            else:
                await stream.close()
