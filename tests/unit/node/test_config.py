"""Options, from a file and from the command line, and the manifest of a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from p2p_elastic.cli.main import join
from p2p_elastic.cli.options import asked
from p2p_elastic.errors import ConfigError
from p2p_elastic.node.config import (
    DEFAULT_RULE,
    JoinConfig,
    load_config,
)
from p2p_elastic.node.plan import describe_plan
from p2p_elastic.protocol.limits import AUTO_FRAGMENTS
from p2p_elastic.protocol.manifest import (
    BINDING,
    RunManifest,
    check_against,
    check_batch_size,
    choose_run,
    read_manifest,
)
from p2p_elastic.rules.methods import Flow, Topology, find_method
from p2p_elastic.rules.policy import DEFAULT_PROBABILITY
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.tasks import Recipe, Shard
from p2p_elastic.training.settings import OWN_LEARNING_RATES, Settings

SCHEMA = "0" * 32
RECIPE = Recipe(batch_size=32, learning_rate=0.03, momentum=0.9, epochs=60)
MANIFEST: dict[str, Any] = {
    "run": "digits-1",
    "founder": "12D3A",
    "task": "digits",
    "schema_hash": SCHEMA,
    "rule": "elastic-gossip",
    "moving_rate": 0.5,
    "period": None,
    "probability": 0.125,
    "codec": "none",
    "batch_size": 32,
    "learning_rate": 0.03,
    "momentum": 0.9,
    "init_seed": 0,
}


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "peer.toml"
    path.write_text(text, encoding="utf-8")
    return path


def manifest(**changes: Any) -> RunManifest:
    return RunManifest(**{**MANIFEST, **changes})


def refused(given: dict[str, Any]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_config(None, given)
    return caught.value


# ---------------------------------------------------------------- file and command line


def test_nothing_given_is_the_defaults() -> None:
    config = load_config(None, {})
    assert config == JoinConfig()
    assert config.binding() == {}
    assert config.part is None
    assert (config.host, config.http_host) == ("0.0.0.0", "127.0.0.1")


def test_a_file_spells_options_as_the_command_line_does(tmp_path: Path) -> None:
    path = toml(
        tmp_path,
        """
        initial-peer = ["/ip4/10.0.0.1/tcp/1/p2p/12D3A", "/ip4/10.0.0.2/tcp/1/p2p/12D3B"]
        task = "mnist"
        moving-rate = 0.25
        period = 8
        steps = 100
        lr = 0.1
        shard = "2/4"
        http-port = 0
        identity = "keys/mine"
        """,
    )
    config = load_config(path, {})
    assert config.initial_peer == ("/ip4/10.0.0.1/tcp/1/p2p/12D3A", "/ip4/10.0.0.2/tcp/1/p2p/12D3B")
    assert (config.task, config.moving_rate, config.period, config.steps, config.lr) == ("mnist", 0.25, 8, 100, 0.1)
    assert (config.part, config.http_port, config.identity) == (Shard(2, 4), 0, Path("keys/mine"))


def test_the_command_line_wins_over_the_file_option_by_option(tmp_path: Path) -> None:
    path = toml(tmp_path, 'batch_size = 16\nmomentum = 0.5\ninitial-peer = ["/ip4/1.2.3.4/tcp/1/p2p/12D3A"]')
    config = load_config(path, {"batch_size": 64, "initial_peer": ()})
    assert (config.batch_size, config.momentum, config.initial_peer) == (64, 0.5, ())


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert load_config(toml(tmp_path, ""), {}) == JoinConfig()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="config: got .*none.toml.*cannot be read: No such file") as caught:
        load_config(tmp_path / "none.toml", {})
    assert caught.value.key == "config"


def test_a_folder_instead_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="config: got .*cannot be read: Is a directory"):
        load_config(tmp_path, {})


@pytest.mark.parametrize("content", [b"period = ", b"\xff\xfe", b"a = 1\na = 2"])
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "peer.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="config: got .*peer.toml.*no TOML file: "):
        load_config(path, {})


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "peer.toml").write_bytes("\ufeffsteps = 5".encode())
    assert load_config(tmp_path / "peer.toml", {}).steps == 5


def test_one_address_needs_no_list(tmp_path: Path) -> None:
    config = load_config(
        toml(tmp_path, 'initial-peer = "/ip4/10.0.0.1/tcp/1/p2p/x"\nannounce = "/ip4/1.2.3.4/tcp/1"'), {}
    )
    assert (config.initial_peer, config.announce) == (("/ip4/10.0.0.1/tcp/1/p2p/x",), ("/ip4/1.2.3.4/tcp/1",))


def test_host_names_are_taken_as_browsers_send_them(tmp_path: Path) -> None:
    with join.make_context("join", ["--http-allow-host", "Peer.Example.", "--http-allow-host", "my_peer"]) as context:
        assert load_config(None, asked(context, context.params)).http_allow_host == ("peer.example", "my_peer")
    assert load_config(toml(tmp_path, 'http-allow-host = "bücher.example"'), {}).http_allow_host == (
        "xn--bcher-kva.example",
    )


@pytest.mark.parametrize("name", ["", "http://peer", "peer:8870", "peer/x", "*", "a..b", "x" * 70])
def test_what_is_no_host_name_is_refused(name: str) -> None:
    assert "without scheme, port and path" in str(refused({"http_allow_host": (name,)}))


def test_a_path_that_no_shell_has_seen_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for key in ("data-dir", "http-token-file", "identity", "output", "resume"):
        config = load_config(toml(tmp_path, f'{key} = "~/x"'), {})
        assert getattr(config, key.replace("-", "_")) == tmp_path / "x"


def test_a_probability_may_be_a_fraction(tmp_path: Path) -> None:
    with join.make_context("join", ["--probability", "1/32"]) as context:
        assert load_config(None, asked(context, context.params)).probability == 1 / 32
    assert load_config(toml(tmp_path, 'probability = "1 / 8"'), {}).probability == 0.125
    assert load_config(None, {"probability": "0.5"}).binding() == {"probability": 0.5}
    error = refused({"probability": "1/0"})
    assert str(error) == "probability: got '1/0'; a number or a fraction, for example 1/32"
    assert [refused({"probability": text}).key for text in ("3/2", "often", "nan")] == ["probability"] * 3


@pytest.mark.parametrize(("text", "kept"), [('"500kB/s"', "500kB/s"), ("250000", "250000"), ("2.5e5", "250000.0")])
def test_a_bandwidth_in_a_file_is_a_text_or_a_number(tmp_path: Path, text: str, kept: str) -> None:
    config = load_config(toml(tmp_path, f"max-bandwidth = {text}\nmax-share = 0.25"), {})
    assert (config.max_bandwidth, config.max_share) == (kept, 0.25)
    assert JoinConfig().max_bandwidth is JoinConfig().max_share is None
    assert config.binding() == {}  # of one peer, not of the run


@pytest.mark.parametrize(
    ("key", "value"),
    [*(("max_bandwidth", v) for v in ("fast", "500kB", 0, -1, True)), *(("max_share", v) for v in (0, 1.1, math.nan))],
)
def test_a_budget_of_nothing_or_too_much_is_refused_by_name(key: str, value: Any) -> None:
    assert refused({key: value}).key == key.replace("_", "-")


# ---------------------------------------------------------------- what cannot be


def test_an_unknown_option_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="movingrate: got 0.5; no such option; there are: .*moving-rate") as caught:
        load_config(toml(tmp_path, "movingrate = 0.5"), {})
    assert (caught.value.key, caught.value.got) == ("movingrate", 0.5)
    assert "moving_rate" not in caught.value.allowed


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("run", "../x", "letters, digits"),
        ("run", "x" * 65, "at most 64"),
        ("device", "tpu", "'cuda'"),
        ("threads", 0, "greater than or equal to 1"),
        ("threads", 100_000, "less than or equal to 1024"),
        ("output", "~nobody-here/x", "no such home folder"),
        ("rule", "sgd", "elastic-gossip"),
        ("moving_rate", 1.0, "from 0"),
        ("moving_rate", -0.5, "from 0"),
        ("moving_rate", float("nan"), "from 0"),
        ("period", 0, "1"),
        ("probability", 1.5, "from 0 to 1"),
        ("probability", float("nan"), "from 0 to 1"),
        ("steps", 0, "greater than or equal to 1"),
        ("steps", 1.5, "integer"),
        ("epochs", -1, "greater than or equal to 1"),
        ("batch_size", 0, "greater than or equal to 1"),
        ("optimizer", "adam", "'adahessian'"),
        ("lr", 0.0, "greater than 0"),
        ("lr", float("nan"), ""),
        ("lr", float("inf"), "less than or equal to 10"),
        ("lr", 1000, "less than or equal to 10"),
        ("batch_size", 2**20, "less than or equal to 65536"),
        ("period", 2**31 - 1, "less than or equal to 1000000"),
        ("global_period", 2**31 - 1, "less than or equal to 1000000"),
        ("momentum", 1.0, "less than or equal to 0.999"),
        ("seed", -1, "greater than or equal to 0"),
        ("shard", "5/4", "1 <= INDEX <= COUNT"),
        ("shard", "half", "INDEX/COUNT"),
        ("wait_for_peers", -1, "greater than or equal to 0"),
        ("port", 65536, "less than or equal to 65535"),
        ("port", "http", "integer"),
        ("http_port", -1, "greater than or equal to 0"),
        ("initial_peer", 5, "tuple"),
        ("log_format", "xml", "'json'"),
        ("identity", 5, "path"),
    ],
)
def test_a_wrong_value_is_refused_with_the_option_as_spelled_and_what_is_allowed(
    option: str, value: object, allowed: str
) -> None:
    error = refused({option: value})
    assert error.key == option.replace("_", "-")
    assert str(error.got) == str(value)
    assert allowed in error.allowed
    assert str(error).startswith(f"{error.key}: got {value!r}; ")


def test_steps_and_epochs_contradict_each_other() -> None:
    error = refused({"steps": 10, "epochs": 2})
    assert (error.key, error.got, error.allowed) == ("steps/epochs", (10, 2), "give one of them")
    error = refused({"epochs": 2, "duration": "2h"})
    assert (error.key, error.got, error.allowed) == ("epochs/for", (2, "2h"), "give one of them")


def test_period_and_probability_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"period/probability: got \(8, 0.5\); give one of the two"):
        load_config(toml(tmp_path, "period = 8\nprobability = 0.5"), {})


def test_a_config_does_not_change() -> None:
    with pytest.raises(ValidationError):
        JoinConfig().task = "mnist"  # type: ignore[misc]


# ---------------------------------------------------------------- founding


def found(**options: Any) -> RunManifest:
    return load_config(None, options).found("r", "12D3A", "digits", SCHEMA, RECIPE)


def test_a_founder_that_asks_for_nothing_gets_the_defaults_and_the_recipe() -> None:
    made = found()
    assert (made.rule, made.moving_rate, made.codec, made.fragments) == (DEFAULT_RULE, 0.5, "auto", AUTO_FRAGMENTS)
    assert made.schedule == Schedule(probability=DEFAULT_PROBABILITY)
    assert (made.batch_size, made.learning_rate, made.momentum, made.init_seed) == (32, 0.03, 0.9, 0)


def test_a_founder_gets_what_it_asks_for_zeros_included() -> None:
    made = found(moving_rate=0.0, period=4, batch_size=8, lr=0.5, momentum=0.0, seed=3)
    assert (made.moving_rate, made.schedule) == (0.0, Schedule(period=4))
    assert (made.batch_size, made.learning_rate, made.momentum, made.init_seed) == (8, 0.5, 0.0, 3)
    assert found(probability=0.0).schedule == Schedule(probability=0.0)


@pytest.mark.parametrize("lr", [None, 0.5])
@pytest.mark.parametrize("optimizer", ["adahessian", "muon", "schedule-free"])
def test_the_learning_rate_of_a_run_is_for_sgd_and_others_have_their_own(optimizer: str, lr: float | None) -> None:
    sgd, other = (load_config(None, {"optimizer": name, "lr": lr}) for name in ("sgd", optimizer))
    assert sgd.learning_rate(0.03) == (lr or 0.03)
    assert other.learning_rate(0.03) == (lr or OWN_LEARNING_RATES[optimizer])
    assert found(optimizer=optimizer, lr=lr).learning_rate == RECIPE.learning_rate


@pytest.mark.parametrize("option", ["period", "batch_size", "seed", "lr", "momentum", "moving_rate", "probability"])
def test_whatever_a_config_takes_a_run_can_be_founded_with(option: str) -> None:
    taken = 0
    for value in (0, 1e-300, 0.5, 1, 1000, 2**20, 2**20 + 1, 2**31 - 1, 2**31, 2**64):
        try:
            config = load_config(None, {option: value})
        except ConfigError as error:
            assert error.key == option.replace("_", "-")
        else:
            config.found("r", "12D3A", "digits", SCHEMA, RECIPE)
            taken += 1
    assert taken > 0


def test_only_what_binds_all_peers_is_checked_against_the_run() -> None:
    config = load_config(None, {"task": "digits", "period": 4, "lr": 0.5, "batch_size": 8, "moving_rate": 0.0})
    assert config.binding() == {"task": "digits", "moving_rate": 0.0, "period": 4}
    assert config.binding().keys() <= set(BINDING)


# ---------------------------------------------------------------- manifest


def test_a_manifest_describes_itself_in_one_line() -> None:
    line = manifest().describe()
    for fact in ("digits-1", "task digits", "elastic-gossip", "moving rate 0.5", "0.125", "batch 32", "0.03", "0.9"):
        assert fact in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "changes",
    [
        {"moving_rate": 1.0},
        {"moving_rate": float("nan")},
        {"batch_size": 0},
        {"learning_rate": float("inf")},
        {"momentum": 1.0},
        {"init_seed": -1},
        {"task": "../../etc"},
        {"task": "os.system"},
        {"rule": ""},
        {"run": "a b"},
        {"schema_hash": "xyz"},
        {"founder": ""},
        {"code": "import os"},
        {"period": 0},
        {"probability": 2.0},
        {"period": 4, "probability": 0.5},
        {"period": None, "probability": None},
    ],
)
def test_a_manifest_that_cannot_be_is_never_built(changes: dict[str, Any]) -> None:
    with pytest.raises((ValidationError, ConfigError)):
        manifest(**changes)


@pytest.mark.parametrize(
    ("field", "option", "largest", "beyond"),
    [
        ("batch_size", "batch_size", 65_536, 65_537),
        ("learning_rate", "lr", 10.0, 10.001),
        ("momentum", "momentum", 0.999, 0.9991),
        ("period", "period", 1_000_000, 1_000_001),
        ("global_period", "global_period", 1_000_000, 1_000_001),
        ("fragments", "fragment", 4096, 4097),
    ],
)
def test_a_run_of_the_network_is_bound_as_the_command_line_is(
    field: str, option: str, largest: float, beyond: float
) -> None:
    fields: dict[str, Any] = {**MANIFEST, "probability": None, "period": 4}
    rule = {"rule": "lsgd"} if option == "global_period" else {}
    assert getattr(load_config(None, {**rule, option: largest}), option) == largest
    assert getattr(read_manifest({**fields, field: largest}), field) == largest
    assert refused({**rule, option: beyond}).key == option.replace("_", "-")
    with pytest.raises(ConfigError) as caught:
        read_manifest({**fields, field: beyond})
    error = caught.value
    assert (error.key, error.got) == (field.replace("_", "-"), beyond)
    assert error.allowed == (
        f"allowed: less than or equal to {largest:.10g}. Run 'digits-1' defines it, and cannot be joined"
    )


def test_what_a_manifest_says_wrong_is_named() -> None:
    def said(**changes: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            read_manifest({key: value for key, value in {**MANIFEST, **changes}.items() if value != "missing"})
        return str(caught.value)

    assert said(warp=9).startswith("warp: got 9; not known in this version: update p2p-elastic. Run 'digits-1' defines")
    assert said(momentum="missing").startswith("momentum: got 'None'; Field required")
    assert said(period=4).startswith("schedule: got '(4, 0.125)'; one of period and probability")
    assert len(said(rule="x" * 2000)) < 400
    assert len(said(run={"deep": "x" * 2000})) < 400


def test_adahessian_has_a_bound_of_its_own_for_the_learning_rate() -> None:
    assert load_config(None, {"optimizer": "adahessian", "lr": 1.0}).lr == 1.0
    error = refused({"optimizer": "adahessian", "lr": 1.5})
    assert str(error) == "lr: got 1.5; above 0, at most 1 with --optimizer adahessian"


def test_a_batch_is_no_larger_than_the_training_set() -> None:
    check_batch_size(1257, 1257)
    with pytest.raises(ConfigError, match="batch-size: got 1258; at most the number of training examples, 1,257"):
        check_batch_size(1258, 1257)


def test_a_run_that_cannot_be_joined_is_said_where_there_is_no_other_that_is_meant() -> None:
    error = ConfigError("batch-size", 2**20, "too many")
    assert choose_run((manifest(),), None, {"other": error}) == manifest()
    assert choose_run((manifest(),), "digits-1", {"digits-1": error}) == manifest()
    assert choose_run((manifest(),), "third", {"other": error}) is None
    for manifests, wanted in (((), None), ((), "other"), ((manifest(),), "other")):
        with pytest.raises(ConfigError, match="too many"):
            choose_run(manifests, wanted, {"other": error})


def plan(**changes: Any) -> str:
    values: dict[str, Any] = {"batch_size": 32, "learning_rate": 0.03, "momentum": 0.9, **changes}
    return describe_plan(manifest(), Settings(steps=5, epochs=1, seed=1, **values))


def test_what_is_taken_over_from_a_run_is_told_in_lines_with_what_is_the_peers_own() -> None:
    assert plan().splitlines() == [
        "Taken over from run digits-1 of 12D3A:",
        "    task           digits",
        "    rule           elastic-gossip, moving rate 0.5",
        "    exchanges      with probability 0.125 per step",
        "    weighting      dynamic",
        "    codec          none",
        "    optimizer      sgd, of each peer's own choice",
        "    batch size     32",
        "    learning rate  0.03",
        "    momentum       0.9",
    ]
    own = plan(batch_size=64, learning_rate=0.02, momentum=0.0, optimizer="adahessian")
    assert "batch size     64 by this peer's options; the run's is 32" in own
    assert "learning rate  0.02 by this peer's options; the run's is 0.03" in own
    assert "momentum       none, as adahessian has none" in own
    assert "batch" not in describe_plan(manifest(), None)  # a centre does not train


def test_asking_for_nothing_or_for_the_same_fits_any_run() -> None:
    check_against(manifest(), {})
    check_against(manifest(), {key: MANIFEST.get(key) for key in BINDING})


@pytest.mark.parametrize(
    ("asked", "key", "has"),
    [
        ({"task": "mnist"}, "task", "--task digits"),
        ({"rule": "other"}, "rule", "--rule elastic-gossip"),
        ({"moving_rate": 0.0}, "moving-rate", "--moving-rate 0.5"),
        ({"period": 8}, "period", "no --period"),
        ({"probability": 0.5}, "probability", "--probability 0.125"),
    ],
)
def test_what_contradicts_the_run_is_refused_with_what_the_run_has(asked: dict[str, Any], key: str, has: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_against(manifest(), asked)
    error = caught.value
    assert (error.key, error.got) == (key, next(iter(asked.values())))
    assert error.allowed == f"run 'digits-1' has {has}; leave the option out to take the run's"


def test_a_rule_of_a_later_version_is_refused_with_advice() -> None:
    with pytest.raises(
        ConfigError, match=r"rule: got 'later'; the run's rule is not known here \(elastic-.*\): update"
    ):
        check_against(manifest(rule="later"), {})


# ---------------------------------------------------------------- choosing a run


def test_where_no_run_is_there_yet_none_is_chosen() -> None:
    assert choose_run((), None) is None
    assert choose_run((), "digits-1") is None
    assert choose_run((manifest(),), "other") is None


def test_the_only_run_needs_no_name() -> None:
    assert choose_run((manifest(),), None) == manifest()


def test_the_named_run_is_chosen_among_several() -> None:
    other = manifest(run="other")
    assert choose_run((manifest(), other), "other") == other


def test_several_runs_and_no_name_is_an_error_that_lists_them() -> None:
    with pytest.raises(ConfigError, match="run: got None; several runs are there: b, digits-1; choose one with --run"):
        choose_run((manifest(), manifest(run="b")), None)


def test_one_run_founded_twice_with_the_same_settings_is_one_run_everywhere() -> None:
    one, two = manifest(founder="12D3A"), manifest(founder="12D3B")
    assert choose_run((one, two), None) == choose_run((two, one), "digits-1") == one


def test_one_name_for_runs_that_differ_is_an_error_that_names_the_founders() -> None:
    with pytest.raises(ConfigError, match="run: got 'digits-1'; founded several times .*12D3A, 12D3B"):
        choose_run((manifest(), manifest(founder="12D3B", moving_rate=0.25)), "digits-1")


# ---------------------------------------------------------------- what goes with which rule


@pytest.mark.parametrize(
    ("options", "key", "allowed"),
    [
        ({"rule": "downpour"}, "rule", "p2p-elastic simulate"),
        ({"rule": "easgd-sync"}, "rule", "p2p-elastic simulate"),
        ({"group": "attic"}, "group", "only rule lsgd"),
        ({"rule": "easgd", "group": "attic"}, "group", "only rule lsgd"),
        ({"rule": "easgd", "global_period": 8}, "global-period", "only rule lsgd"),
        ({"rule": "lsgd", "probability": 0.1}, "probability", "--period"),
        ({"rule": "lsgd", "global_moving_rate": 0.1}, "global-moving-rate", "--global-period"),
        ({"rule": "lsgd", "global_period": 40}, "global-period", "a multiple of the period, 16"),
        ({"rule": "lsgd", "period": 7, "global_period": 16}, "global-period", "a multiple of the period, 7"),
        ({"role": "centre"}, "role", "easgd and eamsgd"),
        ({"rule": "lsgd", "role": "centre"}, "role", "easgd and eamsgd"),
    ],
)
def test_a_run_is_not_founded_with_what_its_rule_does_not_have(options: dict[str, Any], key: str, allowed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        found(**options)
    assert caught.value.key == key
    assert allowed in caught.value.allowed


def test_each_rule_brings_its_own_defaults() -> None:
    easgd, eamsgd, lsgd = (found(rule=rule) for rule in ("easgd", "eamsgd", "lsgd"))
    assert (easgd.moving_rate, easgd.momentum, eamsgd.momentum) == (0.225, 0.0, RECIPE.momentum)
    assert (lsgd.moving_rate, lsgd.schedule) == (0.1, Schedule(period=16))
    assert found(rule="easgd", momentum=0.5).momentum == 0.5


def test_the_policy_of_a_run_is_its_rule_with_its_numbers() -> None:
    policy = found(rule="lsgd", period=8, global_period=32, global_moving_rate=0.3).policy()
    assert (policy.topology, policy.flow) == (Topology.LEADER, Flow.PULL)
    assert (policy.schedule, policy.global_period) == (Schedule(period=8), 32)
    assert policy.global_rule is not None
    assert (policy.sends, policy.receives) == (False, True)
    assert found().policy().global_rule is None


@pytest.mark.parametrize(("runs", "asked"), [("dynamic", "fixed"), ("fixed", "dynamic")])
def test_all_peers_of_a_run_weigh_in_the_same_way(runs: str, asked: str) -> None:
    run = found(weighting=runs)
    for given in ({}, {"weighting": runs}):
        check_against(run, load_config(None, given).binding())
    with pytest.raises(ConfigError) as caught:
        check_against(run, load_config(None, {"weighting": asked}).binding())
    assert str(caught.value).startswith(f"weighting: got '{asked}'; run ")
    assert f"has --weighting {runs}; leave the option out to take the run's" in str(caught.value)


def test_a_run_is_founded_with_dynamic_weighting_unless_told_otherwise() -> None:
    assert found().weighting == found().policy().weighting == "dynamic"
    assert found(weighting="fixed").policy().weighting == "fixed"
    assert "dynamic weighting" in found().describe()
    with pytest.raises(ConfigError, match="weighting: got 'some'"):
        load_config(None, {"weighting": "some"})


def test_a_run_with_a_rule_of_the_simulator_cannot_be_joined() -> None:
    with pytest.raises(ConfigError, match="rule: got 'all-reduce'; it runs in the simulator only"):
        manifest(rule="all-reduce").policy()


def test_a_joiner_may_repeat_what_the_run_has_and_no_more() -> None:
    run = found(rule="lsgd", period=8, global_period=32, global_moving_rate=0.3)
    config = load_config(None, {"global_moving_rate": 0.3, "group": "attic"})
    check_against(run, config.binding())
    config.check_against(find_method(run.rule))
    with pytest.raises(ConfigError, match="group: got 'attic'; only rule lsgd has it"):
        load_config(None, {"group": "attic"}).check_against(find_method("easgd"))
