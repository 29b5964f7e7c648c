"""What the benchmark of own loops counts, and what a loop needs at most for a swarm."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks" / "own_loop"
PLAIN = '''"""Alone."""
import torch
def train(steps):
    for _ in range(steps):
        step()
    return 1
'''
TOGETHER = '''"""Together.

Other processes: 2 (a server, and its database).
"""
import torch
import library.parts
from library import Peer
def train(steps):
    with Peer() as peer:
        for _ in range(steps):
            step(peer)
    peer.leave()
    return 1
'''


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import count

    return count


def test_a_statement_counts_if_it_is_new_or_changed_wherever_it_stands(counting: ModuleType) -> None:
    counted = counting.count(PLAIN, TOGETHER, "library")
    assert counted == (3, 2, 2, 2, "a server, and its database")


def test_the_same_loop_needs_nothing(counting: ModuleType) -> None:
    same = PLAIN.replace("Alone.", "Alone.\n\nOther processes: 0 (nobody).\n")
    assert counting.count(PLAIN, same, "library") == (0, 0, 0, 0, "nobody")


def test_a_swarm_needs_at_most_eight_statements_and_one_import(counting: ModuleType) -> None:
    plain, swarm = ((BENCHMARKS / name).read_text("utf-8") for name in ("plain.py", "with_swarm.py"))
    counted = counting.count(plain, swarm, "p2p_elastic")
    assert counted.statements <= 8
    assert (counted.imports, counted.processes) == (1, 0)
