"""An event loop in virtual time: its clock jumps from timer to timer, so simulated hours take as long as their work."""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar

from p2p_elastic.errors import P2PElasticError

T = TypeVar("T")


class SimulationDeadlock(P2PElasticError):
    """Every task waits for something that will never come."""


class _VirtualSelector(selectors.BaseSelector):
    """Instead of sleeping until the next timer, moves the clock there."""

    def __init__(self) -> None:
        self._real = selectors.DefaultSelector()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout == 0:  # callbacks are due: sockets and threads, if any, are looked at when there are none
            return []
        events = self._real.select(0)
        if events:
            return events
        if timeout is None:
            raise SimulationDeadlock("every task waits and no timer is set")
        self.now += timeout
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def close(self) -> None:
        self._real.close()

    def get_map(self) -> Any:
        return self._real.get_map()


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock starts at 0 and jumps from timer to timer.

    Raises SimulationDeadlock if every task waits and no timer is set.
    """

    def __init__(self) -> None:
        self._virtual = _VirtualSelector()
        self._thread = threading.get_ident()
        super().__init__(self._virtual)

    def time(self) -> float:
        """Tell the virtual time.

        Returns:
            Seconds since the loop began.
        """
        return self._virtual.now

    def call_soon_threadsafe(  # type: ignore[override, unused-ignore]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Call something soon, from any thread.

        From the loop's own thread, which is that of the simulated training too, no socket wakes the loop: it does not
        sleep.

        Args:
            callback: what to call.
            *args: with which arguments.
            context: in which context; None: the present one.

        Returns:
            A handle to cancel it.
        """
        if threading.get_ident() == self._thread:
            return self.call_soon(callback, *args, context=context)
        return super().call_soon_threadsafe(callback, *args, context=context)


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time, and cancel what it left behind.

    Args:
        main: the coroutine.

    Returns:
        Its result.

    Raises:
        SimulationDeadlock: if every task waits for something that will never come.

    Example:
        >>> async def hour() -> float:
        ...     await asyncio.sleep(3600.0)
        ...     return asyncio.get_running_loop().time()
        >>> run_virtual(hour())
        3600.0
    """
    loop = VirtualClockLoop()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.run_until_complete(_cancel_others())
        loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
