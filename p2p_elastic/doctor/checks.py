"""What the facts mean: each check is a pure function from facts to findings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from p2p_elastic.common.machine import OUTER_VECTORS, VECTORS, device_vectors
from p2p_elastic.common.platforms import Build, needless_cuda, unused_gpu
from p2p_elastic.values import Frozen

Level = Literal["ok", "warning", "failure"]

PYTHON_MIN, PYTHON_TESTED = (3, 10), (3, 14)
# Distribution -> (what to import, oldest version that works). A test keeps the versions in step with pyproject.toml.
PACKAGES: dict[str, tuple[str, str]] = {
    "numpy": ("numpy", "1.26"),
    "torch": ("torch", "2.3"),
    "torchvision": ("torchvision", "0.18"),
    "pydantic": ("pydantic", "2.8"),
    "protobuf": ("google.protobuf", "0"),  # hivemind says which
    "hivemind": ("p2p_elastic.peers.discovery.signed_dht", "1.1.12"),  # importing it directly is noisy
    "fastapi": ("fastapi", "0.115"),
    "uvicorn": ("uvicorn", "0.30"),
    "pillow": ("PIL", "10"),
    "rich": ("rich", "13.7"),
    "safetensors": ("safetensors.torch", "0.7"),
    "xxhash": ("xxhash", "3.4"),
    "cryptography": ("cryptography", "47"),
    "base58": ("base58", "2.1"),
    "click": ("click", "8.2"),
    "prometheus-client": ("prometheus_client", "0.20"),
    "psutil": ("psutil", "5.9"),
    "nvidia-ml-py": ("pynvml", "12.570"),
}
NAMED = ("torch", "hivemind", "numpy", "protobuf")  # the others are only mentioned if something is wrong

PROCESS_BYTES = 700_000_000  # Python with PyTorch and libp2p
RESULT_VECTORS = 2  # model.safetensors and centre.safetensors
CHECKPOINTS = 3  # on the disk: the two that are kept, and the one that is being written
DISK_SPARE_BYTES = 200_000_000


class Finding(Frozen):
    """One thing that was checked.

    Attributes:
        check: its name, such as `memory`.
        level: only a failure keeps a peer from taking part.
        text: what was found.
        advice: what the user can do; None if there is nothing to do.
    """

    check: str
    level: Level
    text: str
    advice: str | None = None


def ok(check: str, text: str) -> Finding:
    """Make a finding of something that is in order.

    Args:
        check: its name.
        text: what was found.

    Returns:
        The finding.
    """
    return Finding(check=check, level="ok", text=text)


def warning(check: str, text: str, advice: str) -> Finding:
    """Make a finding of something that may be a problem.

    Args:
        check: its name.
        text: what was found.
        advice: what the user can do.

    Returns:
        The finding.
    """
    return Finding(check=check, level="warning", text=text, advice=advice)


def failure(check: str, text: str, advice: str) -> Finding:
    """Make a finding of something that keeps a peer from taking part.

    Args:
        check: its name.
        text: what was found.
        advice: what the user can do.

    Returns:
        The finding.
    """
    return Finding(check=check, level="failure", text=text, advice=advice)


# -- software ----------------------------------------------------------------------------------------------------------


class Package(NamedTuple):
    """A package as it was found.

    Attributes:
        version: None if it is not installed.
        problem: why it cannot be imported; None if it can be.
    """

    version: str | None
    problem: str | None = None


def check_python(version: tuple[int, int, int]) -> Finding:
    """Check the version of Python.

    Args:
        version: major, minor and micro.

    Returns:
        A failure below 3.10; a warning for a version that is newer than the tested ones.
    """
    text = "Python " + ".".join(map(str, version))
    if version[:2] < PYTHON_MIN:
        return failure("python", f"{text}; 3.10 or newer is needed", "install Python 3.10 to 3.14")
    if version[:2] > PYTHON_TESTED:
        return warning("python", f"{text}; tested with 3.10 to 3.14", "if packages are missing, use Python 3.14")
    return ok("python", text)


def check_packages(found: Mapping[str, Package]) -> list[Finding]:
    """Check versions and imports of packages.

    Args:
        found: each package of PACKAGES by its name.

    Returns:
        A failure for each that is missing, broken or too old; one line if all are in order.
    """
    findings = []
    for name, package in found.items():
        oldest = PACKAGES[name][1]
        install = f"pip install --upgrade '{name}{f'>={oldest}' if oldest != '0' else ''}'"
        if package.version is None:
            findings.append(failure("packages", f"{name} is not installed", install))
        elif package.problem is not None:
            problem = f"{name} {package.version} cannot be imported: {package.problem}"
            findings.append(failure("packages", problem, f"{install}, or make a new environment: pip install ."))
        elif _numbers(package.version) < _numbers(oldest):
            findings.append(failure("packages", f"{name} {package.version} is older than {oldest}", install))
    if findings:
        return findings
    named = ", ".join(f"{name} {found[name].version}" for name in NAMED if name in found)
    return [ok("packages", f"{named}; {len(found)} packages can be imported")]


def _numbers(version: str) -> tuple[int, ...]:
    """Read the leading numbers of a version: 2.15.0+cu132 is (2, 15, 0)."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()


