"""The processes of a chaos run: what a stopped one misses, and what it catches up on."""

from __future__ import annotations

import asyncio

import pytest
from chaos.machines import MachinesLoop, run_machines, start_process


def the_loop() -> MachinesLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, MachinesLoop)
    return loop


def test_what_is_due_while_a_process_is_stopped_happens_in_its_order_once_it_goes_on() -> None:
    done: list[str] = []

    async def process() -> None:
        loop = the_loop()
        for seconds, name in ((1.0, "first"), (2.0, "second"), (9.0, "last")):
            loop.call_later(seconds, done.append, name)

    async def main() -> None:
        await start_process("a", process())
        the_loop().stop_process("a")
        await asyncio.sleep(5.0)
        assert done == []
        the_loop().continue_process("a")
        await asyncio.sleep(1.0)
        assert done == ["first", "second"]
        await asyncio.sleep(5.0)
        assert done == ["first", "second", "last"]

    run_machines(main())


@pytest.mark.parametrize("schedule", ["call_soon", "call_later"])
@pytest.mark.parametrize("when", ["while it is stopped", "as it goes on"])
def test_what_is_cancelled_before_it_runs_never_does(schedule: str, when: str) -> None:
    """As in asyncio: a handle can be cancelled until its callback begins, also when that is due already."""
    done: list[str] = []
    handles: list[asyncio.Handle] = []

    def cancel() -> None:
        handles[0].cancel()
        done.append("cancelled")

    async def process() -> None:
        loop = the_loop()
        if when == "as it goes on":
            loop.call_later(0.5, cancel)
        later = loop.call_later(1.0, done.append, "ran")
        handles.append(later)

    async def process_at_once() -> None:
        loop = the_loop()
        loop.stop_process("a")
        if when == "as it goes on":
            loop.call_soon(cancel)
        handles.append(loop.call_soon(done.append, "ran"))

    async def main() -> None:
        task = start_process("a", process() if schedule == "call_later" else process_at_once())
        await asyncio.sleep(0.1)
        the_loop().stop_process("a")
        await asyncio.sleep(5.0)
        if when == "while it is stopped":
            cancel()
        the_loop().continue_process("a")
        await task
        await asyncio.sleep(0.1)

    run_machines(main())
    assert done == ["cancelled"]


def test_a_process_that_was_stopped_past_a_time_limit_goes_on_with_what_arrived_in_time() -> None:
    """From Python 3.12 on `wait_for` is an `asyncio.timeout`, which asserts that its timer does not outlive it."""
    said: list[str] = []

    async def process(arrival: asyncio.Future[None]) -> None:
        await asyncio.wait_for(arrival, 2.0)
        said.append("arrived")

    async def main() -> None:
        loop = the_loop()
        loop.set_exception_handler(lambda _loop, context: said.append(context["message"]))
        arrival = loop.create_future()
        task = start_process("a", process(arrival))
        await asyncio.sleep(1.0)
        the_loop().stop_process("a")
        arrival.set_result(None)  # by the network, which goes on
        await asyncio.sleep(5.0)
        the_loop().continue_process("a")
        await task

    run_machines(main())
    assert said == ["arrived"]
