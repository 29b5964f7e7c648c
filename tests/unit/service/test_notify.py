from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import Iterator

import pytest
from helpers.statuses import status_of

from p2p_elastic.service.notify import INTERVAL_SECONDS, Notifier
from p2p_elastic.service.watchdog import PAUSES, STUCK_SECONDS, Patience, watch
from p2p_elastic.status.schema import PeerStatus


@pytest.fixture(params=["path", "abstract"])
def service(request: pytest.FixtureRequest) -> Iterator[tuple[str, socket.socket]]:
    with tempfile.TemporaryDirectory() as folder:
        name = f"{folder}/notify"
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        receiver.settimeout(10.0)
        abstract = request.param == "abstract"
        receiver.bind("\0" + name if abstract else name)
        with receiver:
            yield ("@" + name if abstract else name), receiver


def test_lines_arrive_in_one_datagram(service: tuple[str, socket.socket]) -> None:
    address, receiver = service
    assert Notifier({"NOTIFY_SOCKET": address}, pid=1).send("READY=1", "STATUS=step 1")
    assert receiver.recv(1000) == b"READY=1\nSTATUS=step 1"


@pytest.mark.parametrize("address", ["", "relative", "@nobody-is-there", "/no/such/socket"])
def test_a_socket_that_is_away_is_no_error(address: str) -> None:
    assert not Notifier({"NOTIFY_SOCKET": address}, pid=1).send("READY=1")


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("3000000", "1", 1.0),
        ("3000000", "2", INTERVAL_SECONDS),
        ("x", "1", INTERVAL_SECONDS),
        ("", "1", INTERVAL_SECONDS),
    ],
)
def test_it_tells_three_times_within_the_time_of_its_own_watchdog(usec: str, pid: str, seconds: float) -> None:
    assert Notifier({"WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}, pid=1).interval_seconds == seconds


def test_a_peer_is_ready_once_and_alive_again_and_again(service: tuple[str, socket.socket]) -> None:
    address, receiver = service

    async def observed() -> list[bytes]:
        notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000"}, pid=1)
        watching = asyncio.ensure_future(watch(notifier, status_of))
        seen = [await asyncio.to_thread(receiver.recv, 1000) for _ in range(3)]
        watching.cancel()
        return seen

    ready, *alive = asyncio.run(observed())
    assert ready == b"READY=1"
    assert all(sign.startswith(b"WATCHDOG=1\nSTATUS=training: step 0") for sign in alive)


def test_a_status_that_cannot_be_told_does_not_let_a_peer_be_killed(service: tuple[str, socket.socket]) -> None:
    address, receiver = service

    def broken() -> PeerStatus:
        raise KeyError("step")

    async def observed() -> list[bytes]:
        watching = asyncio.ensure_future(
            watch(Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000"}, 1), broken)
        )
        seen = [await asyncio.to_thread(receiver.recv, 1000) for _ in range(3)]
        watching.cancel()
        return seen

    assert asyncio.run(observed()) == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]


def alive(patience: Patience, step: int, since: float, phase: str = "training") -> bool:
    return patience.alive(status_of(training={"phase": phase, "step": step, "seconds_since_step": since}))


def test_a_training_thread_that_hangs_is_not_alive() -> None:
    patience = Patience()
    assert alive(patience, 5, STUCK_SECONDS)
    assert not alive(patience, 5, STUCK_SECONDS + 1)
    assert alive(patience, 5, STUCK_SECONDS + 1, "joining")
    assert alive(patience, 6, 0.0)


def test_a_peer_that_has_long_steps_is_given_longer() -> None:
    patience = Patience()
    assert alive(patience, 5, STUCK_SECONDS)
    assert alive(patience, 6, 0.0)
    assert alive(patience, 6, PAUSES * STUCK_SECONDS)
    assert not alive(patience, 6, PAUSES * STUCK_SECONDS + 1)
