"""The examples in docstrings run."""

from __future__ import annotations

import doctest
import importlib.util
import pkgutil
from pathlib import Path

import pytest

import p2p_elastic

NAMES = [p2p_elastic.__name__, *(m.name for m in pkgutil.walk_packages(p2p_elastic.__path__, "p2p_elastic."))]


def has_example(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return ">>> " in Path(spec.origin).read_text(encoding="utf-8")


WITH_EXAMPLES = [name for name in NAMES if has_example(name)]


def test_the_walk_finds_examples_in_every_kind_of_package() -> None:
    assert {"p2p_elastic.rules.base", "p2p_elastic.simulator.options", "p2p_elastic.tasks"} <= set(WITH_EXAMPLES)
    assert {"p2p_elastic.peers.peer", "p2p_elastic.api.app"} <= set(NAMES)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_in_docstrings_run(name: str) -> None:
    done = doctest.testmod(importlib.import_module(name))
    assert done.attempted > 0
    assert done.failed == 0
