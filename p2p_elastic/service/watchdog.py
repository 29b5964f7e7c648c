"""When a peer is alive enough for the watchdog of systemd.

The network thread sends the signs of life, so they end if it hangs. They end too if the training thread hangs. A step
may take long, and so may a test of the model between two of them: a thread counts as hanging after STUCK_SECONDS
without a step, and not before ten times the longest pause that this peer has had between two steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from p2p_elastic.screens.peer import one_line
from p2p_elastic.service.notify import Notifier
from p2p_elastic.status.schema import PeerStatus

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
    patience, ready = Patience(), True
    while notifier.listens:
        first = ("READY=1",) if ready else ()
        now = status()
        signs = ("WATCHDOG=1",) if patience.alive(now) else ()
        stopping = ("STOPPING=1",) if now.training.phase == "finishing" else ()
        notifier.send(*first, *signs, *stopping, f"STATUS={now.training.phase}: {one_line(now)}")
        ready = False
        await asyncio.sleep(notifier.interval_seconds)