class Cuda(NamedTuple):
    """What is here of CUDA, apart from PyTorch.

    Attributes:
        device: whether an NVIDIA GPU or its driver is in this machine, usable or not.
        package_bytes: size of the packages that PyTorch needs for CUDA only.
    """

    device: bool
    package_bytes: int


def check_pytorch(build: Build, cuda: Cuda, machine: str) -> Finding:
    """Check that PyTorch is the build for this machine. Training on the CPU with another build works, too.

    Args:
        build: what is installed.
        cuda: what else of CUDA is here.
        machine: kind of processor, as `platform.machine()` gives it.

    Returns:
        A warning if there is a GPU that it cannot use, or it is for CUDA and there is no GPU.
    """
    unused = unused_gpu(build)
    if unused is None:
        return ok("pytorch", f"PyTorch {build.version} for {f'CUDA {build.cuda}' if build.cuda else 'the CPU'}")
    if build.gpus or cuda.device:  # a device that is not listed has no driver, or is hidden
        return Finding(check="pytorch", level="warning" if build.gpus else "ok", text=unused.text, advice=unused.advice)
    return warning("pytorch", *needless_cuda(build, machine, cuda.package_bytes))


def check_daemon(path: Path | None, exists: bool, executable: bool) -> Finding:
    """Check p2pd, the libp2p program inside hivemind.

    Args:
        path: where it should be; None if hivemind is not found.
        exists: whether it is there.
        executable: whether this user may execute it.

    Returns:
        A failure if it cannot be started.
    """
    again = "reinstall hivemind from its wheel: pip install --force-reinstall --no-deps hivemind"
    if path is None or not exists:
        return failure("p2pd", f"the libp2p program is not there{f': {path}' if path else ''}", again)
    if not executable:
        return failure("p2pd", f"{path} may not be executed", f"chmod +x {path}; is the file system mounted noexec?")
    return ok("p2pd", f"there: {path}")


# -- machine -----------------------------------------------------------------------------------------------------------


def check_cpu(cores: int, load: float | None) -> Finding:
    """Check that other programs leave time of the cores.

    Args:
        cores: that this process may use.
        load: processes that wanted to run in the last minute, on average; None if the system does not say.

    Returns:
        A warning if the load is above 1.5 per core.
    """
    text = f"{cores} core{'' if cores == 1 else 's'} for this process"
    if load is None:
        return ok("cpu", text)
    text += f", load {load:.1f}"
    if load > 1.5 * cores:
        return warning("cpu", f"{text}: others compute here", "expect fewer steps/s; --threads limits PyTorch's share")
    return ok("cpu", text)


