"""A TCP proxy before each peer, in a thread of its own: what goes over a link between two peers can be troubled."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")
HOST = "127.0.0.1"
CHUNK_BYTES = 1 << 16
UNKNOWN = "?"
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST


class Trouble(NamedTuple):
    """What happens on a link: `cut` resets it and each new one, `hole` swallows, `delay` holds each chunk back for
    `amount` seconds, `corrupt` changes one byte of a chunk with probability `amount`."""

    kind: str
    amount: float = 0.0


@dataclass
class _Link:
    """One TCP connection through a proxy: who dialled whom."""

    pair: frozenset[str]
    writers: tuple[asyncio.StreamWriter, ...]

    def reset(self) -> None:
        for writer in self.writers:
            if not writer.transport.is_closing():
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()


@dataclass
class _Front:
    server: asyncio.Server
    port: int  # of the peer behind
    links: set[_Link] = field(default_factory=set)


class Proxies:
    """All proxies. libp2p dials from the port that it listens on, so a proxy knows which peer calls."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._fronts: dict[str, _Front] = {}
        self._links: dict[int, _Link] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._troubles: dict[frozenset[str], Trouble] = {}
        self._changed = asyncio.Event()
        self.done: Counter[str] = Counter()  # connections, chunks passed, delayed, corrupted, held; resets

    def __enter__(self) -> Proxies:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30.0)

    def add(self, name: str, port: int) -> int:
        """Stand before the peer that listens on `port`. Returns the port to announce."""
        return self._call(self._add(name, port))

    def trouble(self, one: str, other: str, trouble: Trouble | None) -> None:
        """From now on this happens between the two; None is nothing any more."""
        self._call(self._set(frozenset({one, other}), trouble))

    def heal(self) -> None:
        """Nothing is troubled any more."""
        for pair in list(self._troubles):
            self._call(self._set(pair, None))

    @property
    def open_links(self) -> int:
        return len(self._links)

    # -- in the thread ------------------------------------------------------------------------------------------------

    async def _add(self, name: str, port: int) -> int:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            await self._serve(name, port, reader, writer)

        server = await asyncio.start_server(accept, HOST, 0)
        self._fronts[name] = _Front(server, port)
        return int(server.sockets[0].getsockname()[1])

    def _caller(self, writer: asyncio.StreamWriter) -> str:
        port = writer.get_extra_info("peername")[1]
        return next((name for name, front in self._fronts.items() if front.port == port), UNKNOWN)

    async def _serve(self, name: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        caller = self._caller(writer)
        self.done[f"connections of {'a known peer' if caller != UNKNOWN else 'an unknown port'}"] += 1
        try:
            there, onwards = await asyncio.open_connection(HOST, port)
        except OSError:
            _Link(frozenset(), (writer,)).reset()
            return
        link = _Link(frozenset({caller, name}), (writer, onwards))
        self._links[id(link)] = link
        try:
            if self._trouble_of(link.pair) == Trouble("cut"):
                return
            pumps = [asyncio.ensure_future(self._pump(link, *way)) for way in ((reader, onwards), (there, writer))]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            del self._links[id(link)]
            link.reset()

    async def _pump(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(CHUNK_BYTES):
                writer.write(await self._troubled(link, data))
                await writer.drain()
        except OSError:
            return

    async def _troubled(self, link: _Link, data: bytes) -> bytes:
        trouble = self._trouble_of(link.pair)
        if trouble is not None and trouble.kind == "hole":
            self.done["chunks held"] += 1
            while (trouble := self._trouble_of(link.pair)) is not None and trouble.kind == "hole":
                self._changed.clear()
                await self._changed.wait()
        if trouble is not None and trouble.kind == "delay":
            self.done["chunks delayed"] += 1
            await asyncio.sleep(trouble.amount)
        if trouble is not None and trouble.kind == "corrupt" and self._rng.random() < trouble.amount:
            self.done["chunks corrupted"] += 1
            at = self._rng.randrange(len(data))
            data = data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
        self.done["chunks passed"] += 1
        return data

    def _trouble_of(self, pair: frozenset[str]) -> Trouble | None:
        if UNKNOWN not in pair:
            return self._troubles.get(pair)
        named = pair - {UNKNOWN}  # it may be any: take part in whatever happens to the one that we know
        return next((trouble for troubled, trouble in self._troubles.items() if named & troubled), None)

    async def _set(self, pair: frozenset[str], trouble: Trouble | None) -> None:
        if trouble is None:
            self._troubles.pop(pair, None)
        else:
            self._troubles[pair] = trouble
        self._changed.set()
        for link in list(self._links.values()):
            if trouble == Trouble("cut") and self._trouble_of(link.pair) == trouble:
                self.done["connections reset"] += 1
                link.reset()

    async def _close(self) -> None:
        self._troubles.clear()
        self._changed.set()
        for front in self._fronts.values():
            front.server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
