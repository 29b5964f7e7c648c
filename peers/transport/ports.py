"""TCP ports of this machine: one that is free, and whether an address means one of them."""

from __future__ import annotations

import errno
import socket

from p2p_elastic.common.addresses import parse_address
from p2p_elastic.errors import ConfigError

PORT_MAX = 65535


def free_port(host: str, port: int) -> int:
    """Find the port to listen on.

    p2pd itself would silently share a port that is taken (SO_REUSEPORT).

    Args:
        host: the IP address to listen on.
        port: the port that is wanted, 1 to 65535; 0 for any free one.

    Returns:
        The port: free at this moment, and closed again.

    Raises:
        ConfigError: if the port is taken or not allowed, or the host is no address of this machine.
    """
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
            return int(probe.getsockname()[1])
    except OverflowError as error:
        raise ConfigError("port", port, "a port from 1 to 65535, or 0 for any free one") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError("port", port, f"in use on {host}; choose another, or 0 for any free one") from error
        if error.errno == errno.EACCES:
            raise ConfigError("port", port, "not allowed for this user; choose one above 1023, or 0") from error
        raise ConfigError("host", host, f"not an address of this machine ({error.strerror or error})") from error


def port_after(port: int) -> int:
    """Choose the port for direct connections if the user does not.

    Args:
        port: of libp2p; 0: any free one.

    Returns:
        The next one; 0, any free one, if there is none.

    Example:
        >>> port_after(31330), port_after(65535), port_after(0)
        (31331, 0, 0)
    """
    return port + 1 if 0 < port < PORT_MAX else 0


def is_here(address: str, port: int) -> bool:
    """Whether a multiaddr means one TCP port of this machine.

    Args:
        address: the multiaddr; a host name is never looked up, so it does not count.
        port: the TCP port.

    Returns:
        True if the address has that port and an IP address of this machine.
    """
    try:
        read = parse_address(address)
        if read.tcp_port != port or not read.host.protocol.startswith("ip"):
            return False
        free_port(read.host.value, 0)
    except ConfigError:
        return False
    return True
