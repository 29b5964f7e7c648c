"""What the benchmark of time to an accuracy makes of its measurements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks" / "to_accuracy"
COARSE = (0, 8, 16, 19)


First = Callable[[Callable[[int], float], Sequence[int], float], int | None]


@pytest.fixture
def first_reached(monkeypatch: pytest.MonkeyPatch) -> First:
    monkeypatch.syspath_prepend(BENCHMARKS)
    from judge import first_reached

    return first_reached


@pytest.mark.parametrize(
    ("good", "first"),
    [
        ((), None),
        (range(20), 0),
        ((17, 18, 19), 17),  # the run ended soon after
        ((19,), None),  # nobody knows what came next
        ((8, 12, 13), 12),  # once only is chance
        ((7, 8), 7),
        ((8, 9), 8),
        ((4, 5), None),  # between those that are looked at
    ],
)
def test_a_target_counts_from_where_it_is_reached_twice_in_a_row(
    first_reached: First, good: Sequence[int], first: int | None
) -> None:
    assert first_reached(lambda i: float(i in good), COARSE, 1.0) == first
