from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.simulated import made_up

from p2p_elastic.errors import ConfigError
from p2p_elastic.simulator.config import SimulationConfig, SimulationResult
from p2p_elastic.simulator.options import KEYS, build, shown, value_of
from p2p_elastic.simulator.sweep import (
    RUNS_MAX,
    Store,
    Turn,
    digest,
    parse_axes,
    plan,
    run_all,
    summary_csv,
    summary_markdown,
)

# ---------------------------------------------------------------- options


def test_every_option_is_one_of_the_configuration_and_none_is_there_twice() -> None:
    assert len(set(KEYS)) == len(KEYS)
    config = SimulationConfig()
    assert all(build({key: value_of(config, key)}) == config for key in KEYS)


def test_options_are_flat_and_may_be_fractions() -> None:
    config = build({"probability": "1/8", "lr": "0.5", "burst_steps": "10", "workers": "3"})
    assert (config.probability, config.learning_rate, config.failures.burst_steps, config.workers) == (
        0.125,
        0.5,
        10,
        3,
    )


@pytest.mark.parametrize(
    ("given", "milestones", "text"),
    [
        ("15,30", (15.0, 30.0), "15+30"),
        ("1.5+3", (1.5, 3.0), "1.5+3"),
        ("none", (), "none"),
        ((2, 4), (2.0, 4.0), "2+4"),
    ],
)
def test_milestones_are_a_list_of_epochs(given: object, milestones: tuple[float, ...], text: str) -> None:
    config = build({"milestones": given})
    assert config.milestones == milestones
    assert shown(config.milestones) == text
    assert build({"milestones": text}) == config


