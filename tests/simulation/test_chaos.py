"""A fixed range of chaos seeds, and the proof that each check can fail. More seeds: `python -m tests.chaos`."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chaos import plan as plans
from chaos.checks import problems
from chaos.command import main
from chaos.observe import WatchedVector
from chaos.once import Shared, once
from chaos.plan import Flood, Plan, Revoke, Setting, Trouble
from chaos.trial import Trial, try_seed, undisturbed
from chaos.world import World, run_plan

from p2p_elastic.peers.admission.revocations import Revocations
from p2p_elastic.peers.exchange.mailbox import Mailbox, Move
from p2p_elastic.peers.exchange.rule_states import RulesAtWork
from p2p_elastic.peers.gossip import initiator
from p2p_elastic.peers.lifecycle.network_tasks import NetworkTasks
from p2p_elastic.peers.peer import Peer
from p2p_elastic.peers.session.commit_log import Ledger
from p2p_elastic.peers.session.responder import Responder
from p2p_elastic.testing.virtual_network import SimulatedTransport

REPOSITORY = Path(__file__).parents[2]
SEEDS, PRIVATE_SEEDS, CHUNK = 100, 20, 10
LOOKS = 5  # of a peer that does not look who is there any more
SMALL = Setting("elastic-gossip", 3, 0)
QUIET = Plan(0, SMALL)
CUTS = Plan(0, SMALL, (Trouble((), 5.0, 55.0, "cut", 0.15),))


@pytest.fixture(scope="module", autouse=True)
def _computed_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """By all workers together: each has a folder of its own beside those of the others."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "once"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Shared, "folder", folder)
        yield


