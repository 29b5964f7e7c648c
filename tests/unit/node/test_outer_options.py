"""The outer optimizer in the options of `join` and in the manifest of a run."""

from __future__ import annotations

from typing import Any

import pytest

from p2p_elastic.errors import ConfigError
from p2p_elastic.node.config import load_config
from p2p_elastic.protocol.manifest import RunManifest, check_against, read_manifest
from p2p_elastic.rules.outer import Outer
from p2p_elastic.tasks import Recipe

RECIPE = Recipe(batch_size=32, learning_rate=0.03, momentum=0.9, epochs=60)


def found(**options: Any) -> RunManifest:
    return load_config(None, options).found("r", "12D3A", "digits", "0" * 32, RECIPE)


def test_a_run_without_an_outer_optimizer_is_published_as_by_versions_that_know_of_none() -> None:
    for run in (found(), found(outer="none")):
        assert not [key for key in (*run.model_dump(), *run.settings()) if "outer" in key]
        assert "outer" not in run.model_dump_json()
        assert "outer" not in run.describe()
        assert run.policy().outer is None
        assert read_manifest(run.model_dump()) == run


def test_a_founder_writes_out_the_numbers_of_its_outer_optimizer() -> None:
    run = found(outer="nesterov", outer_lr=0.5)
    assert (run.outer, run.outer_lr, run.outer_momentum) == ("nesterov", 0.5, 0.7)
    assert run.policy().outer == Outer(0.5, 0.7)
    assert found(outer="noloco").policy().outer == Outer(0.7, 0.5, nesterov=False)
    assert "outer nesterov with learning rate 0.5, momentum 0.7" in run.describe()
    assert read_manifest(run.model_dump()) == RunManifest.model_validate_json(run.model_dump_json()) == run


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"outer": "adam"}, "outer"),
        ({"outer": "nesterov", "rule": "gosgd"}, "outer"),
        ({"outer": "nesterov", "rule": "gossip-push"}, "outer"),
        ({"outer_lr": 0.5}, "outer-lr"),
        ({"outer": "none", "outer_momentum": 0.5}, "outer-momentum"),
        ({"outer": "nesterov", "outer_momentum": 1.0}, "outer-momentum"),
        ({"outer": "nesterov", "outer_lr": 0.0}, "outer-lr"),
    ],
)
def test_an_outer_optimizer_that_cannot_be_founds_no_run(options: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        found(**options)
    assert caught.value.key == key


@pytest.mark.parametrize(
    "changes",
    [{"outer": "none"}, {"outer_lr": None}, {"outer_momentum": None}, {"outer_lr": 0.0}, {"outer_momentum": 1.0}],
)
def test_a_manifest_with_half_an_outer_optimizer_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        read_manifest({**found(outer="nesterov").model_dump(), **changes})


def test_an_outer_optimizer_of_a_later_version_is_not_joined() -> None:
    run = read_manifest({**found(outer="nesterov").model_dump(), "outer": "adam"})
    with pytest.raises(ConfigError, match="outer: got 'adam'; .*update"):
        check_against(run, {})
    with pytest.raises(ConfigError, match="outer: got 'adam'"):
        run.policy()


@pytest.mark.parametrize(
    ("asked", "key"),
    [({"outer": "none"}, "outer"), ({"outer_lr": 0.5}, "outer-lr"), ({"outer_momentum": 0.5}, "outer-momentum")],
)
def test_all_peers_of_a_run_have_its_outer_optimizer(asked: dict[str, Any], key: str) -> None:
    run = found(outer="nesterov")
    check_against(run, load_config(None, {"outer": "nesterov", "outer_momentum": 0.7}).binding())
    with pytest.raises(ConfigError, match=f"{key}: got .* has --{key}") as caught:
        check_against(run, load_config(None, asked).binding())
    assert caught.value.key == key
