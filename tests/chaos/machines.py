"""Processes that can be stopped, continued and killed, all of them in one virtual time.

Every callback of the loop belongs to the process in whose context it was made. While a process is stopped its callbacks
wait, in their order, as with SIGSTOP: its clock goes on, and afterwards whatever was due happens at once. What the
network does belongs to nobody, so what was sent still arrives.
"""

from __future__ import annotations

import asyncio
import contextvars
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from p2p_elastic.testing.virtual_time import VirtualClockLoop

T = TypeVar("T")
OWNER: contextvars.ContextVar[str] = contextvars.ContextVar("owner", default="")
Waiting = tuple[list[asyncio.Handle], contextvars.Context, Callable[..., object], tuple[Any, ...]]


class MachinesLoop(VirtualClockLoop):
    """A virtual clock, and processes by name."""

    def __init__(self) -> None:
        super().__init__()
        self._stopped: dict[str, deque[Waiting]] = {}
        self._owners: weakref.WeakKeyDictionary[asyncio.Task[Any], str] = weakref.WeakKeyDictionary()
        self.set_task_factory(self._owned_task)

    def _owned_task(self, _loop: asyncio.AbstractEventLoop, main: Any, **options: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(main, loop=self, **options)
        self._owners[task] = OWNER.get()
        return task

    def own(self, owner: str) -> None:
        """The task that runs now goes on as part of that process."""
        OWNER.set(owner)
        task = asyncio.current_task()
        assert task is not None
        self._owners[task] = owner

    def tasks_of(self, owner: str) -> list[asyncio.Task[Any]]:
        """What that process has not ended yet, in the order in which it began: the order of a set is by address."""
        return [task for task, whose in list(self._owners.items()) if whose == owner and not task.done()]

    def call_soon(self, callback, *args, context=None):  # type: ignore[no-untyped-def]
        context = context or contextvars.copy_context()
        handles: list[asyncio.Handle] = []  # one, but it is not made yet
        handle = super().call_soon(self._run_if_live, handles, context, callback, args, context=context)
        handles.append(handle)
        return handle

    def call_soon_threadsafe(self, callback, *args, context=None):  # type: ignore[no-untyped-def]
        return self.call_soon(callback, *args, context=context)  # there is one thread

    def call_at(self, when, callback, *args, context=None):  # type: ignore[no-untyped-def]
        context = context or contextvars.copy_context()
        handles: list[asyncio.Handle] = []
        handle = super().call_at(when, self._run_if_live, handles, context, callback, args, context=context)
        handles.append(handle)
        return handle

    def _run_if_live(self, *due: Any) -> None:
        handles, _, callback, args = due
        waiting = self._stopped.get(OWNER.get())
        if waiting is not None:
            waiting.append(due)
        elif not handles.pop().cancelled():  # it can be until it runs, also when it was due long ago
            callback(*args)

    def stop_process(self, owner: str) -> None:
        """SIGSTOP."""
        self._stopped.setdefault(owner, deque())

    def continue_process(self, owner: str) -> None:
        """SIGCONT."""
        for due in self._stopped.pop(owner, ()):
            super().call_soon(self._run_if_live, *due, context=due[1])


def start_process(owner: str, main: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Run `main`, and all that it starts, as a process of that name."""
    context = contextvars.copy_context()
    context.run(OWNER.set, owner)
    return context.run(asyncio.ensure_future, main)


def run_machines(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` in virtual time. What it leaves behind is ended, and said: RuntimeError."""
    loop = MachinesLoop()
    try:
        result = loop.run_until_complete(main)
        left = sorted(task.get_name() for task in asyncio.all_tasks(loop))
        if left:
            raise RuntimeError(f"{len(left)} tasks are left: {left[:5]}")
        return result
    finally:
        loop.run_until_complete(end_all(asyncio.all_tasks(loop)))
        loop.close()


async def end_all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel in this order until they end: before Python 3.12 `wait_for` may swallow a cancellation."""
    left = [task for task in tasks if task is not asyncio.current_task()]
    while left:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=0.1)
        left = [task for task in left if not task.done()]
