"""The peers that this user's peers have met, on disk: those to begin with if no initial peer answers any more.

One small JSON file for each run. It only helps to find peers; their identity is proven when they are met.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from p2p_elastic.common.files import make_private_folder, replacing
from p2p_elastic.protocol.messages import Address, PeerId, RunName
from p2p_elastic.values import Frozen

log = logging.getLogger(__name__)
PEERS_MAX, THROUGH_MAX, ADDRESSES_MAX = 100, 32, 8
RUNS_MAX = 20
FILE_BYTES_MAX = 65_536
Addresses = Annotated[tuple[Address, ...], Field(min_length=1, max_length=ADDRESSES_MAX)]


class SeenPeer(Frozen):
    """A member of a run, and where it was.

    Attributes:
        peer: the peer id.
        addresses: its multiaddrs, ADDRESSES_MAX at most.
    """

    peer: PeerId
    addresses: Addresses


class KnownPeers(Frozen):
    """What is remembered of a run: the content of one file.

    Attributes:
        version: of the file's format.
        run: the run's name.
    """

    version: Literal[1] = 1
    run: RunName
    through: Annotated[tuple[PeerId, ...], Field(max_length=THROUGH_MAX)] = Field(
        default=(), description="the initial peers that led to the run, and its founder"
    )
    peers: Annotated[tuple[SeenPeer, ...], Field(max_length=PEERS_MAX)] = Field(
        default=(), description="the one seen last first"
    )


def state_folder() -> Path:
    """Find the folder for what should survive a restart, by the XDG rules.

    Returns:
        `p2p-elastic` in XDG_STATE_HOME, or in `~/.local/state`; it may not exist yet.

    Raises:
        RuntimeError: if there is no home folder.
    """
    state = os.environ.get("XDG_STATE_HOME", "")
    return (Path(state) if state.startswith("/") else Path.home() / ".local" / "state") / "p2p-elastic"


class PeerCache:
    """The files of all runs, RUNS_MAX of them. A damaged one is as good as none, with a warning.

    Args:
        folder: where the files are; made at the first `save`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def recall(self, run: str | None, initial_peers: Collection[str] = ()) -> dict[str, tuple[str, ...]]:
        """Read the peers of a run.

        Args:
            run: the run's name; None for all runs that one of `initial_peers` belongs to or led to.
            initial_peers: peer ids; they count only if `run` is None.

        Returns:
            Peer id -> addresses; empty if nothing is known or the files cannot be read.
        """
        try:
            files = self._files() if run is None else [self._path(run)]
        except OSError as error:
            log.warning("peers seen before cannot be read: %s", error)
            return {}
        found: dict[str, tuple[str, ...]] = {}
        for file in files:
            known = self._read(file)
            if known is not None and (run is not None or _leads_to(known, initial_peers)):
                found = {one.peer: one.addresses for one in known.peers} | found
        return found

    def last_run_of(self, peer: str, run: str | None = None) -> str | None:
        """Find the run that a peer was seen in last.

        Args:
            peer: the peer id.
            run: only a run of that name counts; None: any.

        Returns:
            The run's name; None if no file knows the peer.
        """
        try:
            files = self._files()
        except OSError as error:
            log.warning("peers seen before cannot be read: %s", error)
            return None
        read = (self._read(file) for file in files if run is None or file == self._path(run))
        return next((known.run for known in read if known is not None and _leads_to(known, [peer])), None)

    def save(self, run: str, through: Collection[str], peers: Mapping[str, tuple[str, ...]]) -> None:
        """Remember peers of a run, and of those already remembered as many as fit.

        Args:
            run: the run's name.
            through: ids of the initial peers that led to it, and of its founder.
            peers: peer id -> addresses, the one seen last first; one with malformed addresses is left out.

        Raises:
            OSError: if the disk does not take it.
        """
        make_private_folder(self._folder)
        before = self._read(self._path(run)) or KnownPeers(run=run)
        merged = {**peers, **{one.peer: one.addresses for one in before.peers if one.peer not in peers}}
        led = tuple(dict.fromkeys((*through, *before.through)))[:THROUGH_MAX]
        seen = [_seen(peer, addresses) for peer, addresses in merged.items()]
        kept = tuple(one for one in seen if one is not None)[:PEERS_MAX]
        with replacing(self._path(run), 0o600) as file:
            file.write(_fitting(KnownPeers(run=run, through=led, peers=kept)))
        for old in self._files()[RUNS_MAX:]:
            old.unlink(missing_ok=True)

    def _path(self, run: str) -> Path:
        return self._folder / f"{run}.json"

    def _files(self) -> list[Path]:
        """The files, the latest first."""
        files = [(path.stat().st_mtime_ns, path) for path in self._folder.glob("[!.]*.json")]
        return [path for _, path in sorted(files, reverse=True)]

    def _read(self, path: Path) -> KnownPeers | None:
        try:
            with path.open("rb") as file:
                content = file.read(FILE_BYTES_MAX + 1)
            if len(content) > FILE_BYTES_MAX:
                raise ValueError(f"larger than {FILE_BYTES_MAX} bytes")
            return KnownPeers.model_validate_json(content)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("%s is ignored: %s", path, str(error).splitlines()[0])
            return None


def _leads_to(known: KnownPeers, initial_peers: Collection[str]) -> bool:
    return not {*known.through, *(one.peer for one in known.peers)}.isdisjoint(initial_peers)


def _seen(peer: str, addresses: tuple[str, ...]) -> SeenPeer | None:
    try:
        return SeenPeer(peer=peer, addresses=addresses[:ADDRESSES_MAX])
    except ValidationError:
        return None


def _fitting(known: KnownPeers) -> bytes:
    """Write the file's content, without the peers seen longest ago that it has no room for."""
    while len(content := json.dumps(known.model_dump(), indent=1).encode()) > FILE_BYTES_MAX:
        known = known.model_copy(update={"peers": known.peers[: len(known.peers) * 9 // 10]})
    return content + b"\n" if len(content) < FILE_BYTES_MAX else content
