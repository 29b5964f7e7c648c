"""On which platforms p2p-elastic runs, and which build of PyTorch belongs there. Loads nothing heavy."""

from __future__ import annotations

import platform
import struct
from typing import NamedTuple

from p2p_elastic.errors import NetworkError

CPU_BUILD = "pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu"
BUILDS = "https://pytorch.org/get-started/locally"
AARCH64 = ("aarch64", "arm64")


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
            f"the build for CPUs, in a new environment, is gigabytes smaller: {CPU_BUILD}. If there is a GPU, install "
            "its driver: `nvidia-smi` must list it",
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


def needless_cuda(build: Build, machine: str, cuda_bytes: int) -> Unused:
    """Say what a build for CUDA takes of the disk of a machine without an NVIDIA GPU, and how to do without.

    Args:
        build: what is installed; it is for CUDA.
        machine: kind of processor, as `platform.machine()` gives it.
        cuda_bytes: size of the packages that PyTorch needs for CUDA only.

    Returns:
        What is not needed, and which build to install instead.

    Example:
        >>> needless_cuda(Build("2.15.0", "13.2", usable=False, gpus=0), "x86_64", 4_300_000_000).text
        'PyTorch 2.15.0 is for CUDA 13.2, but no NVIDIA GPU is in this machine: 4.3 GB of packages are not used'
    """
    text = (
        f"PyTorch {build.version} is for CUDA {build.cuda}, but no NVIDIA GPU is in this machine: "
        f"{cuda_bytes / 1e9:.1f} GB of packages are not used"
    )
    advice = f"in a new environment, as pip would leave them in this one, before p2p-elastic: {CPU_BUILD}"
    if machine in AARCH64:
        text += f". PyPI's PyTorch for {machine} is for CUDA since 2.11"
        advice += ", or the last one on PyPI without CUDA: pip install 'torch<2.11' torchvision"
    return Unused(text, advice)
