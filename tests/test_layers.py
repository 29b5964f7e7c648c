"""What matters about the structure is a test: layers, cycles, who may know hivemind, and what an import costs."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import p2p_elastic

ROOT = Path(p2p_elastic.__file__).parent
LAYERS = ("core", "peers", "api", "cli")
# composition roots and what people see
TOP = {
    *(
        "bench",
        "board",
        "centre_duty",
        "cli",
        "cli_bench",
        "cli_doctor",
        "cli_errors",
        "cli_export",
        "cli_options",
        "cli_simulate",
        "cli_status",
        "demo",
        "display",
        "export",
        "exporting",
    ),
    *(
        "doctor",
        "doctor_checks",
        "doctor_network",
        "doctor_probes",
        "doctor_task",
        "ending",
        "finding",
        "join",
        "joining",
        "port_claim",
        "processes",
    ),
    *(
        "resume",
        "sensors",
        "simulate",
        "simulate_screen",
        "status_client",
        "status_screen",
        "stop",
        "window",
        "__main__",
    ),
}


def sources() -> dict[str, ast.Module]:
    found = {}
    for path in sorted(
        [
            *ROOT.glob("*.py"),
            *(p for d in ("bench", "tasks", "simulator", "peers", "api") for p in (ROOT / d).glob("*.py")),
        ]
    ):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(("p2p_elastic", *parts)).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


SOURCES = sources()


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(name: str) -> set[str]:
    return {i for i in imports(SOURCES[name]) if i in SOURCES and i != name}


def layer(name: str) -> int:
    part = [*name.split("."), ""][1]
    return LAYERS.index("cli" if part in TOP else part if part in LAYERS else "core")


def test_every_layer_is_found() -> None:
    assert {layer(name) for name in SOURCES} == set(range(len(LAYERS)))


@pytest.mark.parametrize("name", SOURCES)
def test_imports_point_one_way(name: str) -> None:
    upwards = [i for i in own_imports(name) if layer(i) > layer(name)]
    assert not upwards


def test_there_is_no_import_cycle() -> None:
    # A package's __init__ only gathers its modules; importing one of them runs it first.
    graph = {name: {i for i in own_imports(name) if not name.startswith(i + ".")} for name in SOURCES}
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("hivemind", {"p2p_elastic.peers.libp2p", "p2p_elastic.peers.dht"}),
        (
            "fastapi",
            {
                f"p2p_elastic.api.{name}"
                for name in ("app", "pages", "reading", "server", "source", "stream", "writing")
            },
        ),
        ("psutil", {"p2p_elastic.health.sensors"}),
        ("prometheus_client", {"p2p_elastic.api.metrics"}),
        ("uvicorn", {"p2p_elastic.api.connection", "p2p_elastic.api.server"}),
        (
            "click",
            {
                f"p2p_elastic.cli.main{name}"
                for name in ("", "_bench", "_doctor", "_errors", "_export", "_options", "_simulate", "_status")
            },
        ),
        ("matplotlib", {"p2p_elastic.simulator.plots"}),
    ],
)
def test_a_foreign_package_is_known_only_where_it_belongs(package: str, allowed: set[str]) -> None:
    users = {n for n, tree in SOURCES.items() if any(i.split(".")[0] == package for i in imports(tree))}
    assert users
    assert users <= allowed


def test_the_core_knows_no_wall_clock_no_sockets_and_no_global_random_numbers() -> None:
    for name, tree in SOURCES.items():
        if layer(name) == 0:
            assert not {"socket", "asyncio", "time"} & set(imports(tree)) or name.endswith("tasks.folders"), name
            globals_used = [
                f"{n.value.id}.{n.attr}"
                for n in ast.walk(tree)
                if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "random"
            ]
            assert set(globals_used) <= {"random.Random"}, name


def test_nothing_is_ever_unpickled_from_outside() -> None:
    users = {n for n, tree in SOURCES.items() if {"pickle", "marshal", "shelve"} & set(imports(tree))}
    loads = {
        n
        for n, tree in SOURCES.items()
        for c in ast.walk(tree)
        if isinstance(c, ast.Call) and ast.unparse(c.func) in ("torch.load", "eval", "exec")
    }
    assert users | loads == set()


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "default", "-c", code], capture_output=True, text=True, check=True)


def test_importing_the_package_is_silent_and_loads_nothing_heavy() -> None:
    done = run("import sys, p2p_elastic, p2p_elastic.cli.main, p2p_elastic.cli.simulate; print(*sys.modules)")
    assert done.stderr == ""
    assert not {"torch", "hivemind", "fastapi", "sklearn", "torchvision", "matplotlib"} & set(done.stdout.split())


def test_importing_the_network_is_silent_and_leaves_signals_and_logging_alone() -> None:
    done = run(
        "import logging, signal\n"
        "before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), logging.root.handlers[:]\n"
        "import p2p_elastic.node.participation\n"
        "assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), logging.root.handlers)\n"
    )
    assert (done.stdout, done.stderr) == ("", "")
