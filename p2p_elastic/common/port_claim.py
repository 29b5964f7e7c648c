"""A claim on a port, so that two peers of one machine never listen on the same one."""

from __future__ import annotations

import errno
import socket

from p2p_elastic.errors import ConfigError


class PortClaim:
    """The one port that this process keeps for its p2pd, from before p2pd starts until the end.

    p2pd shares a port silently with another (SO_REUSEPORT), and begins to listen only some time after the port was
    found free: peers that start together would all find it free. The UDP port of that number, which p2pd does not use,
    is the mark: only one process can have it, it goes by the same addresses, and it is free again however the process
    ends.
    """

    _mark: socket.socket | None = None

    def take(self, host: str, port: int) -> None:
        """Keep this port, and no other any more.

        Args:
            host: IP address to listen on.
            port: TCP port that p2pd will listen on; 0 keeps nothing.

        Raises:
            ConfigError: if another process has it.
        """
        self.close()
        if port == 0:
            return
        mark = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            mark.bind((host, port))
        except (OSError, OverflowError) as error:
            mark.close()
            if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                problem = f"another peer begins there, or its UDP port is in use on {host}; choose another, or 0"
                raise ConfigError("port", port, problem) from error
            return  # no such address, or not for this user: p2pd says so when it listens
        self._mark = mark

    def close(self) -> None:
        """Keep no port any more."""
        if self._mark is not None:
            self._mark.close()
            self._mark = None
