"""What the facts mean: each check is a pure function from facts to findings."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from p2p_elastic.common.platforms import Build, unused_gpu
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
    "hivemind": ("p2p_elastic.peers.dht", "1.1.12"),  # importing it directly is noisy
    "fastapi": ("fastapi", "0.115"),
    "uvicorn": ("uvicorn", "0.30"),
    "pillow": ("PIL", "10"),
    "rich": ("rich", "13.7"),
    "safetensors": ("safetensors.torch", "0.4.3"),
    "xxhash": ("xxhash", "3.4"),
    "scikit-learn": ("sklearn", "1.4"),
    "cryptography": ("cryptography", "42"),
    "base58": ("base58", "2.1"),
    "click": ("click", "8.2"),
    "prometheus-client": ("prometheus_client", "0.20"),
    "psutil": ("psutil", "5.9"),
    "nvidia-ml-py": ("pynvml", "12.570"),
}
NAMED = ("torch", "hivemind", "numpy", "protobuf")  # the others are only mentioned if something is wrong

VECTORS = 5  # model sizes in RAM: snapshots, the partner's values, the move, what is on its way
DEVICE_VECTORS = 3  # on the device that trains: parameters, gradients, momentum; activations come on top
ADAHESSIAN_VECTORS = 3  # more of them
PROCESS_BYTES = 700_000_000  # Python with PyTorch and libp2p
RESULT_VECTORS = 2  # model.safetensors and centre.safetensors
CHECKPOINTS = 3  # on the disk: the two that are kept, and the one that is being written
DISK_SPARE_BYTES = 200_000_000
CARRIER_NAT = ipaddress.ip_network("100.64.0.0/10")

Scope = Literal["loopback", "link", "private", "public", "name"]


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


def check_pytorch(build: Build) -> Finding:
    """Check that PyTorch is the build for this machine. Training on the CPU with another build works, too.

    Args:
        build: what is installed.

    Returns:
        A warning if there is a GPU that it cannot use.
    """
    unused = unused_gpu(build)
    if unused is None:
        return ok("pytorch", f"PyTorch {build.version} for {f'CUDA {build.cuda}' if build.cuda else 'the CPU'}")
    return Finding(check="pytorch", level="warning" if build.gpus else "ok", text=unused.text, advice=unused.advice)


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


def device_vectors(*, adahessian: bool) -> int:
    """Count the vectors of model size on the device that trains: parameters, gradients and optimizer state.

    Args:
        adahessian: whether it trains with AdaHessian instead of SGD.

    Returns:
        How many model sizes of memory they take.
    """
    return DEVICE_VECTORS + ADAHESSIAN_VECTORS * adahessian


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


def check_device(device: str, gpu: Gpu | None, model_bytes: int, adahessian: bool = False) -> Finding:
    """Check the memory of the device that trains.

    Args:
        device: name, such as `cuda`.
        gpu: its memory; None if it is the CPU, or PyTorch does not say.
        model_bytes: size of the model in float32.
        adahessian: whether it trains with AdaHessian instead of SGD.

    Returns:
        A failure if the model does not fit; a warning if little is left for activations.
    """
    if gpu is None:
        return ok("device", f"trains on {device}")
    vectors = device_vectors(adahessian=adahessian) * model_bytes
    text = f"trains on {device}, {gpu.name}: {_gigabytes(gpu.free)} of {_gigabytes(gpu.total)} free"
    text += f"; {_size(vectors)} for the model and its gradients, activations on top"
    if gpu.free < vectors:
        return failure("device", text, "end other programs on that GPU, or use --device cpu")
    if gpu.free < 2 * vectors + 500_000_000:
        return warning("device", text, "if memory runs out: a smaller --batch-size, or --device cpu")
    return ok("device", text)


def disk_vectors(*, saves: bool, adahessian: bool = False) -> int:
    """Count the models that would fill as much of the disk as results and checkpoints.

    Args:
        saves: whether there are checkpoints.
        adahessian: whether it trains with AdaHessian instead of SGD.

    Returns:
        How many model sizes they take at most.
    """
    of_optimizer = 2 if adahessian else 1
    return RESULT_VECTORS + CHECKPOINTS * (1 + of_optimizer) * saves


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


# -- ports -------------------------------------------------------------------------------------------------------------


class PortProblem(NamedTuple):
    """Why a port cannot be listened on.

    Attributes:
        kind: whether it is in use, this user may not open it, or the host is none of this machine.
        text: the reason, for people.
    """

    kind: Literal["taken", "port", "host"]
    text: str


def check_port(check: str, option: str, port: int, asked: bool, problem: PortProblem | None) -> Finding:
    """Check a TCP port to listen on.

    Args:
        check: name of the finding.
        option: how a user chooses it.
        port: 0 is any free one.
        asked: whether the user asked for it; if not, any free one would do.
        problem: why it cannot be listened on; None if it can be.

    Returns:
        A failure, or a warning if it is taken and was not asked for.
    """
    if problem is None:
        return ok(check, f"{port} is free" if port else "any free port")
    if problem.kind == "host":
        advice = f"give an address of this machine with {option.replace('port', 'host')}, or leave it out"
        return failure(check, f"cannot listen there: {problem.text}", advice)
    if problem.kind == "port":
        return failure(check, f"{port} cannot be used: {problem.text}", f"choose one above 1023 with {option}")
    if asked:
        return failure(check, f"{port} is taken", f"end what uses it, or choose another with {option}; 0: any free one")
    return warning(
        check,
        f"the usual port {port} is taken, perhaps by another peer on this machine; join would take any free one",
        f"if a firewall or port forward names the port, choose a free one with {option}",
    )


def check_http_host(host: str) -> Finding | None:
    """Warn if the status would be shown to the network.

    Args:
        host: address that HTTP listens on.

    Returns:
        A warning; None if it is loopback.
    """
    if scope_of(host) == "loopback" or host == "localhost":
        return None
    return warning("http", f"the status would be shown on {host}, without any password", "only in networks you trust")


# -- reachability ------------------------------------------------------------------------------------------------------


def host_of(address: str) -> str:
    """Find the host in a multiaddr.

    Args:
        address: such as `/ip4/192.168.1.7/tcp/31330`.

    Returns:
        An IP address or a name; empty if there is none.

    Example:
        >>> host_of("/ip4/192.168.1.7/tcp/31330")
        '192.168.1.7'
    """
    parts = address.split("/")
    return parts[2] if len(parts) > 2 else ""


def scope_of(host: str) -> Scope:
    """Say from where an address can be used at best.

    Args:
        host: IP address, with or without a zone, or a name.

    Returns:
        The scope; addresses behind a provider's NAT (100.64.0.0/10) are private.

    Example:
        >>> scope_of("127.0.0.1"), scope_of("192.168.1.7"), scope_of("8.8.8.8"), scope_of("peer.example")
        ('loopback', 'private', 'public', 'name')
    """
    try:
        ip = ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return "name"
    if ip.is_loopback:
        return "loopback"
    if ip.is_link_local:
        return "link"
    if ip.is_private or (ip.version == 4 and ip in CARRIER_NAT) or not ip.is_global:
        return "private"
    return "public"


WHERE = {
    "public": "from the internet, unless a firewall blocks it",
    "name": "wherever that name is known",
    "private": "from the same network (private addresses)",
    "link": "from the same cable only (link-local)",
    "loopback": "from this machine only",
}


def check_addresses(addresses: Sequence[str], own: frozenset[str], announced: bool) -> list[Finding]:
    """Say from where other peers can reach this one.

    Args:
        addresses: multiaddrs that the others are told.
        own: hosts among them that are interfaces of this machine.
        announced: whether the user gave them with --announce.

    Returns:
        A line for each scope; another for public addresses that are none of this machine.
    """
    if announced:
        return [ok("addresses", f"others are told {', '.join(_without_peer(addresses))}, as --announce says")]
    by_scope = {scope: [a for a in addresses if scope_of(host_of(a)) == scope] for scope in WHERE}
    findings = [
        ok("addresses", f"{WHERE[scope]}: {', '.join(_without_peer(those))}")
        for scope, those in by_scope.items()
        if those
    ]
    mapped = [a for a in by_scope["public"] if host_of(a) not in own]
    if mapped:
        text = f"the router or other peers say that this peer is seen at {', '.join(_without_peer(mapped))}"
        findings.append(ok("addresses", text))
    return findings


OUTSIDE = "start the peer, then on a machine elsewhere: p2p-elastic doctor --initial-peer MULTIADDR"


def check_reachable(addresses: Sequence[str], announce: Sequence[str], port: int | None) -> Finding:
    """Say whether peers elsewhere can dial this one, as far as is known without asking a third party.

    Args:
        addresses: multiaddrs that the others are told.
        announce: what the user gave with --announce.
        port: what the user gave with --port; None if it was not given.

    Returns:
        A warning: whether a firewall or router is in between is not seen from here.
    """
    if announce:
        return _check_announced(announce, port)
    scopes = {scope_of(host_of(address)) for address in addresses}
    if "public" in scopes:
        return warning(
            "reachable", "it has a public address; whether a firewall blocks it is not seen from here", OUTSIDE
        )
    if "private" in scopes:
        return warning(
            "reachable",
            "only private addresses: peers in the same network can dial this one, others only if the router forwards "
            "the port (by UPnP perhaps; not known here)",
            "enough if this peer joins others, as connections are used both ways; to be dialled from elsewhere, "
            "forward the port and say so: --port P --announce /ip4/PUBLIC/tcp/P",
        )
    return warning(
        "reachable",
        "nobody on another machine can dial this peer",
        "on purpose? Otherwise use --host 0.0.0.0, and see that this machine has a network",
    )


def _check_announced(announce: Sequence[str], port: int | None) -> Finding:
    told = ", ".join(announce)
    inside = [a for a in announce if scope_of(host_of(a)) in ("loopback", "link")]
    if inside:
        advice = "announce the address under which others see this machine or its router"
        return warning("reachable", f"no other machine can use {', '.join(inside)}", advice)
    if port is None:
        return warning(
            "reachable",
            f"you announce {told}, but without --port another port is taken when the usual one is in use",
            "give --port too: the one to which the router forwards",
        )
    return warning("reachable", f"whether {told} leads here is not seen from here", OUTSIDE)


def _without_peer(addresses: Sequence[str]) -> list[str]:
    return [address.split("/p2p/")[0] for address in addresses]


def _size(nbytes: float) -> str:
    return f"{nbytes / 1e6:.1f} MB" if nbytes < 1e9 else _gigabytes(nbytes)


def _gigabytes(nbytes: float) -> str:
    return f"{nbytes / 1e9:.1f} GB"
