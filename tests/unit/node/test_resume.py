"""Going on from a checkpoint: the same bits when alone, the same peer in the swarm, a newcomer when away for long."""

from __future__ import annotations

import json
import random
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from helpers.swarm import Member, build_member, centre_at, run_members, simulate, tiny_model, values
from helpers.trainings import Notes, needs_muon, never, nothing, split_of
from torch import Tensor, nn

from p2p_elastic.checkpoint.loop_state import LoopState, Tensors, TrainingMemory, plain_losses
from p2p_elastic.checkpoint.store import Content, Store
from p2p_elastic.errors import ConfigError
from p2p_elastic.node.config import JoinConfig
from p2p_elastic.node.results import Summary, save_summary
from p2p_elastic.node.resume import IDENTITY, Saved, options_kept, resume, resume_or_found
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.membership.away import AWAY_STEPS_MIN, was_away_long
from p2p_elastic.peers.membership.liveness import Member as Known
from p2p_elastic.peers.state.peer_memory import PeerMemory
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.protocol.manifest import RunManifest
from p2p_elastic.protocol.messages import Stamp
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.rules.methods import RULES
from p2p_elastic.rules.pairwise import elastic, sum_weight
from p2p_elastic.rules.policy import Policy
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.tasks import Data, Recipe, Task, find_task, initial_model, on_inputs
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual
from p2p_elastic.training.settings import Settings
from p2p_elastic.training.trainer import Trainer

# ---------------------------------------------------------------- training, bit for bit

HARD = Data(train=split_of(70), validation=split_of(16), test=split_of(24))  # four batches of 16, and a rest


def hard_model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))


def jitter(inputs: Tensor, generator: torch.Generator | None) -> Tensor:
    return inputs if generator is None else inputs + 0.1 * torch.randn(inputs.shape, generator=generator)


HARD_TASK = Task(
    name="hard",
    summary="dropout, BatchNorm, augmentation, a learning rate that falls, weight decay",
    recipe=Recipe(
        batch_size=16, learning_rate=0.1, momentum=0.9, epochs=9, weight_decay=1e-3, milestones=(2, 5), decay=0.3
    ),
    model=hard_model,
    data=lambda _: HARD,
    prepare=on_inputs(jitter),
)


def trainer_of(task: Task, data: Data, **changes: Any) -> Trainer:
    settings: dict[str, Any] = {"steps": 30, "epochs": 1, "batch_size": 16, "learning_rate": 0.05, "momentum": 0.9}
    chosen = Settings(**{**settings, "seed": 3, **changes})
    torch.manual_seed(chosen.seed)
    return Trainer(initial_model(task, 0), task, data, chosen, torch.device("cpu"), lambda: 0.0)


class Kept(NamedTuple):
    """What a checkpoint has of a training loop."""

    memory: TrainingMemory
    tensors: Tensors


def loop_of(trainer: Trainer) -> LoopState:
    return LoopState(trainer.model, trainer.optimizers, trainer.states, ParameterVector(trainer.model))


def state_of(trainer: Trainer) -> Kept:
    states, tensors = loop_of(trainer).copy()
    losses = plain_losses(trainer.meter.losses)
    return Kept(TrainingMemory(step=trainer.meter.step, losses=losses, states=states), tensors)


def restore(trainer: Trainer, kept: Kept) -> None:
    losses = [float("nan") if loss is None else loss for loss in kept.memory.losses]
    trainer.meter.resume(kept.memory.step, losses)
    loop_of(trainer).restore(*kept)


def through_the_disk(state: Kept, folder: Path) -> Kept:
    Store(folder, TrainingMemory).write(Content(state.memory.step, state.memory, state.tensors))
    found = Store(folder, TrainingMemory).newest()
    assert found is not None
    return Kept(found.facts, found.tensors)


def everything(trainer: Trainer) -> dict[str, Tensor]:
    state = state_of(trainer)
    return {f"{file} {name}": tensor for file, tensors in state.tensors.items() for name, tensor in tensors.items()}


SGD: dict[str, Any] = {}
PLAIN: dict[str, Any] = {"momentum": 0.0}
ADAHESSIAN: dict[str, Any] = {"optimizer": "adahessian", "learning_rate": 0.02}
MUON = pytest.param({"optimizer": "muon", "learning_rate": 0.02}, marks=needs_muon, id="muon")


