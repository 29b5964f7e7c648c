"""The facts about this machine that the doctor looks at. Nothing is changed; nothing heavy is imported."""

from __future__ import annotations

import contextlib
import errno
import importlib
import importlib.metadata
import importlib.util
import os
import shutil
import socket
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from p2p_elastic.doctor.checks import PACKAGES, Package, PortProblem

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def packages() -> Iterator[tuple[str, Package]]:
    """Each package as it is here, imported one after the other: that takes seconds."""
    for name, (module, _) in PACKAGES.items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield name, Package(None)
            continue
        yield name, Package(version, import_problem(module))


def import_problem(module: str) -> str | None:
    """Why a module cannot be imported."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except Exception as error:  # noqa: BLE001  # a broken installation raises anything
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return None


def daemon() -> tuple[Path | None, bool, bool]:
    """Where p2pd is, whether it exists, and whether it may be executed."""
    spec = importlib.util.find_spec("hivemind")  # imports nothing
    if spec is None or not spec.submodule_search_locations:
        return None, False, False
    path = Path(spec.submodule_search_locations[0]) / "hivemind_cli" / "p2pd"
    return path, path.is_file(), os.access(path, os.X_OK)


def load() -> float | None:
    """Processes that wanted to run, in the mean of the last minute."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def free_memory(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int | None:
    """Bytes of RAM that a new program can have: of the machine, or what a container's limit leaves."""
    limits = [size for size in (_available(meminfo), _left_of_limit(cgroup)) if size is not None]
    if limits:
        return min(limits)
    with contextlib.suppress(OSError, ValueError):  # macOS has no such number
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _available(meminfo: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _left_of_limit(cgroup: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
        limit = int((cgroup / "memory.max").read_text())
        return min(limit, max(0, limit - int((cgroup / "memory.current").read_text()) + _given_back(cgroup)))
    return None


def _given_back(cgroup: Path) -> int:
    """Bytes of files that were read, such as a data set: they count as used, and go before a program is ended."""
    with contextlib.suppress(OSError, ValueError):
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        return int(stat["inactive_file"]) + int(stat["active_file"])
    return 0


def disk(folder: Path) -> tuple[Path, int | None, str | None]:
    """The nearest folder that exists, the bytes that are free there, and why it cannot be written."""
    there = folder.expanduser().absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        free = shutil.disk_usage(there).free
    except OSError:
        free = None
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        return there, free, error.strerror or str(error)
    return there, free, None


def is_missing(path: Path) -> bool:
    """Whether there is no such file; one in a folder that we may not look into is not missing."""
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:
        pass
    return False


def port_problem(host: str, port: int) -> PortProblem | None:
    """Why that TCP port cannot be listened on. To be asked first: p2pd itself would silently share a taken one."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except (OSError, UnicodeError) as error:  # the idna codec refuses some names
        number = error.errno if isinstance(error, OSError) else None
        if number == errno.EADDRINUSE:
            return PortProblem("taken", "in use")
        if number in (errno.EACCES, errno.EPERM):
            return PortProblem("port", "this user may not open it")
        return PortProblem("host", f"{host} is no address of this machine")
    return None


def is_own(host: str) -> bool:
    """Whether an IP address belongs to an interface of this machine."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True