def test_default_as_a_value_takes_the_option_back() -> None:
    base = build({"period": 8, "drop": 0.5})
    assert build({"period": "default", "drop": "default"}, base) == SimulationConfig()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"wrokers": 3}, r"wrokers: got 3; no such option; there are: batch-size, .*workers"),
        ({"workers": "many"}, r"workers: got 'many'; a valid integer"),
        ({"lr": -1}, r"lr: got -1; greater than 0"),
        ({"drop": 2}, r"drop: got 2; less than or equal to 1"),
        ({"milestones": "15,x"}, r"milestones: got 'x'; a valid number"),
        ({"rule": "lsgd", "groups": 2, "global_period": 24}, r"global-period: got 24; a multiple of the period, 16"),
        ({"probability": "1/0"}, r"probability: got '1/0'; a number or a fraction, for example 1/32"),
        ({"split": "halves"}, r"split: got 'halves'; 'shards', 'whole', 'overlap' or 'dirichlet'"),
        ({"rule": "gossip"}, r"rule: got 'gossip'; allowed: elastic-gossip, "),
        ({"period": 2, "probability": 0.5}, r"period/probability: got \(2, 0.5\); give one of the two"),
    ],
)
def test_what_cannot_be_is_an_error_that_says_what_can(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(given)


# ---------------------------------------------------------------- planning


def test_a_plan_has_every_combination_the_last_axis_fastest() -> None:
    planned = plan(SimulationConfig(), parse_axes(["probability=1/8,1/32", "seed=1,2"]))
    assert [(c.probability, c.seed) for c in planned] == [(0.125, 1), (0.125, 2), (0.03125, 1), (0.03125, 2)]


def test_equal_configurations_are_planned_once() -> None:
    assert len(plan(SimulationConfig(), {"workers": ["4", "4", "default"]})) == 1


def test_options_with_dashes_and_failures_can_be_swept() -> None:
    planned = plan(SimulationConfig(), parse_axes(["moving-rate=0.25,0.5", "--drop=0,0.3"]))
    assert {(c.moving_rate, c.failures.drop) for c in planned} == {(a, d) for a in (0.25, 0.5) for d in (0.0, 0.3)}


@pytest.mark.parametrize("text", ["", "seed", "=1", "seed=", "seed=1,,2"])
def test_a_sweep_that_is_none_is_an_error_that_shows_one(text: str) -> None:
    with pytest.raises(ConfigError, match=r"sweep: got .*; KEY=V1,V2,..., for example probability=1/8,1/32"):
        parse_axes([text])


def test_a_key_may_be_swept_once_and_not_too_far() -> None:
    with pytest.raises(ConfigError, match="is there already"):
        parse_axes(["seed=1", "seed=2"])
    with pytest.raises(ConfigError, match="sweep: got 40000; at most 10000 runs"):
        plan(SimulationConfig(), {"seed": range(200), "steps": range(1, 201)})
    assert RUNS_MAX == 10_000


def test_a_combination_that_cannot_be_is_an_error() -> None:
    with pytest.raises(ConfigError, match="groups"):
        plan(SimulationConfig(), parse_axes(["rule=lsgd,elastic-gossip", "groups=2"]))


def test_the_digest_depends_on_what_is_not_default_and_on_nothing_else() -> None:
    assert digest(SimulationConfig()) == digest(build({"workers": 4, "drop": 0.0})) == digest(SimulationConfig())
    assert len({digest(build({"seed": seed})) for seed in range(50)}) == 50


def test_results_from_before_an_option_was_added_are_found_again(tmp_path: Path) -> None:
    options = {"task": "mnist", "workers": 4, "rule": "all-reduce", "epochs": 5, "batch_size": 32}
    config, store = build(options), Store(tmp_path)
    assert digest(config) == "4262774fe3f6"  # of the first version that wrote any
    store.save(made_up(config))
    file = store.place(config) / "result.json"
    document = json.loads(file.read_text())
    for name in ("milestones", "lr_decay"):
        del document["config"][name]
    file.write_text(json.dumps(document))
    assert store.find(config) is not None


# ---------------------------------------------------------------- running


class Runner:
    """Makes results up, counts, and is stopped before its `last`."""

    def __init__(self, last: int = 1000) -> None:
        self.ran: list[SimulationConfig] = []
        self._last = last

    def __call__(self, config: SimulationConfig) -> SimulationResult | None:
        if len(self.ran) == self._last:
            return None
        self.ran.append(config)
        return made_up(config)


def test_a_sweep_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    planned, store = plan(SimulationConfig(), {"seed": [1, 2, 3]}), Store(tmp_path)
    first, second = Runner(last=2), Runner()
    assert [r.config for r in run_all(planned, store, first)] == planned[:2]
    turns: list[Turn] = []
    assert [r.config for r in run_all(planned, store, second, turns.append)] == planned
    assert (first.ran, second.ran) == (planned[:2], planned[2:])
    assert [(turn.number, turn.total, turn.found) for turn in turns] == [(1, 3, True), (2, 3, True), (3, 3, False)]


def test_a_damaged_result_or_one_of_another_configuration_is_made_again(tmp_path: Path) -> None:
    planned, store = plan(SimulationConfig(), {"seed": [1, 2, 3]}), Store(tmp_path)
    run_all(planned, store, Runner())
    (store.place(planned[0]) / "result.json").write_text("{")
    (store.place(planned[1]) / "result.json").write_bytes((store.place(planned[2]) / "result.json").read_bytes())
    again = Runner()
    run_all(planned, store, again)
    assert again.ran == planned[:2]
    assert [result.config for result in store] == sorted(planned, key=digest)


# ---------------------------------------------------------------- summaries


def test_the_summary_has_a_row_per_run_and_means_over_seeds() -> None:
    keys = ("rule", "seed")
    results = [made_up(config) for config in plan(SimulationConfig(), {"rule": ["none", "lsgd"], "seed": [1, 2]})]
    lines = summary_csv(keys, results).splitlines()
    assert lines[0].startswith("rule,seed,accuracy,average,centre,")
    assert len(lines) == 5
    text = summary_markdown(keys, results, 6)
    assert "4 of 6 runs finished" in text
    assert "| none | 2 | 80.00 | 0.00 |" in text


def test_a_run_without_evaluation_has_no_numbers() -> None:
    assert "| - | - | - |" in summary_markdown(("workers",), [made_up(points=0)], 1)
