"""The token that whoever changes something at a peer has to send: a file that only its owner can read."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from p2p_elastic.errors import ConfigError
from p2p_elastic.known_peers import state_folder

KEY = "http-token-file"
TOKEN_BYTES = 32  # 256 bits
LENGTH_MIN, LENGTH_MAX = 16, 512


def default_path() -> Path:
    """Where the token is kept where no other file is named: one for all peers of this user on this machine."""
    try:
        return state_folder() / "http-token"
    except RuntimeError as error:
        raise ConfigError(KEY, None, "this user has no home folder; name a file") from error


def load_or_create(path: Path) -> tuple[str, bool]:
    """The token in that file, and whether it was made just now, because there was none.

    Peers that start at the same time agree on one.

    Raises:
        ConfigError: the file holds no token, others can read it, or it cannot be read or written.
    """
    try:
        if not path.exists():
            _make_folder(path.parent)
            created = _create(path)
        else:
            created = False
        return _read(path), created
    except OSError as error:
        raise _refused(path, f"cannot be read or written: {error.strerror}") from error


def _make_folder(folder: Path) -> None:
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    for one in reversed(missing):  # `parents=True` would not give them the mode
        one.mkdir(mode=0o700, exist_ok=True)


def _create(path: Path) -> bool:
    """Write a new token; False where somebody else was faster."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(TOKEN_BYTES) + "\n")
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)  # unlike a rename, it does not replace; and nobody sees half a token
            return True
    finally:
        draft.unlink(missing_ok=True)
    return False


def _read(path: Path) -> str:
    # Without O_NONBLOCK opening a pipe would wait for whoever writes to it.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise _refused(path, "is not a regular file")
        if mode & 0o077:
            raise _refused(path, f"others on this machine may read or change it: chmod 600 {path}")
        content = file.read(LENGTH_MAX + 3)
    token = content.removesuffix(b"\n").removesuffix(b"\r")
    if not LENGTH_MIN <= len(token) <= LENGTH_MAX or not all(0x21 <= byte <= 0x7E for byte in token):
        allowed = f"one line of {LENGTH_MIN} to {LENGTH_MAX} printable ASCII characters without spaces"
        raise _refused(path, f"{allowed}; name a new file, or delete this one, to have one made")
    return token.decode("ascii")


def _refused(path: Path, allowed: str) -> ConfigError:
    return ConfigError(KEY, str(path), allowed)
