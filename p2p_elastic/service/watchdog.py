"""When a peer is alive enough for the watchdog of systemd.

The network thread sends the signs of life, so they end if it hangs. They end too if the training thread hangs. A step
may take long, and so may a test of the model between two of them: a thread counts as hanging after STUCK_SECONDS
without a step, and not before ten times the longest pause that this peer has had between two steps.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator

from p2p_elastic.screens.peer import one_line
from p2p_elastic.service.notify import Notifier
from p2p_elastic.status.schema import PeerStatus

log = logging.getLogger(__name__)
STUCK_SECONDS = 1800.0
PAUSES = 10.0


class Patience:
    """Whether the training thread still goes on, as seen from outside."""

    def __init__(self) -> None:
        self._step, self._longest, self._pause = 0, 0.0, 0.0

    def alive(self, status: PeerStatus) -> bool:
        """Look at the peer.

        Args:
            status: as it is now.

        Returns:
            False if it trains, and made no step for far longer than it ever needed.
        """
        since = status.training.seconds_since_step
        if status.training.phase != "training" or since is None:
            return True
        if status.training.step != self._step:
            self._longest, self._step = max(self._longest, self._pause), status.training.step
        self._pause = since
        return since <= max(STUCK_SECONDS, PAUSES * self._longest)


async def watch(notifier: Notifier, status: Callable[[], PeerStatus]) -> None:
    """Tell systemd again and again how the peer is, until this is cancelled.

    Args:
        notifier: tells it.
        status: of the peer.
    """
    patience = Patience()
    notifier.send("READY=1")
    while notifier.listens:
        try:
            notifier.send(*_signs(status(), patience))
        except Exception:  # the peer goes on; it must not be killed for a status that cannot be told
            log.exception("no status for systemd")
            notifier.send("WATCHDOG=1")
        await asyncio.sleep(notifier.interval_seconds)


def _signs(now: PeerStatus, patience: Patience) -> Iterator[str]:
    if patience.alive(now):
        yield "WATCHDOG=1"
    if now.training.phase == "finishing":
        yield "STOPPING=1"
    yield f"STATUS={now.training.phase}: {one_line(now)}"
