"""The two threads of a transfer: how one ends the other."""

from __future__ import annotations

import asyncio
import threading

import pytest
import torch

from p2p_elastic.errors import PartnerUnreachable
from p2p_elastic.peers.transport.transfer_threads import TransferThreads
from p2p_elastic.protocol.chunks import Incoming, Outgoing, Vectors


class Breaking:
    """A carrier that breaks while it sends; who fills waits until it is aborted."""

    partner, headers = "partner", True

    def __init__(self) -> None:
        self.aborted = threading.Event()

    def send_now(self, header: bytes, chunk: memoryview) -> None:
        raise PartnerUnreachable("the stream broke")

    def fill_now(self, buffer: memoryview, end: float) -> None:
        assert self.aborted.wait(60.0)
        raise PartnerUnreachable("it was aborted")

    def abort(self) -> None:
        self.aborted.set()


def test_a_thread_that_fails_wakes_the_other_and_its_error_is_the_one_that_is_raised() -> None:
    vectors, carrier = Vectors(torch.zeros(10), torch.zeros(10)), Breaking()
    work = TransferThreads(carrier, Outgoing(vectors), Incoming(vectors), 60.0)
    with pytest.raises(PartnerUnreachable, match="the stream broke"):
        asyncio.run(work.run())
    assert carrier.aborted.is_set()
