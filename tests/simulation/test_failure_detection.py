"""Partners that fall silent, die, flap, are slow or take long steps, in virtual time. Faults are counted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from helpers.swarm import Member, build_member

from p2p_elastic.peers.exchange.slot import IDLE
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.status.events import EventLog
from p2p_elastic.status.schema import ExchangeRecord
from p2p_elastic.testing.faults import Event, Verdict
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

NAMES = ["a", "b", "c", "d"]
FAILED = (Outcome.UNREACHABLE, Outcome.TIMEOUT, Outcome.BROKEN, Outcome.HALF)


def now() -> float:
    return asyncio.get_running_loop().time()


def swarm(network: SimulatedNetwork, names: list[str] = NAMES, **options: object) -> list[Member]:
    return [
        build_member(network, name, seed=i, step_seconds=0.05 + 0.001 * i, events=EventLog(lambda: 0.0), **options)  # type: ignore[arg-type]
        for i, name in enumerate(names)
    ]


def living(members: list[Member], scenario: Callable[[list[asyncio.Task[None]]], Awaitable[None]]) -> None:
    """Let all members live and train without end while the scenario runs."""

    async def main() -> None:
        lives = [asyncio.ensure_future(m.peer.run()) for m in members]
        training = [asyncio.ensure_future(m.train(10**9)) for m in members]
        await scenario(lives)
        for task in [*lives, *training]:
            task.cancel()

    run_virtual(main())


async def until(condition: Callable[[], bool], seconds: float) -> float:
    begun = now()
    while not condition():
        assert now() - begun < seconds, "it never came"
        await asyncio.sleep(0.05)
    return now() - begun


def completed(member: Member) -> int:
    return member.peer.exchanges().by_outcome.get(Outcome.COMPLETED, 0)


def failed(member: Member) -> int:
    return sum(member.peer.exchanges().by_outcome.get(outcome, 0) for outcome in FAILED)


def state(member: Member, other: str) -> str | None:
    return next((m.state for m in member.peer.members() if m.peer == other), None)


def told(member: Member, kind: str) -> list[str]:
    return [event.text for event in member.peer.events.since(0) if event.kind == kind]


class Stopped:
    """A machine that stands still, as after SIGSTOP: it is reached, and nothing comes from it. `asked`: by whom."""

    def __init__(self, name: str) -> None:
        self.name, self.still = name, False
        self.asked: list[str] = []

    def __call__(self, event: Event) -> Verdict:
        if self.still and event.kind == "open" and event.target == self.name:
            self.asked.append(event.source)
        if not self.still or event.source != self.name:
            return Verdict()
        return {"piece": Verdict("silence"), "announce": Verdict("cut"), "open": Verdict("cut")}.get(
            event.kind, Verdict()
        )


def failures_with(member: Member, partner: str) -> list[ExchangeRecord]:
    return [r for r in member.peer.last_exchanges() if r.partner == partner and r.outcome in FAILED]


# ---------------------------------------------------------------- silence


def test_a_partner_that_falls_silent_costs_each_less_than_three_seconds_and_is_left_alone() -> None:
    stopped = Stopped("d")
    network = SimulatedNetwork(judge=stopped)
    members = swarm(network, schedule=Schedule(period=10))
    costs: list[float] = []

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: all(completed(m) > 30 for m in members), 60.0)
        stopped.still = members[3].stopped = True
        before = [completed(m) for m in members[:3]]
        for _ in range(200):  # ten seconds
            await asyncio.sleep(0.05)
            costs.extend(r.seconds for m in members[:3] for r in failures_with(m, "d") if r.seconds not in costs)
        assert all(state(m, "d") == "dead" for m in members[:3])
        assert all(completed(m) > was + 4 for m, was in zip(members, before, strict=False))
        asked = len(stopped.asked)
        await asyncio.sleep(30.0)
        assert len(stopped.asked) == asked
        stopped.still = members[3].stopped = False
        met = completed(members[3])
        await until(lambda: completed(members[3]) > met + 3, 10.0)
        assert all(state(m, "d") == "alive" for m in members[:3])

    living(members, scenario)
    assert network.faults["silence"] > 0
    assert costs
    assert max(costs) < 3.0
    assert len(told(members[0], "dead")) == 1
    assert told(members[0], "alive") == ["d is alive again"]


def test_when_one_of_four_is_killed_the_others_exchange_within_seconds() -> None:
    network = SimulatedNetwork()
    members = swarm(network, schedule=Schedule(period=20))
    waited: list[float] = []

    async def scenario(lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: all(completed(m) > 10 for m in members), 60.0)
        lives[3].cancel()
        members[3].stopped = True
        await network.transport("d").close()
        steps = [m.steps for m in members[:3]]
        for member in members[:3]:
            before = completed(member)
            waited.append(await until(lambda m=member, was=before: completed(m) > was, 5.0))  # type: ignore[misc]
        await asyncio.sleep(10.0 - sum(waited))
        assert all(m.steps - was > 180 for m, was in zip(members, steps, strict=False))
        assert all(state(m, "d") == "dead" for m in members[:3])

    living(members, scenario)
    assert sum(waited) < 5.0


# ---------------------------------------------------------------- slow links, long steps


def test_a_slow_link_never_times_out_neither_at_first_contact_nor_later() -> None:
    def judge(event: Event) -> Verdict:
        slow = event.kind == "piece" and "d" in (event.source, event.target)
        return Verdict(seconds=0.5 if slow else 0.001)

    network = SimulatedNetwork(judge=judge)
    members = swarm(network)

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: completed(members[3]) > 20, 600.0)
        assert sum(failed(m) for m in members) == 0  # not later: the end cuts off what is under way

    living(members, scenario)


def test_a_link_that_becomes_slow_is_learnt_after_few_timeouts() -> None:
    slow = [0.001]
    network = SimulatedNetwork(judge=lambda event: Verdict(seconds=slow[0] if event.kind == "piece" else 0.001))
    members = swarm(network, ["a", "b"])

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: completed(members[0]) > 30, 60.0)
        slow[0] = 3.0  # more than the floor
        await asyncio.sleep(70.0)
        before = sum(failed(m) for m in members)
        count = completed(members[0])
        await until(lambda: completed(members[0]) > count + 5, 200.0)
        assert sum(failed(m) for m in members) <= before + 1

    living(members, scenario)


def test_a_peer_whose_steps_take_eight_seconds_takes_part() -> None:
    network = SimulatedNetwork()
    members = swarm(network, ["a", "b"], schedule=Schedule(period=20))
    members[1].step_seconds = 8.0

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: any(m.steps_per_second for m in members[0].peer.members()), 60.0)
        await asyncio.sleep(5.0)
        before = completed(members[0])
        await asyncio.sleep(120.0)
        assert completed(members[0]) >= before + 6  # a step for the snapshot, and one that adds the move
        assert members[0].peer.partners()[0].deadline_seconds > 20.0  # type: ignore[operator]

    living(members, scenario)
    assert sum(failed(m) for m in members) == 0


def test_a_peer_that_stopped_training_declines_within_its_patience() -> None:
    network = SimulatedNetwork()
    members = swarm(network, ["a", "b"], schedule=Schedule(period=20))

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: completed(members[0]) > 10, 60.0)
        await until(lambda: members[1].peer.exchange_state == IDLE, 1.0)
        members[1].stopped = True
        await until(lambda: members[0].peer.exchanges().declined_by_partner.get("not-training", 0) > 5, 60.0)
        declined = [r.seconds for r in members[0].peer.last_exchanges() if r.reason == "not-training"]
        assert max(declined) < 1.2
        assert state(members[0], "b") == "alive"

    living(members, scenario)
    assert sum(failed(m) for m in members) == 0


# ---------------------------------------------------------------- one of two


def test_one_of_two_is_tried_again_after_one_timeout() -> None:
    stopped = Stopped("b")
    network = SimulatedNetwork(judge=stopped)
    pauses = {"announce_seconds": 5.0, "refresh_seconds": 3.0}
    members = [
        *swarm(network, ["a"], schedule=Schedule(period=10), **pauses),
        *swarm(network, ["b"], schedule=Schedule(probability=0.0), **pauses),
    ]

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: completed(members[0]) > 10, 60.0)
        stopped.still = True
        await until(lambda: state(members[0], "b") == "suspect", 3.0)
        stopped.still = False
        before = completed(members[0])
        await until(lambda: completed(members[0]) > before, 1.5)

    living(members, scenario)
    assert network.faults["silence"] > 0
    assert state(members[0], "b") == "alive"


def test_who_contacts_us_is_alive_though_its_records_do_not_come() -> None:
    lost = [False]

    def judge(event: Event) -> Verdict:
        return Verdict("cut") if lost[0] and event.kind in ("announce", "record") else Verdict()

    network = SimulatedNetwork(judge=judge)
    members = swarm(network, ["a", "b"], schedule=Schedule(period=10))

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        await until(lambda: completed(members[0]) > 5, 60.0)
        lost[0] = True
        before = completed(members[0])
        await asyncio.sleep(30.0)
        assert completed(members[0]) > before + 30
        assert state(members[0], "b") == "alive"

    living(members, scenario)
    assert network.faults["cut"] > 0
    assert told(members[0], "dead") == []


# ---------------------------------------------------------------- flapping


@pytest.mark.parametrize("down", [3.0, 12.0, 40.0])
def test_nobody_is_dead_for_good_on_a_link_that_flaps(down: float) -> None:
    def is_down(at: float) -> bool:
        return at > 20.0 and (at - 20.0) % (down + 20.0) < down

    def judge(event: Event) -> Verdict:
        if not is_down(event.now) or "d" not in (event.source, event.target):
            return Verdict()
        return Verdict("silence" if event.kind == "piece" else "cut")

    network = SimulatedNetwork(judge=judge)
    members = swarm(network)

    async def scenario(_lives: list[asyncio.Task[None]]) -> None:
        for cycle in range(4):
            up = 20.0 + cycle * (down + 20.0) + down + 6.0
            await asyncio.sleep(up - now())
            assert [state(m, "d") for m in members[:3]] == ["alive"] * 3
            assert [state(members[3], n) for n in "abc"] == ["alive"] * 3
            before = completed(members[3])
            await asyncio.sleep(10.0)
            assert completed(members[3]) > before + 5

    living(members, scenario)
    assert network.faults["cut"] > 0
