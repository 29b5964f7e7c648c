"""The peers seen before: what is written, what is read back, and what a damaged disk does."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import stat
from collections.abc import Collection
from pathlib import Path

import pytest
from helpers.directories import manifest_of

from p2p_elastic.peers.discovery.dht_directory import RUNS_KEY, DHTDirectory, Told
from p2p_elastic.peers.discovery.dht_keys import Shown
from p2p_elastic.peers.discovery.peer_cache import FILE_BYTES_MAX, PEERS_MAX, RUNS_MAX, PeerCache, state_folder
from p2p_elastic.peers.discovery.peer_cache_sync import SAVE_AGAIN_SECONDS, SAVE_SECONDS, Remembering
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.testing.virtual_time import run_virtual

A, B, C = (Identity.generate().peer for _ in range(3))


def at(peer: str, host: int = 7) -> tuple[str, ...]:
    return (f"/ip4/10.0.0.{host}/tcp/4001/p2p/{peer}",)


def test_what_was_saved_is_there_in_another_life(tmp_path: Path) -> None:
    PeerCache(tmp_path / "deep" / "peers").save("run", (), {A: at(A), B: at(B)})
    assert PeerCache(tmp_path / "deep" / "peers").recall("run") == {A: at(A), B: at(B)}
    assert PeerCache(tmp_path / "deep" / "peers").recall("other") == {}
    [file] = (tmp_path / "deep" / "peers").iterdir()
    assert file.name == "run.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_nothing_saved_is_nothing_known(tmp_path: Path) -> None:
    assert PeerCache(tmp_path / "none").recall("run") == {}
    assert PeerCache(tmp_path / "none").recall(None, {A}) == {}


def test_without_a_name_the_runs_that_an_initial_peer_led_to_or_belongs_to_are_meant(tmp_path: Path) -> None:
    cache = PeerCache(tmp_path)
    cache.save("led", (A,), {B: at(B)})
    cache.save("belongs", (), {A: at(A), C: at(C)})
    cache.save("foreign", (C,), {"12D3other": at("12D3other")})
    assert cache.recall(None, {A}) == {A: at(A), B: at(B), C: at(C)}
    assert cache.recall(None, {"12D3nobody"}) == {}


def test_who_saves_less_does_not_wipe_out_what_is_known_and_the_newest_address_counts(tmp_path: Path) -> None:
    cache = PeerCache(tmp_path)
    cache.save("run", (A,), {A: at(A), B: at(B)})
    cache.save("run", (C,), {B: at(B, 9)})
    assert cache.recall("run") == {B: at(B, 9), A: at(A)}
    assert cache.recall(None, {A}).keys() == cache.recall(None, {C}).keys() == {A, B}


def test_only_so_many_peers_and_runs_are_kept_the_oldest_go(tmp_path: Path) -> None:
    cache = PeerCache(tmp_path)
    for number in range(RUNS_MAX + 3):
        cache.save(f"run-{number}", (), {A: at(A)})
        os.utime(tmp_path / f"run-{number}.json", (number, number))
    cache.save("last", (), {A: at(A)})
    names = {path.stem for path in tmp_path.iterdir()}
    assert names == {f"run-{number}" for number in range(4, RUNS_MAX + 3)} | {"last"}
    cache.save("last", (), {f"12D3{number}": at(A) for number in range(PEERS_MAX + 5)})
    assert len(cache.recall("last")) == PEERS_MAX
    assert A not in cache.recall("last")


def test_a_file_stays_small_whatever_addresses_there_are(tmp_path: Path) -> None:
    long = tuple(f"/dns4/{i}".ljust(199, "x") for i in range(20))
    PeerCache(tmp_path).save("run", (), {f"12D3{number}": long for number in range(PEERS_MAX)})
    assert (tmp_path / "run.json").stat().st_size <= FILE_BYTES_MAX
    assert len(PeerCache(tmp_path).recall("run")) > 20


def test_a_peer_with_no_usable_address_is_left_out(tmp_path: Path) -> None:
    PeerCache(tmp_path).save("run", (), {A: at(A), B: (), C: ("no address",)})
    assert PeerCache(tmp_path).recall("run") == {A: at(A)}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"not json",
        b"[]",
        b'{"version": 1}',
        json.dumps({"version": 2, "run": "run"}).encode(),
        json.dumps({"version": 1, "run": "run", "peers": [{"peer": A, "addresses": ["no address"]}]}).encode(),
        json.dumps({"version": 1, "run": "run", "further": 1}).encode(),
        b" " * (FILE_BYTES_MAX + 1),
    ],
    ids=lambda content: f"{len(content)} bytes",  # the same in each process of pytest-xdist: the peer's id is drawn
)
def test_a_damaged_file_is_ignored_with_a_warning_and_replaced(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    cache = PeerCache(tmp_path)
    (tmp_path / "run.json").write_bytes(content)
    assert cache.recall("run") == {}
    assert cache.recall(None, {A}) == {}
    assert [r.levelno for r in caplog.records] == [logging.WARNING] * 2
    cache.save("run", (), {A: at(A)})
    assert cache.recall("run") == {A: at(A)}


def test_the_folder_is_where_programs_keep_their_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert state_folder() == Path("/state/p2p-elastic")


# ---------------------------------------------------------------- while a peer lives


class Nobody:
    """A DHT in which there is nobody but those whose records are put here."""

    def __init__(self) -> None:
        self.records: dict[str, bytes] = {}
        self.stored: dict[str, bytes] = {}  # the last under each key
        self.met: list[str] = []
        self.neighbours: frozenset[str] = frozenset()
        self.refused = 0
        self.introductions = None

    async def put(self, key: str, body: bytes, seconds: float) -> None:
        self.stored[key] = body

    async def get(self, key: str) -> dict[str, bytes]:
        return self.records

    def hide(self, peers: frozenset[str]) -> None:
        self.hidden = peers

    async def look(self, key: str, _wanted: Collection[str] = (), _most: int = 0) -> Shown:
        return Shown(await self.get(key), len(self.records))

    async def meet(self, peer: str, addresses: tuple[str, ...]) -> None:
        self.met.append(peer)
        self.neighbours |= {peer}

    async def explore(self) -> None:
        pass

    def add(self, peer: str) -> None:
        record = PeerRecord(peer=peer, run="run", schema_hash="0" * 32, addresses=at(peer))
        self.records[peer] = record.model_dump_json().encode()


class Memory(PeerCache):
    """A cache that counts, and may fail."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.saves, self.broken = 0, False

    def save(self, *arguments: object) -> None:
        self.saves += 1
        if self.broken:
            raise OSError("disk full")
        super().save(*arguments)  # type: ignore[arg-type]


