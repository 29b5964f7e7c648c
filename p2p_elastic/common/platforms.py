"""On which platforms p2p-elastic runs, and which build of PyTorch belongs there. Loads nothing heavy."""

from __future__ import annotations

import platform
import struct
from typing import NamedTuple

from p2p_elastic.errors import NetworkError

CPU_BUILD = "pip install --force-reinstall torch torchvision --index-url https://download.pytorch.org/whl/cpu"
BUILDS = "https://pytorch.org/get-started/locally"


class Platform(NamedTuple):
    """What Python runs on: names as the module `platform` gives them, and the bits of this Python's addresses."""

    system: str
    machine: str
    bits: int

    @classmethod
    def here(cls) -> Platform:
        return cls(platform.system(), platform.machine(), 8 * struct.calcsize("P"))


def check_platform(where: Platform) -> None:
    """Raises NetworkError if no peer can run there."""
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
    """What this PyTorch was built for, whether it can use CUDA, and the NVIDIA GPUs that their driver shows it."""

    version: str
    cuda: str | None
    usable: bool
    gpus: int


class Unused(NamedTuple):
    """Why PyTorch uses no GPU, and what to do."""

    text: str
    advice: str


def unused_gpu(build: Build) -> Unused | None:
    """Why that build uses no GPU, if it could use one or is made for one."""
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
