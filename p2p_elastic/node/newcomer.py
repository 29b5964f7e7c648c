"""What a newcomer does before its first step: it catches up with the run; later it reports that it counts."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from p2p_elastic.node.status_board import StatusBoard
from p2p_elastic.peers.discovery.live_network import NetworkThread
from p2p_elastic.peers.membership.newcomer import Measured
from p2p_elastic.peers.peer import Peer
from p2p_elastic.rules.trial import Estimate
from p2p_elastic.screens.live import Screen
from p2p_elastic.screens.units import size
from p2p_elastic.status.schema import JoiningStatus

SCREEN_SECONDS = 0.05


class Measures(Protocol):
    """Measures losses on this peer's own examples."""

    def untrained_loss(self) -> float | None:
        """Measure the model as it is.

        Returns:
            In nats; None if there are no examples.
        """

    def own_loss(self, values: Tensor) -> Estimate | None:
        """Try parameters; for any thread.

        Args:
            values: [D].

        Returns:
            The mean loss in nats and its standard error; None if there are no examples.
        """


class Newcomer:
    """Catches up, and watches when this peer begins to count; for the thread that trains.

    Args:
        peer: the newcomer; any other peer has no `joining` status, and nothing is done.
        loop: measures losses.
        screen: told of both.
        board: the status.
    """

    def __init__(self, peer: Peer, loop: Measures, screen: Screen, board: StatusBoard) -> None:
        self._peer, self._loop, self._screen, self._board = peer, loop, screen, board
        self._told_useful = False

    def catch_up(self, thread: NetworkThread, stop: Callable[[], bool]) -> None:
        """Take the parameters of members that are ahead, if there are any.

        Args:
            thread: runs the network.
            stop: the user's wish to stop.
        """
        if self._peer.joining() is None or stop():
            return
        self._board.phase = "joining"
        untrained = self._loop.untrained_loss()
        if untrained is not None:
            self._peer.report_untrained_loss(untrained)

        async def try_out(values: Tensor) -> Measured | None:
            found = await asyncio.to_thread(self._loop.own_loss, values)
            return None if found is None else Measured(*found)

        caught = thread.spawn(self._peer.catch_up(untrained, try_out))
        while not caught.done():
            if stop():
                caught.cancel()
            self._screen.progress(self._board)
            concurrent.futures.wait([caught], SCREEN_SECONDS)
        if not caught.cancelled() and (found := caught.result()) is not None:
            self._peer.begin_with(found)
        self._say_caught_up()

    def _say_caught_up(self) -> None:
        status = self._peer.joining()
        assert status is not None, "a newcomer without a status"
        self._screen.say("caught_up", describe(status), **status.model_dump(mode="json"))

    def on_step(self) -> None:
        """Show the progress of training, and report once that this peer counts."""
        self._screen.progress(self._board)
        status = None if self._told_useful else self._peer.joining()
        if status is None or status.useful_seconds is None:
            return
        self._told_useful = True
        text = (
            f"Useful after {status.useful_seconds:.1f} s, {status.useful_steps} steps: "
            "it counts for the others from now on"
        )
        self._screen.say("useful", text, **status.model_dump(mode="json"))


def describe(status: JoiningStatus) -> str:
    """Say what came of catching up, in a line.

    Args:
        status: of the newcomer.

    Returns:
        A text for people.
    """
    if not status.caught_up:
        return f"Begins with its own parameters: {status.reason}"
    donors, loss = len(status.donors), "-" if status.loss is None else f"{status.loss:.3g}"
    untrained = "" if status.untrained_loss is None else f" (untrained {status.untrained_loss:.3g})"
    return (
        f"Caught up: {size(status.bytes_received)} from {donors} member{'s' if donors != 1 else ''} "
        f"in {status.seconds or 0.0:.1f} s, step {status.donors_step}, loss {loss}{untrained}"
    )
