"""The further streams of an exchange: opened by who asks, awaited by who answers."""

from __future__ import annotations

import asyncio

import pytest
from helpers.peer_parts import ID, record

from p2p_elastic.errors import ExchangeTimeout, RemoteProtocolError
from p2p_elastic.peers.session.commit_log import Key
from p2p_elastic.peers.session.conversation import Conversation, Limits
from p2p_elastic.peers.session.parallel_streams import AwaitedLanes, Lanes
from p2p_elastic.peers.transport.interfaces import Stream
from p2p_elastic.protocol.messages import Lane
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

KEY, SECONDS = Key("asker", ID), 5.0


async def opened(network: SimulatedNetwork) -> Stream:
    return await network.transport("asker").open(record("asked"))


async def served(network: SimulatedNetwork) -> asyncio.Queue[Stream]:
    """The streams that "asked" gets; each stays open until the test ends."""
    streams = asyncio.Queue[Stream]()

    async def keep(stream: Stream) -> None:
        streams.put_nowait(stream)
        await asyncio.Event().wait()

    await network.transport("asked").serve(keep)
    return streams


def test_a_stream_that_is_opened_says_of_which_exchange_it_is_and_closes_with_all_others() -> None:
    async def main() -> None:
        network = SimulatedNetwork()
        streams = await served(network)
        lanes = Lanes(lambda: opened(network), ID)
        for number in (1, 2):
            await lanes.open(number)
            said = await Conversation(await streams.get(), Limits()).receive((Lane,), 1.0)
            assert said == Lane(id=ID, number=number)
        await lanes.close()
        assert not network.streams["asker"]

    run_virtual(main())


def test_a_stream_that_comes_is_given_to_the_exchange_that_awaits_it_until_that_is_over() -> None:
    async def main() -> None:
        network, awaited = SimulatedNetwork(), AwaitedLanes(SECONDS)
        await served(network)
        stream = await opened(network)
        with awaited.expect(KEY, 2) as lane:
            joined = asyncio.ensure_future(awaited.join(KEY, 1, stream))
            assert await lane(1) is stream
            assert not joined.done()
        await asyncio.wait_for(joined, 1.0)

    run_virtual(main())


@pytest.mark.parametrize(("key", "number"), [(KEY, 2), (Key("asker", "1" * 32), 1), (Key("other", ID), 1)])
def test_a_stream_that_nobody_awaits_is_refused(key: Key, number: int) -> None:
    async def main() -> None:
        network, awaited = SimulatedNetwork(), AwaitedLanes(SECONDS)
        await served(network)
        with awaited.expect(KEY, 2), pytest.raises(RemoteProtocolError, match="not awaited"):
            await awaited.join(key, number, await opened(network))

    run_virtual(main())


def test_a_stream_comes_once_and_only_while_the_exchange_lasts() -> None:
    async def main() -> None:
        network, awaited = SimulatedNetwork(), AwaitedLanes(SECONDS)
        await served(network)
        stream = await opened(network)
        with awaited.expect(KEY, 2) as lane:
            first = asyncio.ensure_future(awaited.join(KEY, 1, stream))
            await lane(1)
            with pytest.raises(RemoteProtocolError):
                await awaited.join(KEY, 1, stream)
        await first
        with pytest.raises(RemoteProtocolError):
            await awaited.join(KEY, 1, stream)

    run_virtual(main())


def test_a_stream_that_does_not_come_ends_the_wait_in_time() -> None:
    async def main() -> None:
        with AwaitedLanes(SECONDS).expect(KEY, 3) as lane:
            with pytest.raises(ExchangeTimeout, match="stream 2 of 3"):
                await lane(2)
            assert asyncio.get_running_loop().time() == SECONDS

    run_virtual(main())
