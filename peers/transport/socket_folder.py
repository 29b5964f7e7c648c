"""The private folder of one p2pd: its Unix sockets. Any process that reaches them speaks in the peer's name.

It is locked while this process lives. That tells the next peer which folders a killed one left, and
systemd-tmpfiles(8),
which empties folders for temporary files, to leave this one alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from p2p_elastic.errors import ConfigError

PREFIX, OURS = "p2p-elastic-", "p2p"  # of its name, and of the names of all files in it
UNLOCKED = ".p2p-elastic-"  # of its name before it is locked
LONGEST_NAME = "p2pclient-" + "x" * 11 + ".sock"  # as hivemind makes them
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
LOCK = fcntl.LOCK_EX | fcntl.LOCK_NB


class SocketFolder:
    """A new folder for sockets, in TMPDIR, or in the first usual place that will do if TMPDIR does not.

    Folders that killed peers left in the places tried are removed.

    Raises:
        ConfigError: if no folder will do: Unix sockets need one that can be written, and a short name.
    """

    def __init__(self) -> None:
        problems = []
        for base in _bases():
            _remove_left(base)
            try:
                self.path, self._lock = _make(base)
                return
            except OSError as error:
                problems.append(f"{base}: {error.strerror or error}")
        allowed = "set it to a folder with a short name that can be written, for the sockets of libp2p"
        raise ConfigError("TMPDIR", os.environ.get("TMPDIR"), f"{allowed}; tried {', '.join(problems)}")

    def close(self) -> None:
        """Remove the folder, and unlock it."""
        with contextlib.suppress(OSError):  # the disk is read-only now, say: the next peer tries again
            _remove(self.path)
        os.close(self._lock)


def _bases() -> Iterator[Path]:
    """The places to try, each once."""
    places = ["/tmp", "/var/tmp"]  # noqa: S108  # what is made there is for this user only, and has a name of its own
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        places.insert(0, runtime)
    with contextlib.suppress(FileNotFoundError):  # none that Python knows can be written
        places.insert(0, tempfile.gettempdir())
    yield from map(Path, dict.fromkeys(places))


def _make(base: Path) -> tuple[Path, int]:
    """Make a folder there, and lock it. Raises OSError if that, or a socket in it, cannot be made."""
    unlocked = Path(tempfile.mkdtemp(prefix=UNLOCKED, dir=base))
    lock = os.open(unlocked, FOLDER)
    with contextlib.suppress(OSError):  # a file system without locks: then no peer can lock, and none removes it
        fcntl.flock(lock, LOCK)
    # Only now it has a name for which a peer that starts at the same time looks.
    folder = unlocked.rename(base / (PREFIX + unlocked.name.removeprefix(UNLOCKED)))
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(str(folder / LONGEST_NAME))
        (folder / LONGEST_NAME).unlink()
    except OSError:
        _remove(folder)
        os.close(lock)
        raise
    return folder, lock


def _remove_left(base: Path) -> None:
    """Remove the folders there of peers that were killed."""
    for folder in base.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, in use, gone meanwhile, or of another kind
            lock = os.open(folder, FOLDER)
            try:
                if os.fstat(lock).st_uid == os.getuid():
                    fcntl.flock(lock, LOCK)
                    _remove(folder)
            finally:
                os.close(lock)


def _remove(folder: Path) -> None:
    """Remove a folder that a peer made; of anything else in it nothing is touched. Raises OSError."""
    for path in folder.glob(f"{OURS}*"):
        path.unlink()
    folder.rmdir()