@pytest.mark.parametrize("at", [1, 4, 11, 29, 30])
@pytest.mark.parametrize("how", [SGD, PLAIN, ADAHESSIAN, MUON], ids=["momentum", "plain", "adahessian", None])
def test_a_resumed_trainer_ends_with_the_same_bits_as_one_that_was_never_stopped(
    tmp_path: Path, how: dict[str, Any], at: int
) -> None:
    whole = trainer_of(HARD_TASK, HARD, **how)
    whole.train(Notes(), never, nothing)

    first = trainer_of(HARD_TASK, HARD, **how)
    first.train(Notes(), lambda: first.meter.step == at, nothing)
    state = through_the_disk(state_of(first), tmp_path / "checkpoint")

    torch.rand(1000)  # another process
    second = trainer_of(HARD_TASK, HARD, **how)
    restore(second, state)
    notes = Notes()
    second.train(notes, never, nothing)
    assert notes.steps == 30 - at
    assert second.meter.losses == whole.meter.losses
    assert state_of(second).memory == state_of(whole).memory
    expected, found = everything(whole), everything(second)
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def one_cycle(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=steps)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_task_with_all_of_its_own_goes_on_with_the_same_bits(tmp_path: Path, precision: Any) -> None:
    recipe = replace(HARD_TASK.recipe, accumulate=2, clip=0.5, precision=precision)
    own: dict[str, Any] = {"optimizer": lambda p, _: torch.optim.AdamW(p), "scheduler": one_cycle}
    task = replace(HARD_TASK, recipe=recipe, **own)
    whole, first, second = (trainer_of(task, HARD, steps=20) for _ in range(3))
    torch.manual_seed(3)
    whole.train(Notes(), never, nothing)
    torch.manual_seed(3)
    first.train(Notes(), lambda: first.meter.step == 7, nothing)
    restore(second, through_the_disk(state_of(first), tmp_path / "checkpoint"))
    second.train(Notes(), never, nothing)
    assert state_of(second).memory == state_of(whole).memory
    expected, found = everything(whole), everything(second)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def test_the_digits_go_on_with_the_same_bits(tmp_path: Path) -> None:
    task = find_task("digits")
    data = task.load(None)
    whole, first, second = (trainer_of(task, data, batch_size=32, steps=120) for _ in range(3))
    whole.train(Notes(), never, nothing)
    first.train(Notes(), lambda: first.meter.step == 50, nothing)
    restore(second, through_the_disk(state_of(first), tmp_path / "checkpoint"))
    second.train(Notes(), never, nothing)
    assert torch.equal(values(whole.model), values(second.model))


def test_taking_a_checkpoint_changes_nothing_and_what_is_taken_stays_as_it_is() -> None:
    whole, watched = trainer_of(HARD_TASK, HARD), trainer_of(HARD_TASK, HARD)
    states: list[Kept] = []
    whole.train(Notes(), never, nothing)
    torch.manual_seed(3)
    watched.train(Notes(), never, lambda: states.append(state_of(watched)))
    assert torch.equal(values(whole.model), values(watched.model))
    assert [state.memory.step for state in states] == list(range(1, 31))
    weights = [state.tensors["model"]["0.weight"] for state in states]
    assert not torch.equal(weights[0], weights[-1])


