"""Asking a member: a stream within a deadline, for one conversation."""

from __future__ import annotations

import asyncio

import pytest
from helpers.peer_parts import record

from p2p_elastic.errors import ExchangeTimeout, PartnerUnreachable, RemoteProtocolError, SchemaMismatch
from p2p_elastic.peers.session.call import Call, outcome_of
from p2p_elastic.peers.session.conversation import Limits
from p2p_elastic.peers.session.deadlines import Deadlines
from p2p_elastic.peers.transport.interfaces import Stream
from p2p_elastic.protocol.messages import Inquiry
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.testing.virtual_network import SimulatedNetwork, Verdict
from p2p_elastic.testing.virtual_time import run_virtual


def test_a_call_counts_its_bytes_and_closes_its_stream_also_if_it_fails() -> None:
    async def main() -> None:
        network, ended, gave = SimulatedNetwork(), asyncio.Event(), list[tuple[int, int]]()

        async def serve(stream: Stream) -> None:
            with pytest.raises(PartnerUnreachable):  # the end of the stream
                await stream.receive_into(memoryview(bytearray(10_000)))
            ended.set()

        await network.transport("b").serve(serve)
        call = Call(network.transport("a"), record("b"), Limits(), gave=gave.append)
        with pytest.raises(ExchangeTimeout):
            async with call as conversation:
                await conversation.send(Inquiry(id="0" * 32))
                await conversation.receive((Inquiry,), 1.0)
        await ended.wait()
        assert gave == [call.traffic]
        assert (call.traffic[0] > 0, call.traffic[1]) == (True, 0)
        assert call.opened

    run_virtual(main())


def test_a_call_without_a_stream_is_unreachable_and_counts_nothing() -> None:
    async def main() -> None:
        gave = list[tuple[int, int]]()
        call = Call(SimulatedNetwork().transport("a"), record("b"), Limits(), gave=gave.append)
        with pytest.raises(PartnerUnreachable):
            async with call:
                pytest.fail("nobody is there")
        assert (call.opened, call.traffic, gave) == (False, (0, 0), [])

    run_virtual(main())


def test_a_partner_that_cannot_be_reached_in_time_is_given_up_and_waited_for_longer_the_next_time() -> None:
    async def main() -> None:
        network = SimulatedNetwork(lambda _event: Verdict(seconds=100.0))
        deadlines = Deadlines(Limits().bounds)
        deadlines.saw("b", "opening", 0.1)
        waits = deadlines.of("b", 1.0)
        with pytest.raises(PartnerUnreachable, match="no stream within"):
            await Call(network.transport("a"), record("b"), Limits(), waits).open()
        assert asyncio.get_running_loop().time() == waits.opening()
        assert deadlines.of("b", 1.0).opening() > waits.opening()

    run_virtual(main())


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ExchangeTimeout("late"), Outcome.TIMEOUT),
        (RemoteProtocolError("wrong"), Outcome.REFUSED),
        (SchemaMismatch("other"), Outcome.REFUSED),
        (PartnerUnreachable("gone"), Outcome.BROKEN),
    ],
)
def test_how_an_exchange_ended_follows_from_its_error(error: Exception, outcome: Outcome) -> None:
    assert outcome_of(error) is outcome  # type: ignore[arg-type]
