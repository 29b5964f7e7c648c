"""The token that a client has to send to change something at a peer: a file that only its owner can read."""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path

from p2p_elastic.common.files import creating, make_private_folder, read_private
from p2p_elastic.errors import ConfigError
from p2p_elastic.peers.discovery.peer_cache import state_folder

KEY = "http-token-file"
TOKEN_BYTES = 32  # 256 bits
LENGTH_MIN, LENGTH_MAX = 16, 512


def default_path() -> Path:
    """Choose the file of the token if no other is named: one for all peers of this user on this machine.

    Returns:
        The path; its folder may be missing.

    Raises:
        ConfigError: if this user has no home folder.
    """
    try:
        return state_folder() / "http-token"
    except RuntimeError as error:
        raise ConfigError(KEY, None, "this user has no home folder; name a file") from error


def load_or_create(path: Path) -> tuple[str, bool]:
    """Read the token, or make one if there is none. Peers that start at the same time agree on one.

    Args:
        path: of the file.

    Returns:
        The token, and whether it was made just now.

    Raises:
        ConfigError: if the file holds no token, others can read it, or it cannot be read or written.
    """
    try:
        if not path.exists():
            make_private_folder(path.parent)
            created = _create(path)
        else:
            created = False
        return _read(path), created
    except OSError as error:
        raise _refused(path, f"cannot be read or written: {error.strerror}") from error


def _create(path: Path) -> bool:
    """Write a new token; False if another process was faster."""
    with contextlib.suppress(FileExistsError):
        with creating(path, 0o600) as file:
            file.write(secrets.token_urlsafe(TOKEN_BYTES).encode() + b"\n")
        return True
    return False


def _read(path: Path) -> str:
    token = read_private(path, KEY, LENGTH_MAX + 3).removesuffix(b"\n").removesuffix(b"\r")
    if not LENGTH_MIN <= len(token) <= LENGTH_MAX or not all(0x21 <= byte <= 0x7E for byte in token):
        allowed = f"one line of {LENGTH_MIN} to {LENGTH_MAX} printable ASCII characters without spaces"
        raise _refused(path, f"{allowed}; name a new file, or delete this one, to have one made")
    return token.decode("ascii")


def _refused(path: Path, allowed: str) -> ConfigError:
    return ConfigError(KEY, str(path), allowed)