def check_memory(
    free: int | None, model_bytes: int, data_bytes: int, trained: int = 0, process_bytes: int = PROCESS_BYTES
) -> Finding:
    """Compare the free RAM with what a peer of this task holds.

    Args:
        free: bytes that a new program can have; None if the system does not say.
        model_bytes: size of the model in float32.
        data_bytes: size of the data in memory.
        trained: model sizes that are in RAM because no GPU holds them.
        process_bytes: what Python with its libraries takes and has not loaded yet.

    Returns:
        A failure if vectors and data do not fit; a warning if only the program does not fit beside them.
    """
    held = VECTORS + trained
    vectors = held * model_bytes
    need = vectors + data_bytes + process_bytes
    needs = f"about {_gigabytes(need)} needed: {held} x model of {_size(model_bytes)}, data {_size(data_bytes)}"
    if free is None:
        return ok("memory", f"{needs}, program; how much is free is not known on this system")
    text = f"{_gigabytes(free)} free; {needs}, program"
    less = "end other programs, or choose a smaller task"
    if free < vectors + data_bytes:
        return failure("memory", text, less)
    return warning("memory", text, less) if free < need else ok("memory", text)


class Gpu(NamedTuple):
    """The memory of the GPU that training would use.

    Attributes:
        name: of the GPU.
        free: bytes that are free.
        total: bytes of all its memory.
    """

    name: str
    free: int
    total: int


def check_device(
    device: str, gpu: Gpu | None, model_bytes: int, optimizer: str = "sgd", *, outer: bool = False
) -> Finding:
    """Check the memory of the device that trains.

    Args:
        device: name, such as `cuda`.
        gpu: its memory; None if it is the CPU, or PyTorch does not say.
        model_bytes: size of the model in float32.
        optimizer: its name.
        outer: whether the run has an outer optimizer.

    Returns:
        A failure if the model does not fit; a warning if little is left for activations.
    """
    if gpu is None:
        return ok("device", f"trains on {device}")
    vectors = device_vectors(optimizer, outer=outer) * model_bytes
    text = f"trains on {device}, {gpu.name}: {_gigabytes(gpu.free)} of {_gigabytes(gpu.total)} free"
    text += f"; {_size(vectors)} for the model and its gradients, activations on top"
    if gpu.free < vectors:
        return failure("device", text, "end other programs on that GPU, or use --device cpu")
    if gpu.free < 2 * vectors + 500_000_000:
        return warning("device", text, "if memory runs out: a smaller --batch-size, or --device cpu")
    return ok("device", text)


def disk_vectors(*, saves: bool, optimizer: str = "sgd", outer: bool = False) -> int:
    """Count the models that would fill as much of the disk as results and checkpoints.

    Args:
        saves: whether there are checkpoints.
        optimizer: its name.
        outer: whether the run has an outer optimizer.

    Returns:
        How many model sizes they take at most.
    """
    of_optimizer = 1 if optimizer == "sgd" else 2
    return RESULT_VECTORS + CHECKPOINTS * (1 + of_optimizer + OUTER_VECTORS * outer) * saves


def check_disk(
    check: str, folder: Path, free: int | None, problem: str | None, need: int, option: str = "--output"
) -> Finding:
    """Check that a folder can be written and has room.

    Args:
        check: name of the finding.
        folder: the folder, or the nearest one that exists.
        free: bytes that are free; None if the system does not say.
        problem: why it cannot be written; None if it can be.
        need: bytes that will be written.
        option: how a user chooses another folder.

    Returns:
        A failure if it cannot be written or is too small; a warning if hardly anything would be left.
    """
    if problem is not None:
        return failure(check, f"{folder} cannot be written: {problem}", f"choose another folder with {option}")
    if free is None:
        return ok(check, f"{folder} can be written")
    text = f"{folder} can be written, {_gigabytes(free)} free"
    if free < need:
        return failure(check, f"{text}, about {_size(need)} needed", f"make room, or choose another with {option}")
    if free < need + DISK_SPARE_BYTES:
        return warning(check, f"{text}, about {_size(need)} needed", "make room: that is little")
    return ok(check, text)


def _size(nbytes: float) -> str:
    return f"{nbytes / 1e6:.1f} MB" if nbytes < 1e9 else _gigabytes(nbytes)


def _gigabytes(nbytes: float) -> str:
    return f"{nbytes / 1e9:.1f} GB"