@pytest.fixture(autouse=True)
def _nothing_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of lines, about failures that are meant to happen."""
    caplog.set_level(logging.CRITICAL, logger="p2p_elastic")


@once
def chunk(first: int) -> tuple[Trial, ...]:
    return tuple(try_seed(seed) for seed in range(first, first + CHUNK))


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_seeds_are_clean(first: int) -> None:
    failed = [trial for trial in chunk(first) if trial.problems]
    said = [f"{t.plan}\n" + "\n".join(f"  ! {p}" for p in t.problems) + f"\n  replay: {t.replay}" for t in failed]
    assert not failed, "\n".join(said)


@once
def private_chunk(first: int) -> tuple[Trial, ...]:
    return tuple(try_seed(seed, private=True) for seed in range(first, first + CHUNK))


@pytest.mark.parametrize("first", range(0, PRIVATE_SEEDS, CHUNK))
def test_seeds_with_tickets_are_clean(first: int) -> None:
    failed = [(trial.replay, trial.problems) for trial in private_chunk(first) if trial.problems]
    assert not failed


def test_some_were_revoked_with_tickets_and_nobody_without() -> None:
    with_tickets = [trial for first in range(0, PRIVATE_SEEDS, CHUNK) for trial in private_chunk(first)]
    assert sum(trial.injected["revoke"] for trial in with_tickets) > 3
    assert not any(isinstance(fault, Revoke) for seed in range(500) for fault in plans.plan_of(seed).faults)


def test_eight_that_end_together_with_a_centre_in_between_leave_no_half_exchange_behind() -> None:
    undisturbed(Setting("eamsgd", 8, 0))  # an heir that left while it served the next one cut off its last word


def test_every_kind_of_fault_was_injected_and_did_something() -> None:
    injected, weather = Counter[str](), Counter[str]()
    for first in range(0, SEEDS, CHUNK):
        for trial in chunk(first):
            injected += trial.injected
            weather += trial.weather
    kinds = {kind.__name__.lower() for kind in World.HANDLERS if kind is not Revoke}
    assert {kind for kind, number in injected.items() if number > 0} == kinds
    done = {"drop", "delay", "cut", "corrupt", "no power", "no route", "held", "record withheld", "directory out"}
    done |= {"resumed", "disk full"}
    assert {kind for kind, number in weather.items() if number > 0} == done


def test_a_seed_is_the_same_to_the_bit_in_another_process() -> None:
    command = [sys.executable, "-m", "tests.chaos", "--seed", "6", "--verbose"]
    hashing = {**os.environ, "PYTHONHASHSEED": "5", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=REPOSITORY, env=hashing, capture_output=True, text=True, check=True)
    found = re.search(r"digest (\w+)", done.stdout)
    assert found is not None
    assert found[1] == try_seed(6).digest
    assert "1 seeds in" in done.stdout


def test_two_peers_at_least_are_never_taken_away() -> None:
    for seed in range(500):
        plan = plans.plan_of(seed)
        taken = {f.peer for f in plan.faults if isinstance(f, (plans.Kill, plans.Restart, plans.Leave))}
        assert len(set(plan.setting.names) - taken) >= plans.STEADY
        assert all(f.at + getattr(f, "seconds", 0.0) <= plans.QUIET_FROM for f in plan.faults)


# ---------------------------------------------------------------- a check that cannot fail is none


def found(plan: Plan, without: tuple[float, ...]) -> set[str]:
    """The names of the checks that this run does not pass."""
    return {problem.partition(":")[0] for problem in problems(run_plan(plan), without)}


def test_a_move_that_is_added_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    without, add = undisturbed(SMALL), WatchedVector.add_

    def twice(self: WatchedVector, *move: Any) -> None:
        add(self, *move)
        add(self, *move)

    monkeypatch.setattr(WatchedVector, "add_", twice)
    assert "nothing_twice" in found(QUIET, without)


def test_an_exchange_id_that_is_used_again_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    without, numbers = undisturbed(SMALL), itertools.count()
    monkeypatch.setattr(initiator, "new_id", lambda rng: f"{next(numbers) % 20:032x}")
    assert "both_ends_agree" in found(QUIET, without)


def test_a_peer_that_moves_farther_than_agreed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    without, update = undisturbed(SMALL), RulesAtWork.update

    def eager(self: RulesAtWork, *args: object, partner: str, **said: object) -> float:
        share = update(self, *args, partner=partner, **said)  # type: ignore[arg-type]
        return 1.5 * share if partner == "p1" else share

    monkeypatch.setattr(RulesAtWork, "update", eager)
    assert "nothing_is_lost" in found(QUIET, without)


def test_an_end_that_forgets_that_it_committed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    without = undisturbed(SMALL)

    async def never(self: Ledger, key: object) -> bool:
        return False

    monkeypatch.setattr(Ledger, "verdict", never)
    assert "both_ends_agree" in found(dataclasses.replace(CUTS, seed=2), without)  # a seed that cuts a last word


def test_a_peer_that_stops_exchanging_after_a_failure_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    without = undisturbed(SMALL)
    monkeypatch.setattr(Mailbox, "release", lambda self: None)
    assert "exchanges_come_back" in found(CUTS, without)


def test_a_peer_that_never_ends_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    without, leave = undisturbed(SMALL), Peer.leave

    async def never(self: Peer, seconds: float) -> None:
        await (asyncio.sleep(10**6) if self.peer == "p1" else leave(self, seconds))

    monkeypatch.setattr(Peer, "leave", never)
    assert "everybody_ends" in found(QUIET, without)


def test_a_peer_that_does_not_look_who_is_there_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    without, refresh = undisturbed(SMALL), NetworkTasks.refresh
    looked = Counter[NetworkTasks]()

    async def lazy(self: NetworkTasks) -> None:
        looked[self] += 1
        if looked[self] < LOOKS:
            await refresh(self)

    monkeypatch.setattr(NetworkTasks, "refresh", lazy)
    assert "everybody_is_known" in found(QUIET, without)


def test_a_network_loop_that_ends_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    without = undisturbed(SMALL)

    async def broken(self: Peer) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Peer, "refresh", broken)
    assert "everybody_ends" in found(QUIET, without)


def test_parameters_that_were_spoilt_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    without, deliver = undisturbed(SMALL), Mailbox.deliver

    def spoilt(self: Mailbox, move: Move) -> None:
        deliver(self, move._replace(delta=move.delta.uniform_(-9.0, 9.0), share=1.0, check=None))

    monkeypatch.setattr(Mailbox, "deliver", spoilt)
    assert {"everybody_learns", "nothing_is_lost"} <= found(QUIET, without)


def test_a_last_word_that_is_cut_off_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting("elastic-gossip", 8, 1)
    without = undisturbed(setting)

    async def at_once(self: Responder) -> None:
        return

    monkeypatch.setattr(Responder, "until_told", at_once)
    plan = Plan(1, setting)
    assert any("half" in problem for problem in problems(run_plan(plan), without))


def test_a_revoked_peer_that_is_still_met_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting("elastic-gossip", 3, 0, private=True)
    without, names = undisturbed(setting), setting.names
    monkeypatch.setattr(Revocations, "revoked", lambda self, held: False)
    assert "revoked_are_out" in found(Plan(0, setting, (Revoke(names[1], names[0], 20.0),)), without)


def test_a_transport_that_leaves_streams_open_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    without = undisturbed(SMALL)

    async def careless(self: SimulatedTransport) -> None:
        return

    monkeypatch.setattr(SimulatedTransport, "close", careless)
    assert "nothing_left" in found(QUIET, without)


def test_a_table_that_grows_with_what_strangers_send_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    without, build = undisturbed(SMALL), Ledger.__init__
    monkeypatch.setattr(Ledger, "__init__", lambda self, entries_max: build(self, 10**9))
    flood = tuple(Flood("p1", 10.0 + 10.0 * i, plans.FLOOD) for i in range(3))
    assert found(Plan(0, SMALL, flood), without) == {"memory_bounded"}


def test_a_fault_that_was_planned_and_not_injected_is_found() -> None:
    report = run_plan(QUIET)
    other = dataclasses.replace(report, plan=CUTS)
    assert [p.partition(":")[0] for p in problems(other, undisturbed(SMALL))] == ["faults_counted"]


def test_the_command_names_a_failing_seed_and_how_to_replay_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plans.plan_of(4)
    undisturbed(plan.setting)
    monkeypatch.setattr(Mailbox, "release", lambda self: None)
    assert main(["--seeds", "4:5"]) == 1
    said = capsys.readouterr().out
    assert str(plan) in said
    assert f"python -m tests.chaos --seed 4 --rule {plan.setting.rule} --verbose" in said
