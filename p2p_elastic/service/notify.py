"""What a service tells systemd while it runs: datagrams to the socket that `NOTIFY_SOCKET` names (`sd_notify`)."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping

INTERVAL_SECONDS = 5.0


class Notifier:
    """Tells systemd how this process is. Without its socket nothing happens, and nothing here is ever an error.

    Args:
        environment: that of the process.
        pid: of the process: a watchdog may be meant for another one.

    Attributes:
        interval_seconds: how often to tell; at least three times within the time of the watchdog.

    Example:
        >>> Notifier({}, pid=1).send("READY=1")
        False
    """

    def __init__(self, environment: Mapping[str, str], pid: int) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        microseconds = environment.get("WATCHDOG_USEC", "")
        for_this = environment.get("WATCHDOG_PID") in (None, str(pid))
        watchdog = int(microseconds) / 1e6 if microseconds.isascii() and microseconds.isdigit() and for_this else 0.0
        self.interval_seconds = min(INTERVAL_SECONDS, watchdog / 3 or INTERVAL_SECONDS)

    @property
    def listens(self) -> bool:
        """Whether somebody wants to be told."""
        return self._address[:1] in ("/", "@")

    def send(self, *lines: str) -> bool:
        """Tell systemd something.

        Args:
            lines: such as `READY=1`.

        Returns:
            Whether it was delivered.
        """
        if not self.listens:
            return False
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)  # a full queue is no reason to wait
            sender.sendto("\n".join(lines).encode(), address)
            return True
        return False
