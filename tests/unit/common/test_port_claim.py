from __future__ import annotations

import contextlib
import socket

import pytest

from p2p_elastic.common.port_claim import PortClaim
from p2p_elastic.errors import ConfigError


def free_port() -> int:
    with socket.socket() as probe, socket.socket(type=socket.SOCK_DGRAM) as mark:
        probe.bind(("127.0.0.1", 0))
        mark.bind(probe.getsockname())
        return int(probe.getsockname()[1])


def test_of_two_peers_that_start_together_one_has_the_port() -> None:
    port = free_port()
    with contextlib.closing(PortClaim()) as first, contextlib.closing(PortClaim()) as second:
        first.take("127.0.0.1", port)
        for host in ("127.0.0.1", "0.0.0.0"):
            with pytest.raises(ConfigError, match="port: got .*another peer begins there"):
                second.take(host, port)
        second.take("127.0.0.1", 0)
        first.take("127.0.0.1", free_port())  # the other one is free again
        second.take("0.0.0.0", port)


def test_whoever_has_the_port_can_listen_on_it() -> None:
    port = free_port()
    with contextlib.closing(PortClaim()) as claim, socket.socket() as listener:
        claim.take("127.0.0.1", port)
        listener.bind(("127.0.0.1", port))
        listener.listen(1)


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 31330), ("127.0.0.1", 70000), ("nowhere", 31330)])
def test_what_else_is_wrong_is_for_the_listener_to_say(host: str, port: int) -> None:
    with contextlib.closing(PortClaim()) as claim:
        claim.take(host, port)
