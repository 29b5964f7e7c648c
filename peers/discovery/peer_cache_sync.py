"""Remembers on disk the peers that were met in the run, and recalls them when no initial peer answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping

from p2p_elastic.common.addresses import usable
from p2p_elastic.peers.discovery.dht_directory import DHTDirectory
from p2p_elastic.peers.discovery.peer_cache import PeerCache

log = logging.getLogger(__name__)
FIRST_SAVE_SECONDS = 5.0
SAVE_SECONDS = 60.0
SAVE_AGAIN_SECONDS = 600.0  # the latest runs are kept, and another process may just have written over the file


class Remembering:
    """Stands between the directory and the files. The disk is only ever waited for in another thread.

    Args:
        cache: the files.
        directory: whose members are remembered.
        initial_peers: the peer ids named on the command line.
    """

    def __init__(self, cache: PeerCache, directory: DHTDirectory, initial_peers: Collection[str]) -> None:
        self._cache, self._directory, self._initial_peers = cache, directory, initial_peers
        self._saved: tuple[str, Mapping[str, tuple[str, ...]]] | None = None
        self._saved_at = 0.0
        self._complained = False

    async def recall(self, run: str | None) -> int:
        """Let the directory look for the remembered peers of a run.

        Args:
            run: the run's name; None for the runs that the initial peers led to.

        Returns:
            How many peers they are; those without a usable address are left out.
        """
        found = await asyncio.to_thread(self._cache.recall, run, self._initial_peers)
        good = {peer: tuple(map(str, usable(peer, addresses))) for peer, addresses in found.items()}
        return self._directory.remember({peer: addresses for peer, addresses in good.items() if addresses})

    async def run(self) -> None:
        """For ever: save the peers that were met, soon after the first and then every minute, if they changed."""
        while True:
            await asyncio.sleep(FIRST_SAVE_SECONDS if self._saved is None else SAVE_SECONDS)
            await self.save()

    async def save(self) -> None:
        """Save the peers that were met and this peer, if that changed; a disk that fails is only logged, once."""
        directory, now = self._directory, asyncio.get_running_loop().time()
        run, seen = directory.run, {**directory.ourselves, **directory.known}
        joined = directory.founder is not None and directory.founder not in directory.ourselves
        fresh = self._saved == (run, seen) and now - self._saved_at < SAVE_AGAIN_SECONDS
        if run is None or fresh or not (directory.known or joined):
            return
        through = [*self._initial_peers, *([directory.founder] if directory.founder is not None else [])]
        try:
            await asyncio.to_thread(self._cache.save, run, through, seen)
        except OSError as error:
            if not self._complained:
                log.warning("peers seen cannot be saved; without an initial peer they will not be found: %s", error)
            self._complained = True
        self._saved, self._saved_at = (run, seen), now
