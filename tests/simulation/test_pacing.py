"""Budgets and thin links in virtual time, with the production peer: what is kept to, and who is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import torch
from helpers.swarm import Member, build_member, run_members, tiny_model, values

from p2p_elastic.peers.exchange.pacing import SLOW_SHARE
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.rate_limit import BURST_SECONDS, Budget
from p2p_elastic.rules.methods import Topology, find_method
from p2p_elastic.rules.policy import Policy
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.status.schema import ExchangeTotals, PaceStatus
from p2p_elastic.testing.faults import Event, Judge, Verdict
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

NAMES = ["a", "b", "c", "d"]
STEP_SECONDS = 0.2
WIDTH = 32  # 4.2 kB: more than the headers


def policy_of(rule: str, period: int = 5) -> Policy:
    method = find_method(rule)
    rate = 0.2 if method.topology is Topology.CENTRE else method.moving_rate
    return Policy(method.rule(rate), Schedule(period=period), method.topology, method.flow)


def swarm(
    network: SimulatedNetwork,
    names: list[str],
    *,
    policy: Policy,
    budgets: dict[str, Budget] | None = None,
    width: int = WIDTH,
    **options: Any,
) -> list[Member]:
    """One member per name, of different speeds; the first is the founder of a run that has a centre."""
    return [
        build_member(
            network,
            name,
            model=tiny_model(i, width),
            seed=i,
            policy=policy,
            newcomer=i > 0 and policy.topology is Topology.CENTRE,
            step_seconds=STEP_SECONDS * (1 + 0.03 * i),
            budget=(budgets or {}).get(name),
            **options,
        )
        for i, name in enumerate(names)
    ]


async def live(
    members: list[Member], seconds: float, then: Callable[[], Awaitable[None]] | None = None
) -> list[ExchangeTotals]:
    """Train for so long, without leaving; what came of it."""
    lives = [asyncio.ensure_future(m.peer.run()) for m in members]
    try:
        for member in members:
            await member.peer.announce()
        for member in members:
            await member.peer.refresh()
        lives += [asyncio.ensure_future(m.train(10**9)) for m in members]
        await asyncio.sleep(seconds)
        if then is not None:
            await then()
        return [m.peer.exchanges() for m in members]
    finally:
        for life in lives:
            life.cancel()
        await asyncio.gather(*lives, return_exceptions=True)


def completed(totals: ExchangeTotals) -> int:
    return totals.by_outcome.get(Outcome.COMPLETED, 0)


def traffic(totals: ExchangeTotals) -> int:
    return totals.bytes_sent + totals.bytes_received


def pace_of(member: Member) -> PaceStatus:
    status = member.peer.pace()
    assert status is not None
    return status


# ---------------------------------------------------------------- a budget of bytes


@pytest.mark.parametrize(
    ("rule", "limited"),
    [
        ("elastic-gossip", "b"),
        ("gossip-pull", "b"),
        ("gosgd", "b"),
        ("easgd", "b"),
        ("easgd", "a"),  # the centre
        ("lsgd", "a"),  # the leader
        ("lsgd", "b"),
    ],
)
def test_a_budget_of_bytes_is_kept_to_and_used_up_under_every_rule(rule: str, limited: str) -> None:
    rate, seconds, index = 2000.0, 120.0, NAMES.index(limited)

    async def main() -> tuple[list[Member], list[ExchangeTotals]]:
        members = swarm(SimulatedNetwork(), NAMES, policy=policy_of(rule), budgets={limited: Budget(rate)})
        members[0].loss = 0.5
        return members, await live(members, seconds)

    members, totals = run_virtual(main())
    whole = 2 * WIDTH * (WIDTH + 1) * 4 + 2000
    mean = traffic(totals[index]) / seconds
    free = max(traffic(t) for i, t in enumerate(totals) if i != index) / seconds
    assert mean <= rate * (1 + BURST_SECONDS / seconds) + 2 * whole / seconds
    assert mean >= 0.85 * rate or rule == "lsgd"  # whoever leads sends what followers want, and they help each other
    if rule != "easgd" or limited != "a":
        assert free > 1.5 * rate  # the others' exchanges go on
    status = pace_of(members[index])
    assert status.max_bytes_per_second == rate
    assert status.bytes_per_second == pytest.approx(mean, rel=0.25)


def test_what_is_due_meanwhile_stays_owed_once_and_the_rest_is_counted() -> None:
    async def main() -> tuple[list[Member], list[ExchangeTotals]]:
        quiet = policy_of("elastic-gossip")._replace(schedule=Schedule(probability=0.0))
        network = SimulatedNetwork()
        a = swarm(network, ["a"], policy=policy_of("elastic-gossip"), budgets={"a": Budget(1000.0)})[0]
        b = build_member(network, "b", model=tiny_model(1, WIDTH), policy=quiet, step_seconds=STEP_SECONDS)
        return [a, b], await live([a, b], 200.0)

    (a, _), (of_a, of_b) = run_virtual(main())
    status, due = pace_of(a), 200
    assert status.period == 5.0
    assert completed(of_a) == completed(of_b) > 10
    assert of_a.skipped["paced"] > 100
    assert completed(of_a) + sum(of_a.skipped.values()) == pytest.approx(due, abs=2)
    assert status.effective_period == pytest.approx(status.exchange_seconds / STEP_SECONDS, rel=0.02)
    # Exchanges begin with the first step after the budget opens: none of it is lost.
    assert completed(of_a) == pytest.approx((200.0 + BURST_SECONDS) / status.exchange_seconds, rel=0.05)


def test_offers_are_declined_as_paced_and_the_askers_go_to_others() -> None:
    async def main() -> list[ExchangeTotals]:
        members = swarm(SimulatedNetwork(), NAMES, policy=policy_of("elastic-gossip"), budgets={"b": Budget(500.0)})
        return await live(members, 120.0)

    totals = run_virtual(main())
    assert totals[1].declined_by_us["paced"] > 50
    assert sum(t.declined_by_partner.get("paced", 0) for t in totals) == totals[1].declined_by_us["paced"]
    assert all(not t.by_outcome.keys() - {Outcome.COMPLETED, Outcome.DECLINED} for t in totals)
    assert min(completed(totals[i]) for i in (0, 2, 3)) > 5 * completed(totals[1]) > 0


def test_where_all_have_a_budget_they_still_meet_and_nearly_use_it_up() -> None:
    rate, seconds = 1000.0, 400.0

    async def main() -> list[ExchangeTotals]:
        names = [*NAMES, "e", "f"]
        budgets = {name: Budget(rate) for name in names}
        members = swarm(SimulatedNetwork(), names, policy=policy_of("elastic-gossip"), budgets=budgets)
        return await live(members, seconds)

    means = [traffic(t) / seconds for t in run_virtual(main())]
    assert max(means) <= 1.06 * rate
    assert min(means) >= 0.8 * rate


def test_a_roomy_budget_changes_nothing() -> None:
    async def main(budget: Budget | None) -> tuple[list[bytes], list[ExchangeTotals]]:
        names = {name: budget for name in NAMES if budget is not None}
        members = swarm(SimulatedNetwork(), NAMES, policy=policy_of("elastic-gossip"), budgets=names)
        totals = await live(members, 60.0)
        assert (members[0].peer.pace() is None) == (budget is None)
        return [values(m.model).numpy().tobytes() for m in members], totals

    assert run_virtual(main(None)) == run_virtual(main(Budget(1e12)))


# ---------------------------------------------------------------- a budget of time


def wire(event: Event) -> Verdict:
    """Half a second for each chunk, 10 ms for anything else."""
    return Verdict(seconds=0.5 if event.kind == "piece" and event.nbytes > 2000 else 0.01)


@pytest.mark.parametrize("rule", ["elastic-gossip", "easgd", "lsgd"])
def test_a_budget_of_time_is_kept_to(rule: str) -> None:
    share, seconds = 0.1, 200.0

    async def main() -> tuple[Member, float, float]:
        members = swarm(SimulatedNetwork(wire), NAMES, policy=policy_of(rule), budgets={"b": Budget(share=share)})
        members[0].loss = 0.5
        spent, free = [0.0], [0.0]
        for member, sums in ((members[1], spent), (members[2], free)):
            _listen(member, sums)
        await live(members, seconds)
        return members[1], spent[0] / seconds, free[0] / seconds

    limited, spent, free = run_virtual(main())
    assert 0.7 * share <= spent <= share * (1 + BURST_SECONDS / seconds) + 1.0 / seconds
    assert free > 2 * share
    assert pace_of(limited).share == pytest.approx(spent, rel=0.3)


def _listen(member: Member, seconds: list[float], to: str = "") -> None:
    """Add up how long the exchanges of a member take, with all or those whose names begin so."""
    journal = member.peer.parts.journal
    enter = journal.enter

    def entered(entry: Any, weight: float | None = None) -> None:
        seconds[0] += entry.seconds if entry.partner.startswith(to) else 0.0
        enter(entry, weight)

    journal.enter = entered  # type: ignore[method-assign]


# ---------------------------------------------------------------- what is not held back


def test_a_leaver_hands_over_though_all_budgets_are_spent() -> None:
    async def main() -> tuple[float, float]:
        names, policy = ["a", "b"], policy_of("gosgd")
        members = swarm(SimulatedNetwork(), names, policy=policy, budgets={name: Budget(300.0) for name in names})

        async def leave() -> None:
            assert all(pace_of(m).wait_seconds > 3.0 for m in members)
            left = await members[0].peer.leave(10.0)
            assert left.handed_to == "b"

        await live(members, 50.0, then=leave)
        totals = [m.peer.exchanges() for m in members]
        shares = [m.peer.memory().rule for m in members]
        return sum(float(s) for s in shares), traffic(totals[1]) / 50.0

    sum_of_shares, mean = run_virtual(main())
    assert sum_of_shares == pytest.approx(2.0)
    assert mean < 300.0 * (1 + BURST_SECONDS / 50.0) + 2 * 6000 / 50.0


def test_a_newcomer_catches_up_from_peers_whose_budgets_are_spent_and_pays_for_it() -> None:
    network, policy = SimulatedNetwork(), policy_of("elastic-gossip")

    async def main() -> tuple[Member, float]:
        olds = swarm(network, NAMES[:3], policy=policy, budgets={name: Budget(400.0) for name in NAMES})
        new = build_member(
            network, "new", model=tiny_model(9, WIDTH), policy=policy, newcomer=True, budget=Budget(400.0)
        )
        found: list[float] = []

        async def join() -> None:
            assert all(pace_of(m).wait_seconds > 0.0 for m in olds)
            life = asyncio.ensure_future(new.peer.run())
            begun = asyncio.get_running_loop().time()
            assert await new.peer.catch_up(untrained=2.0) is not None
            found.append(asyncio.get_running_loop().time() - begun)
            life.cancel()

        await live(olds, 60.0, then=join)
        return new, found[0]

    new, took = run_virtual(main())
    assert took < 5.0
    vector = WIDTH * (WIDTH + 1) * 4
    assert traffic(new.peer.exchanges()) > vector
    assert pace_of(new).bytes_per_second  # it was counted


def test_a_newcomers_donor_stops_giving_where_its_debt_grows() -> None:
    network, policy = SimulatedNetwork(), policy_of("elastic-gossip")

    async def main() -> tuple[list[bool], Member]:
        old = swarm(network, ["a"], policy=policy, budgets={"a": Budget(100.0)})[0]
        came: list[bool] = []

        async def join() -> None:
            for number in range(12):
                new = build_member(network, f"n{number}", model=tiny_model(9, WIDTH), policy=policy, newcomer=True)
                life = asyncio.ensure_future(new.peer.run())
                came.append(await new.peer.catch_up(untrained=2.0) is not None)
                life.cancel()

        await live([old], 5.0, then=join)
        return came, old

    came, old = run_virtual(main())
    assert came[:4] == [True] * 4
    assert False in came
    assert old.peer.exchanges().declined_by_us["paced"] > 0


def test_a_centre_that_meets_itself_does_not_wait_for_its_budget() -> None:
    async def main() -> tuple[list[Member], list[ExchangeTotals]]:
        members = swarm(SimulatedNetwork(), ["a", "b"], policy=policy_of("easgd"), budgets={"a": Budget(100.0)})
        return members, await live(members, 60.0)

    members, totals = run_virtual(main())
    centre = members[0].peer.centre()
    assert centre is not None
    assert centre.exchanges > 50
    assert "paced" not in totals[0].skipped
    assert totals[1].declined_by_partner["paced"] > 20


def test_with_budgets_the_sum_stays_what_it_was() -> None:
    async def main() -> list[Member]:
        policy = policy_of("elastic-gossip", period=2)
        members = swarm(SimulatedNetwork(), NAMES, policy=policy, budgets={name: Budget(3000.0) for name in NAMES})
        await run_members(members, steps=300)
        return members

    members = run_virtual(main())
    start = torch.stack([values(tiny_model(i, WIDTH)) for i in range(4)])
    end = torch.stack([values(m.model) for m in members])
    assert all(m.peer.exchanges().skipped.get("paced", 0) > 10 for m in members)
    torch.testing.assert_close(end.sum(dim=0), start.sum(dim=0), rtol=0, atol=5e-6)


# ---------------------------------------------------------------- slow partners


def thin(peer: str) -> Judge:
    """A network in which everything from and to that peer crawls: 8 s for the parameters, 0.2 s for a message."""
    chunk = values(tiny_model(0)).nbytes

    def judge(event: Event) -> Verdict:
        if event.kind != "piece" or peer not in (event.source, event.target):
            return Verdict()
        return Verdict(seconds=8.0 if event.nbytes == chunk else 0.2)

    return judge


def met(member: Member, *, slow: bool) -> int:
    """How many exchanges it completed with the slow peer, or with the others."""
    return sum(p.exchanges.get(Outcome.COMPLETED, 0) for p in member.peer.partners() if (p.peer == "slow") == slow)


def exchanged(rule: str, *, slow: bool, seconds: float = 200.0) -> tuple[float, int, list[ExchangeTotals]]:
    """Exchanges of a fast peer with fast ones, on average, and of the slow peer with anybody; 4 fast ones are there."""

    async def main() -> tuple[float, int, list[ExchangeTotals]]:
        names = [*NAMES, "slow"] if slow else NAMES
        members = swarm(SimulatedNetwork(thin("slow")), names, policy=policy_of(rule, period=5), width=8)
        totals = await live(members, seconds)
        fast = sum(met(m, slow=False) for m in members[:4]) / 4
        return fast, met(members[-1], slow=False) if slow else 0, totals

    return run_virtual(main())


@pytest.mark.parametrize(("rule", "kept"), [("elastic-gossip", 0.8), ("gosgd", 0.8), ("easgd", 0.9)])
def test_a_slow_peer_leaves_the_fast_ones_their_exchanges_and_has_some_itself(rule: str, kept: float) -> None:
    without, _, _ = exchanged(rule, slow=False)
    fast, slow, totals = exchanged(rule, slow=True)
    assert fast >= kept * without
    assert slow >= 2
    assert sum(t.declined_by_us.get("paced", 0) for t in totals) > 10


def test_partners_say_how_long_their_exchanges_take() -> None:
    async def main() -> dict[str, float | None]:
        members = swarm(SimulatedNetwork(thin("slow")), [*NAMES, "slow"], policy=policy_of("gossip-pull"), width=8)
        await live(members, 100.0)
        return {p.peer: p.exchange_seconds for p in members[0].peer.partners()}

    took = run_virtual(main())
    assert (took["slow"] or 0.0) > 8.0
    assert all(seconds is not None and seconds < 1.0 for peer, seconds in took.items() if peer != "slow")


def test_where_exchanges_are_seldom_a_slow_partner_is_one_like_any_other() -> None:
    """It holds nobody up: its exchanges are over when the next one is due."""

    async def main() -> list[ExchangeTotals]:
        names, policy = [*NAMES, "slow"], policy_of("elastic-gossip", period=100)
        return await live(swarm(SimulatedNetwork(thin("slow")), names, policy=policy, width=8), 2400.0)

    totals = run_virtual(main())
    assert all("paced" not in t.declined_by_us for t in totals)
    assert completed(totals[-1]) > 0.7 * max(completed(t) for t in totals)


def test_several_slow_askers_share_a_twentieth_of_the_time() -> None:
    chunk, seconds = values(tiny_model(0)).nbytes, 300.0

    def judge(event: Event) -> Verdict:
        crawls = event.kind == "piece" and "s" in (event.source[0], event.target[0])
        return Verdict(seconds=8.0 if crawls and event.nbytes == chunk else 0.01)

    async def main() -> tuple[list[Member], list[float]]:
        names = ["f1", "f2", "f3", "f4", "s1", "s2", "s3"]
        members = swarm(SimulatedNetwork(judge), names, policy=policy_of("elastic-gossip"), width=8)
        spent: list[list[float]] = [[0.0] for _ in names[:4]]
        for member, sums in zip(members[:4], spent, strict=True):
            _listen(member, sums, to="s")
        await live(members, seconds)
        return members, [sums[0] / seconds for sums in spent]

    members, shares = run_virtual(main())
    # And the first exchanges with each, when nothing was known of it: one that it asks for, and one that we do.
    assert max(shares) < SLOW_SHARE + 6 * 9.0 / seconds
    assert all(completed(m.peer.exchanges()) > 3 for m in members)
