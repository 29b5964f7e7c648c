"""On which platforms p2p-elastic runs, and which build of PyTorch belongs there. Loads nothing heavy."""

from __future__ import annotations

import platform
import struct
from typing import NamedTuple

from p2p_elastic.errors import NetworkError

CPU_BUILD = "pip install --force-reinstall torch torchvision --index-url https://download.pytorch.org/whl/cpu"
BUILDS = "https://pytorch.org/get-started/locally"


class Platform(NamedTuple):
    """What Python runs on.

    Attributes:
        system: name, as `platform.system()` gives it.
        machine: kind of processor, as `platform.machine()` gives it.
        bits: size of an address in this Python: 32 or 64.
    """

    system: str
    machine: str
    bits: int

    @classmethod
    def here(cls) -> Platform:
        """Look at this Python.

        Returns:
            The platform that this process runs on.
        """
        return cls(platform.system(), platform.machine(), 8 * struct.calcsize("P"))


def check_platform(where: Platform) -> None:
    """Refuse a platform on which no peer can run.

    Args:
        where: the platform.

    Raises:
        NetworkError: if hivemind's libp2p program (p2pd) or PyTorch does not exist for it.
    """
    if where.system == "Windows":
        raise NetworkError(
            "not supported on Windows itself: hivemind's libp2p program (p2pd) is made for Linux and macOS. Use WSL: "
            "run `wsl --install`, and install p2p-elastic inside it"
        )
    if where.bits < 64:
        raise NetworkError(
            f"only 64-bit systems are supported, and this Python is {where.bits}-bit, on {where.machine}: there is no "
            "libp2p program (p2pd) for it in hivemind, and no PyTorch. Install a 64-bit system, such as "
            "Raspberry Pi OS (64-bit)"
        )


class Build(NamedTuple):
    """What this PyTorch was built for, and what it finds.

    Attributes:
        version: of PyTorch.
        cuda: version of CUDA that it was built for; None if it is a build without CUDA.
        usable: whether it can use CUDA on this machine.
        gpus: number of NVIDIA GPUs that their driver lists.
    """

    version: str
    cuda: str | None
    usable: bool
    gpus: int


class Unused(NamedTuple):
    """Why PyTorch uses no GPU.

    Attributes:
        text: the reason, in a sentence.
        advice: what the user can do.
    """

    text: str
    advice: str


def unused_gpu(build: Build) -> Unused | None:
    """Say why that build uses no GPU, if it could use one or is made for one.

    Args:
        build: what is installed.

    Returns:
        The reason; None if it uses a GPU, or neither has nor expects one.

    Example:
        >>> unused_gpu(Build("2.9.0", cuda=None, usable=False, gpus=1)).text
        'there is an NVIDIA GPU, but PyTorch 2.9.0 is a build without CUDA: it trains on the CPU'
    """
    if build.usable or (build.cuda is None and not build.gpus):
        return None
    name = f"PyTorch {build.version}"
    if not build.gpus:
        return Unused(
            f"{name} is the build for CUDA {build.cuda}, but no NVIDIA GPU is here for it: it trains on the CPU",
            f"the build for CPUs is gigabytes smaller: {CPU_BUILD}. If there is a GPU, install its driver: "
            "`nvidia-smi` must list it",
        )
    if build.cuda is None:
        return Unused(
            f"there is an NVIDIA GPU, but {name} is a build without CUDA: it trains on the CPU",
            f"install the build for CUDA: {BUILDS}",
        )
    return Unused(
        f"there is an NVIDIA GPU, but {name} for CUDA {build.cuda} cannot use it: it trains on the CPU",
        f"install a driver for CUDA {build.cuda}, or a build for the CUDA that `nvidia-smi` shows: {BUILDS}",
    )