async def a_peer(nobody: Nobody, cache: PeerCache) -> tuple[DHTDirectory, Remembering]:
    identity = Identity.generate()
    directory = DHTDirectory(nobody, identity, {C: at(C)})
    directory.told = Told(at(identity.peer))
    await directory.announce(PeerRecord(peer=identity.peer, run="run", schema_hash="0" * 32))
    return directory, Remembering(cache, directory, {C: at(C)})


def test_whom_a_peer_met_is_saved_once_and_again_when_that_changed(tmp_path: Path) -> None:
    async def main() -> None:
        nobody, cache = Nobody(), Memory(tmp_path)
        directory, remembering = await a_peer(nobody, cache)
        await remembering.save()
        assert cache.saves == 0
        nobody.add(A)
        await directory.members()
        await remembering.save()
        await remembering.save()
        assert cache.saves == 1
        assert cache.recall("run") == cache.recall(None, {C}) == {A: at(A), **directory.ourselves}
        nobody.add(B)
        await directory.members()
        await remembering.save()
        assert cache.recall("run").keys() == {A, B, *directory.ourselves}

    asyncio.run(main())


def test_the_run_that_was_joined_is_remembered_even_where_all_others_have_left(tmp_path: Path) -> None:
    async def main() -> None:
        nobody, cache = Nobody(), Memory(tmp_path)
        identity = Identity.generate()
        founder = DHTDirectory(nobody, identity, {})
        directory, remembering = await a_peer(nobody, cache)
        manifest = manifest_of(identity.peer)
        founder.found(manifest)
        await founder.announce(PeerRecord(peer=identity.peer, run=manifest.run, schema_hash="0" * 32))
        nobody.records = {manifest.founder: nobody.stored[RUNS_KEY]}
        assert await directory.runs() == (manifest,)
        directory.join(manifest)
        await remembering.save()
        assert cache.recall(None, {manifest.founder}) == cache.recall(None, {C}) == dict(directory.ourselves)

    asyncio.run(main())


def test_a_disk_that_fails_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        nobody, cache = Nobody(), Memory(tmp_path)
        directory, remembering = await a_peer(nobody, cache)
        cache.broken = True
        for peer in (A, B):
            nobody.add(peer)
            await directory.members()
            await remembering.save()
        assert cache.saves == 2

    asyncio.run(main())
    assert [r.levelno for r in caplog.records if "saved" in r.message] == [logging.WARNING]


def test_it_is_looked_at_again_and_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def at_once(function: object, *arguments: object) -> object:  # virtual time knows no threads
        return function(*arguments)  # type: ignore[operator]

    monkeypatch.setattr(asyncio, "to_thread", at_once)

    async def main() -> None:
        nobody, cache = Nobody(), Memory(tmp_path)
        directory, remembering = await a_peer(nobody, cache)
        life = asyncio.ensure_future(remembering.run())
        nobody.add(A)
        await directory.members()
        await asyncio.sleep(SAVE_SECONDS)
        nobody.add(B)
        await directory.members()
        await asyncio.sleep(SAVE_AGAIN_SECONDS - SAVE_SECONDS)
        assert cache.saves == 2
        await asyncio.sleep(2 * SAVE_SECONDS)  # its file is one of the latest
        assert cache.saves == 3
        assert not life.done()

    run_virtual(main())


def test_peers_seen_before_are_tried_a_bad_address_and_ourselves_are_not(tmp_path: Path) -> None:
    async def main() -> None:
        nobody, cache = Nobody(), Memory(tmp_path)
        directory, remembering = await a_peer(nobody, cache)
        (me,) = directory.ourselves
        bad = {B: ("/ip4/10.0.0.7/tcp/x/p2p/" + B,), "12D3KooWother": at(A)}
        cache.save("run", (), {A: at(A), me: at(me), **bad})
        assert await remembering.recall("run") == 1
        assert nobody.met == []
        assert await directory.try_remembered()
        assert nobody.met == [A]

    asyncio.run(main())


def test_the_run_that_a_peer_was_in_last_is_known(tmp_path: Path) -> None:
    cache = PeerCache(tmp_path)
    assert cache.last_run_of(A) is None
    for at_ns, (run, peers) in enumerate([("first", (A, B)), ("second", (A, C)), ("third", (B, C))]):
        cache.save(run, (), {peer: at(peer) for peer in peers})
        os.utime(tmp_path / f"{run}.json", ns=(at_ns, at_ns))
    assert cache.last_run_of(A) == "second"
    assert cache.last_run_of(A, "first") == "first"
    assert cache.last_run_of(A, "third") is None
