"""Put the unit of a peer where systemd looks, and take it away again."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from p2p_elastic.common.files import replacing
from p2p_elastic.errors import ConfigError
from p2p_elastic.service.unit import Scope, Service

RUNS = Path("/run/systemd/system")
HIDDEN = ("/root", "/home", "/run/user")
"""What `ProtectHome=yes` hides from a service of the system."""


def unit_folder(scope: Scope) -> Path:
    """Find the folder for units.

    Args:
        scope: of the whole system, or of this user.

    Returns:
        The folder, which may be missing.
    """
    if scope == "system":
        return Path("/etc/systemd/system")
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user"


def check_reachable(service: Service) -> None:
    """Check that the service will see its interpreter.

    Args:
        service: to be installed.

    Raises:
        ConfigError: if it is of the system, and its interpreter in somebody's home.
    """
    for path in (service.python, os.path.realpath(service.python)):
        if service.scope == "system" and path.startswith(tuple(f"{folder}/" for folder in HIDDEN)):
            advice = "a service of the system sees no home folders: install into /opt/p2p-elastic, with a Python"
            raise ConfigError("system", path, f"{advice} outside of them too, or use --user")


def install(service: Service) -> Path:
    """Write the unit and make systemd know it.

    Args:
        service: to be installed.

    Returns:
        The file.

    Raises:
        ConfigError: if it cannot be written.
    """
    check_reachable(service)
    path, text = unit_folder(service.scope) / service.unit, service.text()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, 0o644) as file:
            file.write(text.encode())
    except OSError as error:
        raise ConfigError(service.scope, str(path), f"cannot be written: {error.strerror}") from error
    return path


def remove(unit: str, scope: Scope) -> Path:
    """Remove the unit.

    Args:
        unit: its name.
        scope: where it was installed.

    Returns:
        The file that was there.

    Raises:
        ConfigError: if there is none, or it cannot be removed.
    """
    path = unit_folder(scope) / unit
    try:
        path.unlink()
    except OSError as error:
        raise ConfigError("name", str(path), f"cannot be removed: {error.strerror}") from error
    return path


def systemctl(scope: Scope, *words: str) -> str | None:
    """Ask systemd to do something.

    Args:
        scope: which manager is asked.
        words: such as `daemon-reload`.

    Returns:
        What went wrong; None if nothing did.
    """
    program = shutil.which("systemctl")
    if program is None or not RUNS.exists():
        return "systemd does not run here"
    command = [program, f"--{scope}", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return (done.stderr.strip() or f"exit code {done.returncode}") if done.returncode else None
