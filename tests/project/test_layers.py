"""What matters about the structure is a test: layers, cycles, who may know hivemind, and what an import costs."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys

import pytest
from helpers.structure import (
    ATTRIBUTES_MAX,
    DOCUMENTED_MIN,
    LAYERS,
    MODULES_MAX,
    attributes,
    folders,
    graph,
    imports,
    layer,
    modules,
    private_uses,
    public,
    untested_peers,
    upwards,
)

SOURCES = modules()
PURE = LAYERS[: LAYERS.index("client")]  # know no wall clock, no sockets and no global random numbers
EXCEPT = ("p2p_elastic.common", "p2p_elastic.tasks.folders", "p2p_elastic.health.sensors")  # ask the machine


def test_every_layer_has_a_package_and_every_package_a_layer() -> None:
    assert {LAYERS[layer(name)[0]] for name in SOURCES if "." in name} == set(LAYERS)


def test_imports_point_one_way() -> None:
    assert upwards(SOURCES) == []


def test_folders_and_classes_keep_to_their_limits() -> None:
    assert {name: count for name, count in folders().items() if count > MODULES_MAX} == {}
    assert {name: count for name, count in attributes(SOURCES).items() if count > ATTRIBUTES_MAX} == {}


def test_public_classes_and_functions_say_what_they_take_give_and_raise() -> None:
    known = public(SOURCES)
    assert len(known) > 1000
    assert sum(d.lacks == () for d in known) >= DOCUMENTED_MIN * len(known)


def test_every_module_of_peers_is_imported_by_a_unit_test() -> None:
    assert untested_peers(SOURCES) == []


def test_there_is_no_import_cycle() -> None:
    graphlib.TopologicalSorter(graph(SOURCES)).prepare()


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        (
            "hivemind",
            {
                "p2p_elastic.peers.transport.libp2p",
                *(f"p2p_elastic.peers.discovery.{name}" for name in ("dht_node", "signed_dht", "signed_records")),
            },
        ),
        (
            "fastapi",
            {
                f"p2p_elastic.api.{name}"
                for name in ("app", "dependencies", "events_stream", "pages", "routes_control", "routes_read", "server")
            },
        ),
        ("psutil", {"p2p_elastic.health.sensors"}),
        ("prometheus_client", {"p2p_elastic.api.metrics"}),
        ("uvicorn", {"p2p_elastic.api.connection", "p2p_elastic.api.server"}),
        (
            "click",
            {
                f"p2p_elastic.cli.{name}"
                for name in (
                    *("main", "admission", "bench", "doctor", "errors", "export", "options", "service", "simulate"),
                    "status",
                )
            },
        ),
        ("matplotlib", {"p2p_elastic.simulator.plots"}),
    ],
)
def test_a_foreign_package_is_known_only_where_it_belongs(package: str, allowed: set[str]) -> None:
    users = {n for n, tree in SOURCES.items() if any(i.split(".")[0] == package for i in imports(tree))}
    assert users
    assert users <= allowed


@pytest.mark.parametrize("name", [n for n in SOURCES if n.split(".")[1:2] and n.split(".")[1] in PURE])
def test_pure_packages_know_no_wall_clock_no_sockets_and_no_global_random_numbers(name: str) -> None:
    if not name.startswith(EXCEPT):
        assert not {"socket", "asyncio", "time"} & set(imports(SOURCES[name]))
    globals_used = {
        f"{n.value.id}.{n.attr}"
        for n in ast.walk(SOURCES[name])
        if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "random"
    }
    assert globals_used <= {"random.Random"}


def test_tests_touch_no_private_member_of_anything_else() -> None:
    assert private_uses() == []


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
        "import p2p_elastic.node.join\n"
        "assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), logging.root.handlers)\n"
    )
    assert (done.stdout, done.stderr) == ("", "")
