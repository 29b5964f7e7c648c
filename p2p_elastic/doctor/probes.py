"""The facts about this machine that the doctor looks at. Nothing is changed; nothing heavy is imported."""

from __future__ import annotations

import errno
import importlib
import importlib.metadata
import importlib.util
import os
import shutil
import socket
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from p2p_elastic.doctor.checks import PACKAGES, Cuda, Package
from p2p_elastic.doctor.reachability import PortProblem

# Of a driver: on Linux, on Jetson, and in WSL, which does not say whose GPU it is.
NVIDIA_FILES = ("dev/nvidiactl", "proc/driver/nvidia/version", "dev/nvhost-gpu", "dev/nvgpu", "dev/dxg")
PCI_NVIDIA, PCI_DISPLAY = "0x10de", "0x03"  # vendor; the first digits of a display controller's class


def packages() -> Iterator[tuple[str, Package]]:
    """Look at each package, and import it: that takes seconds.

    Yields:
        Name and package, one after the other.
    """
    for name, (module, _) in PACKAGES.items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield name, Package(None)
            continue
        yield name, Package(version, import_problem(module))


def import_problem(module: str) -> str | None:
    """Import a module, and say why that fails.

    Args:
        module: its full name.

    Returns:
        The error in one line; None if it can be imported.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except Exception as error:  # noqa: BLE001  # a broken installation raises anything
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return None


def daemon() -> tuple[Path | None, bool, bool]:
    """Look for p2pd, without importing hivemind.

    Returns:
        Its path or None, whether it exists, and whether this user may execute it.
    """
    spec = importlib.util.find_spec("hivemind")  # imports nothing
    if spec is None or not spec.submodule_search_locations:
        return None, False, False
    path = Path(spec.submodule_search_locations[0]) / "hivemind_cli" / "p2pd"
    return path, path.is_file(), os.access(path, os.X_OK)


def cuda() -> Cuda:
    """Look for NVIDIA GPUs, and for packages that PyTorch needs for CUDA only.

    Returns:
        Whether there is a GPU, even one without a driver or one that is hidden, and the size of the packages.
    """
    return Cuda(has_nvidia(Path("/")), cuda_bytes(importlib.metadata.distributions()))


def has_nvidia(root: Path) -> bool:
    """Look for an NVIDIA GPU, or for its driver.

    Args:
        root: folder with `dev`, `proc` and `sys` of the system.

    Returns:
        Whether one of them is there.
    """
    if any((root / file).exists() for file in NVIDIA_FILES):
        return True
    return any(_is_nvidia_gpu(device) for device in root.glob("sys/bus/pci/devices/*"))


def _is_nvidia_gpu(device: Path) -> bool:
    try:
        vendor, kind = (device / "vendor").read_text(), (device / "class").read_text()
    except OSError:
        return False
    return vendor.strip() == PCI_NVIDIA and kind.startswith(PCI_DISPLAY)


def cuda_bytes(distributions: Iterable[importlib.metadata.Distribution]) -> int:
    """Add up the packages that PyTorch needs for CUDA only.

    Args:
        distributions: all that are installed.

    Returns:
        Bytes of NVIDIA's libraries and of Triton, as their wheels list them.
    """
    files = (file for found in distributions if _is_for_cuda(found) for file in found.files or ())
    return sum(file.size or 0 for file in files)


def _is_for_cuda(distribution: importlib.metadata.Distribution) -> bool:
    metadata = distribution.metadata
    if "Name" not in metadata:  # it is half removed
        return False
    name = metadata["Name"].lower().replace("_", "-")
    return name == "triton" or (name.startswith(("nvidia-", "cuda-")) and name != "nvidia-ml-py")  # no part of PyTorch


def load() -> float | None:
    """Ask for the load of this machine.

    Returns:
        Processes that wanted to run in the last minute, on average; None if the system does not say.
    """
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def disk(folder: Path) -> tuple[Path, int | None, str | None]:
    """Look at the disk that a folder is on, or would be.

    Args:
        folder: it need not exist.

    Returns:
        The nearest folder that exists, the bytes that are free there or None, and why it cannot be written or None.
    """
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
    """Say whether there is no such file.

    Args:
        path: of the file.

    Returns:
        True if it is missing; false also if this user may not look into its folder.
    """
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:
        pass
    return False


def port_problem(host: str, port: int) -> PortProblem | None:
    """Try to listen on a TCP port. To be asked first: p2pd itself would silently share a taken one.

    Args:
        host: IP address or name of this machine.
        port: 0 is any free one.

    Returns:
        Why it cannot be listened on; None if it can be.
    """
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
    """Say whether an IP address belongs to an interface of this machine.

    Args:
        host: IP address.

    Returns:
        Whether a socket can be bound to it.
    """
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True
