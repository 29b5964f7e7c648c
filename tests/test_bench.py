"""`p2p-elastic bench`: figures, options, and one tiny run over real libp2p."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from p2p_elastic.bench.figures import Spread, as_json, quantile, ratio
from p2p_elastic.cli import main


def test_a_spread_is_median_smallest_and_largest_and_ratios_are_pair_by_pair() -> None:
    assert Spread.of([5.0, 1.0, 2.0]) == Spread(2.0, 1.0, 5.0, 3)
    assert ratio([2.0, 8.0, 3.0], [1.0, 2.0, 3.0]) == Spread(2.0, 1.0, 4.0, 3)
    assert quantile([float(n) for n in range(100)], 0.99) == 99.0
    assert as_json({"a": (Spread.of([1.0]), 1 / 3)}) == {
        "a": [{"median": 1.0, "low": 1.0, "high": 1.0, "runs": 1}, 0.33333]
    }


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("exchange", "--size", "much"), "numbers with commas"),
        (("exchange", "--size", "0"), "must be above 0"),
        (("exchange", "--streams", "9"), "auto, or a number from 1 to 8"),
        (("overhead", "--codec", "zip"), "allowed: auto, none, float16, bfloat16, int8"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(options: tuple[str, ...], complaint: str) -> None:
    result = CliRunner().invoke(main, ["bench", *options])
    assert result.exit_code != 0
    assert complaint in result.output


def test_apply_measures_flat_and_plain_storage() -> None:
    result = CliRunner().invoke(main, ["bench", "apply", "--size", "0.1", "--rounds", "2", "--json", "-"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert {(row["tensors"], row["flat"]) for row in rows} == {(n, flat) for n in (4, 300) for flat in (True, False)}
    assert all(row["gigabytes_per_second"]["snapshot"]["median"] > 0.0 for row in rows)


def test_two_real_processes_exchange_and_swap() -> None:
    options = ["--size", "0.4", "--codec", "float16", "--streams", "2", "--rounds", "2", "--json", "-"]
    result = CliRunner().invoke(main, ["bench", "exchange", *options])
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)["rows"]
    assert 0.2 <= row["megabytes_sent_each_way"] < 0.21
    assert row["ours"]["seconds"]["runs"] == row["bare"]["seconds"]["runs"] == 2
    assert row["ours"]["seconds"]["low"] > 0.0
