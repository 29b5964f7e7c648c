"""A TCP proxy on loopback, in a process of its own, that delays every byte: a long way to measure with."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import multiprocessing
import random
import socket
from multiprocessing.connection import Connection

HELD_BYTES_MAX = 256 * 2**20
READ_BYTES = 1 << 18
START_SECONDS = 30.0
PORTS = range(20_000, 32_000)  # below those that Linux (32768) and macOS (49152) choose from


class DelayProxy:
    """Forwards connections to a port of this machine, with a delay each way. A context manager.

    Args:
        seconds: delay of every byte.
        target: port to forward to; None chooses one that is free now.

    Attributes:
        target: port to forward to.
        port: port that it listens on, once entered.
    """

    def __init__(self, seconds: float, target: int | None = None) -> None:
        self._seconds = seconds
        self.target = _free_port() if target is None else target

    def __enter__(self) -> DelayProxy:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(self._seconds, self.target, theirs), daemon=True)
        self._process.start()
        self._ours = ours  # the proxy ends when this pipe does, however this process ends
        if not ours.poll(START_SECONDS):
            self._process.kill()
            raise TimeoutError("the delay proxy does not start")
        self.port: int = ours.recv()
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()
        self._process.terminate()
        self._process.join()


def _free_port() -> int:
    """A port that nobody else is given until it is used: kernels give those of `PORTS` only to who asks for one."""
    while True:
        port = random.choice(PORTS)  # no secret
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _serve(seconds: float, target: int, ready: Connection) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_listen(seconds, target, ready))


async def _listen(seconds: float, target: int, ready: Connection) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back, there = await asyncio.open_connection("127.0.0.1", target, limit=2 * READ_BYTES)
        except OSError:
            writer.transport.abort()
            return
        ways = _forward(reader, there, seconds), _forward(back, writer, seconds)
        await asyncio.gather(*ways, return_exceptions=True)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=2 * READ_BYTES)
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(ready.fileno(), over.set)  # the process that started this one is gone
    ready.send(server.sockets[0].getsockname()[1])
    await over.wait()


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    loop, held, changed, nbytes = (
        asyncio.get_running_loop(),
        collections.deque[tuple[float, bytes]](),
        asyncio.Event(),
        0,
    )

    async def send() -> None:
        nonlocal nbytes
        while True:
            while not held:
                changed.clear()
                await changed.wait()
            due, data = held[0]
            await asyncio.sleep(max(0.0, due - loop.time()))
            held.popleft()
            nbytes -= len(data)
            changed.set()
            if not data:
                writer.close()
                return
            writer.write(data)
            await writer.drain()

    sending = asyncio.ensure_future(send())
    try:
        while True:
            while nbytes > HELD_BYTES_MAX:
                changed.clear()
                await changed.wait()
            data = await reader.read(READ_BYTES)
            held.append((loop.time() + seconds, data))
            nbytes += len(data)
            changed.set()
            if not data:
                await sending
                return
    except OSError:
        writer.transport.abort()
    finally:
        sending.cancel()