def test_tied_parameters_and_counters_are_kept(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        one = nn.Linear(4, 4)
        return nn.Sequential(one, nn.BatchNorm1d(4), one, nn.Linear(4, 2))

    task = Task(**{**HARD_TASK.__dict__, "model": tied})
    whole, first, second = (trainer_of(task, HARD) for _ in range(3))
    whole.train(Notes(), never, nothing)
    first.train(Notes(), lambda: first.meter.step == 7, nothing)
    restore(second, through_the_disk(state_of(first), tmp_path / "checkpoint"))
    second.train(Notes(), never, nothing)
    assert torch.equal(values(whole.model), values(second.model))
    assert int(second.model.state_dict()["1.num_batches_tracked"]) == 30


def test_losses_that_are_not_finite_are_kept_as_such(tmp_path: Path) -> None:
    first = trainer_of(HARD_TASK, HARD)
    first.meter.stepped(float("inf"))
    second = trainer_of(HARD_TASK, HARD)
    restore(second, through_the_disk(state_of(first), tmp_path / "checkpoint"))
    assert second.meter.loss != second.meter.loss


def test_the_state_of_another_model_is_refused() -> None:
    other = Task(**{**HARD_TASK.__dict__, "model": lambda: nn.Linear(4, 2)})
    with pytest.raises(ConfigError, match="another one"):
        restore(trainer_of(other, HARD), state_of(trainer_of(HARD_TASK, HARD)))


# ---------------------------------------------------------------- the peer


def kept(memory: PeerMemory) -> PeerMemory:
    return PeerMemory.model_validate_json(memory.model_dump_json())


@pytest.mark.parametrize("rule", [name for name, method in RULES.items() if method.live])
def test_a_peer_goes_on_with_what_it_remembered(rule: str) -> None:
    manifest = manifest_of(rule=rule, period=4, probability=None)
    before = simulate(SimulatedNetwork(), ["a", "b", "c"], steps=200, policy=manifest.policy())[0].peer
    memory, centre = kept(before.memory()), before.centre_value()
    assert memory.step == 200
    assert memory.first_loss == 1.0
    after = build_member(SimulatedNetwork(), "a", policy=manifest.policy()).peer
    after.restore(memory, loss=0.5, centre=centre)
    after.report_loss(0.25)
    assert after.memory() == memory.model_copy(update={"sequence": after.memory().sequence})
    assert (after.centre_value() is None) == (centre is None)
    if centre is not None:
        assert torch.equal(after.centre_value(), centre)  # type: ignore[arg-type]
        assert memory.partners or memory.rule is None


def test_a_centre_that_was_resumed_counts_by_the_exchanges_behind_it_as_before() -> None:
    # By its clock, which counts since the run began, it gave way wholly to whatever other centre it met.
    policy = manifest_of(rule="easgd", period=4, probability=None).policy()
    before = build_member(SimulatedNetwork(), "a", policy=policy).peer
    centre = centre_at(before)
    centre.stamp, centre.since, centre.behind = Stamp(term=2, clock=500), 480, 20
    other = Stamp(term=2, clock=500)
    assert centre.inheritance(other) == 0.5
    memory = kept(before.memory())
    assert memory.centre is not None
    unknown = memory.model_copy(update={"centre": memory.centre.model_copy(update={"since": None, "behind": 0})})
    for remembered, share in ((memory, 0.5), (unknown, 0.0)):
        after = build_member(SimulatedNetwork(), "a", policy=policy).peer
        after.restore(remembered, centre=before.centre_value())
        assert centre_at(after).inheritance(other) == share


def test_the_sum_weight_of_gosgd_is_not_begun_anew() -> None:
    policy = Policy(sum_weight(), Schedule(probability=1 / 4), flow=RULES["gosgd"].flow)
    members = simulate(SimulatedNetwork(), ["a", "b"], steps=100, policy=policy)
    shares = [kept(m.peer.memory()).rule for m in members]
    assert shares != [1.0, 1.0]
    assert sum(shares) == pytest.approx(2.0)  # type: ignore[arg-type]


def test_the_memory_of_another_rule_is_left_out() -> None:
    memory = simulate(SimulatedNetwork(), ["a", "b"], steps=50)[0].peer.memory()
    odd = memory.model_copy(update={"rule": [1.0, 2.0], "partners": {"b": 7.0}})
    after = build_member(SimulatedNetwork(), "a").peer
    after.restore(odd)
    assert after.memory().rule is None


def members_at(*steps: int, drained: bool = False) -> dict[str, Known]:
    records = (
        PeerRecord(peer=f"p{i}", run="r", schema_hash="a" * 32, step=step, drained=drained)
        for i, step in enumerate(steps)
    )
    return {record.peer: Known(record, 0.0) for record in records}


def test_away_for_long_is_when_most_others_are_far_ahead() -> None:
    assert not was_away_long(100, {}, 32.0)
    assert not was_away_long(100, members_at(228, 228), 32.0)
    assert was_away_long(100, members_at(229, 229), 32.0)
    assert not was_away_long(100, members_at(100, 100, 100_000), 32.0)
    assert not was_away_long(100, members_at(100 + AWAY_STEPS_MIN), 1.0)
    assert was_away_long(100, members_at(101 + AWAY_STEPS_MIN), 1.0)
    assert not was_away_long(100, members_at(100_000, drained=True), 32.0)
    assert not was_away_long(100, members_at(100_000), float("inf"))


def come_back(behind: int) -> tuple[Member, Member, Tensor, Tensor]:
    """A peer that resumes, so many steps behind one that goes on; their parameters when it does."""

    async def main() -> tuple[Member, Member, Tensor, Tensor]:
        network = SimulatedNetwork()
        policy = Policy(elastic(0.5), Schedule(period=8))
        others = build_member(network, "b", model=tiny_model(1), policy=policy)
        others.peer.restore(others.peer.memory().model_copy(update={"step": 1000, "newcomer": False}))
        back = build_member(network, "a", model=tiny_model(2), policy=policy)
        back.peer.restore(back.peer.memory().model_copy(update={"step": 1000 - behind}))
        start = values(back.model), values(others.model)
        await run_members([others, back], steps=15)
        return others, back, *start

    return run_virtual(main())


def test_who_was_away_for_long_copies_the_others_and_does_not_disturb_them() -> None:
    others, back, _, theirs = come_back(behind=200)
    assert torch.equal(values(others.model), theirs)
    assert torch.allclose(values(back.model), theirs, atol=1e-6)
    assert back.replaced == 1  # its momentum was that of parameters long gone
    assert others.replaced == 0
    assert back.peer.weight == 1.0


def test_who_was_away_for_a_moment_exchanges_as_before() -> None:
    others, back, mine, theirs = come_back(behind=40)
    assert back.replaced == 0
    middle = (mine + theirs) / 2
    assert torch.allclose(values(back.model), middle, atol=1e-6)
    assert torch.allclose(values(others.model), middle, atol=1e-6)


def test_who_is_ahead_of_the_others_exchanges_as_before() -> None:
    others, back, _, theirs = come_back(behind=-500)
    assert back.replaced == 0
    assert not torch.equal(values(others.model), theirs)


# ---------------------------------------------------------------- options


def manifest_of(**changes: Any) -> RunManifest:
    fields: dict[str, Any] = {
        **{"run": "r-1", "founder": "12D3KooWD8CtgEyHxJWpLsULKxFCugyBRRF7bqJHstUVyqQ647AA", "task": "digits"},
        **{"schema_hash": "a" * 32, "rule": "elastic-gossip", "moving_rate": 0.5, "period": None, "codec": "none"},
        **{"probability": 0.25, "batch_size": 32, "learning_rate": 0.03, "momentum": 0.9, "init_seed": 1},
    }
    return RunManifest(**{**fields, **changes})


def saved_in(output: Path, identity: Identity, **options: Any) -> None:
    trainer = trainer_of(HARD_TASK, HARD)
    peer = build_member(SimulatedNetwork(), "a").peer
    config = JoinConfig(**{"task": "digits", "shard": "1/2", "steps": 30, **options})
    state = state_of(trainer)
    settings = Settings(steps=30, epochs=60, batch_size=32, learning_rate=0.03, momentum=0.9, seed=1)
    saved = Saved(
        version="1",
        manifest=manifest_of(fragments=2),
        signature="ab" * 64,
        options=options_kept(config, settings),
        training=state.memory,
        peer=peer.memory(),
        members={identity.peer: ("/ip4/10.0.0.1/tcp/1/p2p/x",)},
    )
    content = Content(3, saved, state.tensors, {IDENTITY: identity.to_bytes()})
    Store(output / "checkpoint", Saved).write(content)


def test_the_folder_alone_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    identity = Identity.generate()
    given = {"data_dir": Path("data"), "port": 4001, "wait_for_peers": 3, "log_format": "json"}
    saved_in(tmp_path, identity, initial_peer=("/ip4/10.0.0.1/tcp/1/p2p/x",), optimizer="adahessian", **given)
    config, past = resume(JoinConfig(resume=tmp_path / "checkpoint"))
    assert past.identity.peer == identity.peer
    assert past.saved.signed is not None
    assert past.saved.members == {identity.peer: ("/ip4/10.0.0.1/tcp/1/p2p/x",)}
    assert config.output == past.output == tmp_path
    assert (config.task, config.shard, config.steps, config.optimizer) == ("digits", "1/2", 30, "adahessian")
    assert (config.batch_size, config.lr, config.momentum) == (32, 0.03, 0.9)
    assert config.initial_peer == ("/ip4/10.0.0.1/tcp/1/p2p/x",)
    assert (config.data_dir, config.port) == (tmp_path / "data", 4001)
    assert (config.wait_for_peers, config.log_format) == (0, "auto")  # of that moment, not of the run


def test_what_was_restored_is_not_kept_a_second_time(tmp_path: Path) -> None:
    saved_in(tmp_path, Identity.generate())
    _, past = resume(JoinConfig(resume=tmp_path))
    read = [weakref.ref(tensor) for tensor in past.found.tensors["model"].values()]
    trainer = trainer_of(HARD_TASK, HARD)
    past.restore(loop_of(trainer), trainer.meter, build_member(SimulatedNetwork(), "a").peer)
    assert [tensor for tensor in read if tensor() is not None] == []


def test_what_does_not_define_the_run_may_be_given_anew(tmp_path: Path) -> None:
    saved_in(tmp_path, Identity.generate(), port=4001)
    config, _ = resume(JoinConfig(resume=tmp_path, epochs=70, port=0, checkpoint_every="90s", device="cpu"))
    assert (config.steps, config.epochs, config.port) == (None, 70, 0)
    assert (config.checkpoint_every, config.device) == ("90s", "cpu")


def test_a_budget_is_kept_and_may_be_given_anew(tmp_path: Path) -> None:
    saved_in(tmp_path, Identity.generate(), max_bandwidth="500kB/s", max_share=0.1)
    config, _ = resume(JoinConfig(resume=tmp_path))
    assert (config.max_bandwidth, config.max_share) == ("500kB/s", 0.1)
    anew, _ = resume(JoinConfig(resume=tmp_path, max_bandwidth="unlimited", max_share=0.5))
    assert (anew.max_bandwidth, anew.max_share) == ("unlimited", 0.5)


@pytest.mark.parametrize(
    "same",
    [
        {"lr": 0.03},
        {"task": "digits"},
        {"probability": 0.25},
        {"run": "r-1"},
        {"batch_size": 32},
        {"shard": "1/2"},
        {"fragment": 2},
    ],
    ids=str,
)
def test_what_is_said_again_is_no_contradiction(tmp_path: Path, same: dict[str, Any]) -> None:
    saved_in(tmp_path, Identity.generate())
    resume(JoinConfig(resume=tmp_path, output=tmp_path, **same))


@pytest.mark.parametrize(
    ("key", "other"),
    [
        ("lr", {"lr": 0.1}),
        ("task", {"task": "mnist"}),
        ("run", {"run": "other"}),
        ("rule", {"rule": "gosgd"}),
        ("probability", {"probability": 0.5}),
        ("period", {"period": 4}),
        ("seed", {"seed": 5}),
        ("shard", {"shard": "2/2"}),
        ("batch-size", {"batch_size": 64}),
        ("optimizer", {"optimizer": "adahessian"}),
        ("momentum", {"momentum": 0.5}),
        ("weighting", {"weighting": "fixed"}),
        ("output", {"output": Path("elsewhere")}),
    ],
)
def test_what_defines_the_run_cannot_be_changed(tmp_path: Path, key: str, other: dict[str, Any]) -> None:
    saved_in(tmp_path, Identity.generate())
    with pytest.raises(ConfigError) as raised:
        resume(JoinConfig(resume=tmp_path, **other))
    assert raised.value.key == key


def test_another_identity_is_refused_and_the_same_is_not(tmp_path: Path) -> None:
    identity = Identity.generate()
    saved_in(tmp_path, identity)
    identity.write(tmp_path / "same.key")
    resume(JoinConfig(resume=tmp_path, identity=tmp_path / "same.key"))
    with pytest.raises(ConfigError, match="identity"):
        resume(JoinConfig(resume=tmp_path, identity=tmp_path / "other.key"))


def test_a_folder_where_all_checkpoints_are_damaged_is_refused(tmp_path: Path) -> None:
    saved_in(tmp_path, Identity.generate())
    index = tmp_path / "checkpoint" / "step-000000003" / "checkpoint.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "format": 9}))
    with pytest.raises(ConfigError, match="damaged"):
        resume(JoinConfig(resume=tmp_path))


def test_random_states_survive_json() -> None:
    peer = build_member(SimulatedNetwork(), "a").peer
    coin = random.Random(5)
    coin.gauss(0.0, 1.0)
    memory = kept(peer.memory())
    twin = type(memory.coin).of(coin)
    other = random.Random(6)
    type(twin).model_validate_json(twin.model_dump_json()).recall(other)
    assert [other.random() for _ in range(700)] == [coin.random() for _ in range(700)]
    assert other.gauss(0.0, 1.0) == coin.gauss(0.0, 1.0)


# ---------------------------------------------------------------- the same command at each start

COMMAND: dict[str, Any] = {"task": "digits", "shard": "1/2", "steps": 30, "resume_or_found": True, "wait_for_peers": 2}


def test_the_same_command_founds_at_first_and_goes_on_later(tmp_path: Path) -> None:
    config = JoinConfig(**COMMAND, output=tmp_path)
    assert resume_or_found(config) == (config, None)
    saved_in(tmp_path, identity := Identity.generate(), wait_for_peers=2)
    again, past = resume_or_found(config)
    assert past is not None
    assert past.identity.peer == identity.peer
    assert (again.resume, again.output, again.steps) == (tmp_path, tmp_path, 30)
    assert again.wait_for_peers == 0  # they may have gone meanwhile


@pytest.mark.parametrize(("key", "value"), [("shard", "2/2"), ("rule", "gosgd"), ("run", "other")])
def test_another_command_is_refused_and_the_option_named(tmp_path: Path, key: str, value: str) -> None:
    saved_in(tmp_path, Identity.generate())
    with pytest.raises(ConfigError, match=f"{key}: got '{value}'; the checkpoint goes on as it was"):
        resume_or_found(JoinConfig(**{**COMMAND, key: value}, output=tmp_path))


def test_where_all_checkpoints_are_damaged_none_is_founded(tmp_path: Path) -> None:
    (tmp_path / "checkpoint" / "step-000000001").mkdir(parents=True)
    with pytest.raises(ConfigError, match="damaged"):
        resume_or_found(JoinConfig(**COMMAND, output=tmp_path))


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({}, "output"),
        ({"output": "x", "resume": "y"}, "resume"),
        ({"output": "x", "checkpoint_every": "0"}, "checkpoint-every"),
    ],
)
def test_what_it_needs_is_said(options: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as raised:
        JoinConfig(resume_or_found=True, **options)
    assert raised.value.key == key


@pytest.mark.parametrize(
    ("left", "asked", "complete"),
    [
        ({}, {}, True),
        ({"stopped": True}, {}, False),
        ({"steps": 2}, {}, False),  # of before it was asked for more
        ({"run": "other"}, {}, False),
        ({"peer": "other"}, {}, False),
        ({}, {"steps": 60}, False),
        (None, {}, False),
    ],
)
def test_a_run_is_complete_once_its_results_are_there(
    tmp_path: Path, left: dict[str, Any] | None, asked: dict[str, Any], complete: bool
) -> None:
    saved_in(tmp_path, identity := Identity.generate())
    if left is not None:
        facts = {"peer": identity.peer, "run": "r-1", "task": "digits", "manifest": manifest_of(), "stopped": False}
        numbers = dict.fromkeys(("test_accuracy", "test_loss", "validation_accuracy", "training_loss"), 0.5)
        totals = build_member(SimulatedNetwork(), "a").peer.exchanges()
        whole = {**facts, **numbers, "steps": 30, "seconds": 1.0, "exchanges": totals, "model": "m", **left}
        save_summary(Summary(**whole), tmp_path)
    config, past = resume_or_found(JoinConfig(**{**COMMAND, **asked}, output=tmp_path))
    assert past is not None
    assert past.complete(config) is complete
