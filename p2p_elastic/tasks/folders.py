"""Data sets on disk: finding them, downloading them whole or not at all, and saying what is missing."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from p2p_elastic.errors import ConfigError

DOWNLOAD_STALL_SECONDS = 20.0  # without a byte for this long a download has failed; torchvision itself waits for ever


@dataclass(frozen=True)
class Source:
    """A downloadable data set as torchvision unpacks it.

    Attributes:
        name: the task that it is for.
        files: paths inside the data folder; the set is there if all of them are.
        page: the official page of the data set.
        download: puts the files below a folder; raises OSError, HTTPException or RuntimeError.
    """

    name: str
    files: tuple[str, ...]
    page: str
    download: Callable[[Path], None]

    def missing(self, folder: Path) -> list[str]:
        """List the files that are not there.

        Args:
            folder: the data folder.

        Returns:
            Paths inside it.
        """
        return [file for file in self.files if not (folder / file).is_file()]


def default_data_dir() -> Path:
    """The data folder of a user that names none.

    Returns:
        `$P2P_ELASTIC_DATA`, or `~/.cache/p2p-elastic/data` if that is not set.
    """
    return Path(os.environ.get("P2P_ELASTIC_DATA") or "~/.cache/p2p-elastic/data").expanduser()


def data_folder(data_dir: Path | None) -> Path:
    """The data folder that a user's choice, or the lack of one, means.

    Args:
        data_dir: as it was given, with `~` perhaps; None: not given.

    Returns:
        Its path.
    """
    return default_data_dir() if data_dir is None else data_dir.expanduser()


def ensure(source: Source, folder: Path, *, also: str = "") -> None:
    """Download what is missing of a data set; write nothing if it is complete.

    Args:
        source: the data set.
        folder: the data folder; it is made if it is missing.
        also: another layout that would do as well, in words, for the error message.

    Raises:
        ConfigError: if the download failed. It says which files are missing, where to get them and where to put them.
    """
    missing = source.missing(folder)
    if not missing:
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        _download(source, folder)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        for path in made:  # perhaps the name was mistyped
            with contextlib.suppress(OSError):  # something came
                path.rmdir()
        raise ConfigError("data-dir", str(folder), _advice(source, missing, error, also)) from error


def unusable(path: Path, problem: object) -> ConfigError:
    """The error for a file or folder that is there but wrong; write `raise unusable(...)`.

    Args:
        path: of the file or folder.
        problem: what is wrong with it.

    Returns:
        The error.
    """
    return ConfigError("data-dir", str(path), f"damaged, incomplete or of another kind: {problem}; replace it")


def _download(source: Source, folder: Path) -> None:
    """Download aside, then move whole files: neither a cut line nor two peers at once leave halves."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as temporary:
        with contextlib.redirect_stdout(sys.stderr), _stall_timeout(DOWNLOAD_STALL_SECONDS):
            source.download(Path(temporary))
        for file in source.missing(folder):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (Path(temporary) / file).replace(folder / file)


@contextlib.contextmanager
def _stall_timeout(seconds: float) -> Iterator[None]:
    """Limit every wait of sockets opened meanwhile, process-wide: torchvision's downloads take no timeout argument."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _advice(source: Source, missing: list[str], error: Exception, also: str) -> str:
    reason = " ".join(str(error).split())  # torchvision's have line breaks
    absent = "all of them" if len(missing) == len(source.files) else ", ".join(missing)
    return (
        f"{source.name} needs {', '.join(source.files)} in that folder; missing: {absent}{also}. "
        f"The download failed ({type(error).__name__}: {reason}). "
        f"Get the files from {source.page}, unpack them, and name the folder with --data-dir"
    )
