"""What the doctor makes of the facts: each check is a pure function from facts to findings."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from p2p_elastic.common.addresses import host_of, is_loopback
from p2p_elastic.common.platforms import Build, unused_gpu
from p2p_elastic.status.schema import Frozen

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
NAMED = ("torch", "hivemind", "numpy", "protobuf")  # the others are only mentioned where something is wrong

VECTORS = 5  # model sizes in RAM: snapshots, the partner's values, the move, what is on its way
DEVICE_VECTORS = 3  # where it trains, RAM or a GPU: parameters, gradients, momentum; activations come on top
ADAHESSIAN_VECTORS = 3  # more of them
PROCESS_BYTES = 700_000_000  # Python with PyTorch and libp2p
RESULT_VECTORS = 2  # model.safetensors and centre.safetensors
CHECKPOINTS = 3  # on the disk: the two that are kept, and the one that is being written
DISK_SPARE_BYTES = 200_000_000
CARRIER_NAT = ipaddress.ip_network("100.64.0.0/10")

Scope = Literal["loopback", "link", "private", "public", "name"]


class Finding(Frozen):
    """One thing that was checked."""

    check: str
    level: Level
    text: str
    advice: str | None = None


def ok(check: str, text: str) -> Finding:
    return Finding(check=check, level="ok", text=text)


def warning(check: str, text: str, advice: str) -> Finding:
    return Finding(check=check, level="warning", text=text, advice=advice)


def failure(check: str, text: str, advice: str) -> Finding:
    return Finding(check=check, level="failure", text=text, advice=advice)


# -- software ----------------------------------------------------------------------------------------------------------


class Package(NamedTuple):
    """A package as it was found: its version, and why it cannot be imported."""

    version: str | None
    problem: str | None = None


def check_python(version: tuple[int, int, int]) -> Finding:
    text = "Python " + ".".join(map(str, version))
    if version[:2] < PYTHON_MIN:
        return failure("python", f"{text}; 3.10 or newer is needed", "install Python 3.10 to 3.14")
    if version[:2] > PYTHON_TESTED:
        return warning("python", f"{text}; tested with 3.10 to 3.14", "if packages are missing, use Python 3.14")
    return ok("python", text)


def check_packages(found: Mapping[str, Package]) -> list[Finding]:
    """Those that are missing, broken or too old; one line for the rest."""
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
    """The leading numbers of a version: 2.15.0+cu132 is (2, 15, 0)."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()


def check_pytorch(build: Build) -> Finding:
    """Whether it is the build for this machine. Training on the CPU with another one works, too."""
    unused = unused_gpu(build)
    if unused is None:
        return ok("pytorch", f"PyTorch {build.version} for {f'CUDA {build.cuda}' if build.cuda else 'the CPU'}")
    return Finding(check="pytorch", level="warning" if build.gpus else "ok", text=unused.text, advice=unused.advice)


def check_daemon(path: Path | None, exists: bool, executable: bool) -> Finding:
    """p2pd, the libp2p program inside hivemind."""
    again = "reinstall hivemind from its wheel: pip install --force-reinstall --no-deps hivemind"
    if path is None or not exists:
        return failure("p2pd", f"the libp2p program is not there{f': {path}' if path else ''}", again)
    if not executable:
        return failure("p2pd", f"{path} may not be executed", f"chmod +x {path}; is the file system mounted noexec?")
    return ok("p2pd", f"there: {path}")


# -- machine -----------------------------------------------------------------------------------------------------------


def check_cpu(cores: int, load: float | None) -> Finding:
    text = f"{cores} core{'' if cores == 1 else 's'} for this process"
    if load is None:
        return ok("cpu", text)
    text += f", load {load:.1f}"
    if load > 1.5 * cores:
        return warning("cpu", f"{text}: others compute here", "expect fewer steps/s; --threads limits PyTorch's share")
    return ok("cpu", text)


def device_vectors(*, adahessian: bool) -> int:
    """How many model sizes there are where it trains."""
    return DEVICE_VECTORS + ADAHESSIAN_VECTORS * adahessian


def check_memory(
    free: int | None, model_bytes: int, data_bytes: int, trained: int = 0, process_bytes: int = PROCESS_BYTES
) -> Finding:
    """RAM against what a peer of this task holds.

    `trained`: model sizes that are there because no GPU holds them; `process_bytes`: what is not loaded yet.
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
    """Bytes of the GPU that training would use."""

    name: str
    free: int
    total: int


def check_device(device: str, gpu: Gpu | None, model_bytes: int, adahessian: bool = False) -> Finding:
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
    """How many models would fill as much of the disk as results and checkpoints; `saves`: there are checkpoints."""
    of_optimizer = 2 if adahessian else 1
    return RESULT_VECTORS + CHECKPOINTS * (1 + of_optimizer) * saves


def check_disk(
    check: str, folder: Path, free: int | None, problem: str | None, need: int, option: str = "--output"
) -> Finding:
    """Whether a folder can be written and has room."""
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
    """Why a port cannot be listened on."""

    kind: Literal["taken", "port", "host"]
    text: str


def check_port(check: str, option: str, port: int, asked: bool, problem: PortProblem | None) -> Finding:
    """A TCP port to listen on; `option` is how a user chooses it."""
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
        f"where a firewall or port forward names the port, choose a free one with {option}",
    )


def check_http_host(host: str) -> Finding | None:
    """Whether the status is shown to the network."""
    if is_loopback(host):
        return None
    return warning("http", f"the status would be shown on {host}, without any password", "only in networks you trust")


# -- reachability ------------------------------------------------------------------------------------------------------


def scope_of(host: str) -> Scope:
    """From where an address can be used at best."""
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
    """From where others can reach this peer. `own`: hosts that are interfaces of this machine."""
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
        text = f"the router or other peers say that we are seen at {', '.join(_without_peer(mapped))}"
        findings.append(ok("addresses", text))
    return findings


OUTSIDE = "start the peer, then on a machine elsewhere: p2p-elastic doctor --initial-peer MULTIADDR"


def check_reachable(addresses: Sequence[str], announce: Sequence[str], port: int | None) -> Finding:
    """Whether peers elsewhere can dial this one: what can be said without asking a third party."""
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
            "enough where this peer joins others, as connections are used both ways; to be dialled from elsewhere, "
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
