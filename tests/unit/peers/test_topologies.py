"""Each topology's strategy on its own: what it decides, given the members. No network runs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.swarm import Member, build_member, centre_at, following_at, simulate, tiny_model, values

from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers import topologies
from p2p_elastic.peers.exchange.slot import IDLE
from p2p_elastic.peers.exchange.snapshots import Snapshot
from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.membership.newcomer import CaughtUp
from p2p_elastic.peers.state.endpoint import Endpoint
from p2p_elastic.peers.state.topology import Errand, Strategy, TopologyStatus
from p2p_elastic.peers.topologies import STRATEGIES
from p2p_elastic.protocol.exchange import Result
from p2p_elastic.protocol.messages import PROTOCOL_VERSION, DeclineReason, Given, Goodbye, Heard, Offer, Stamp
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.protocol.records import CentreClaim, PeerRecord
from p2p_elastic.protocol.software import OURS, Software
from p2p_elastic.rules.methods import RULES, Topology, find_method
from p2p_elastic.rules.policy import Policy
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

HASH, ID = ParameterVector(tiny_model(0)).schema_hash, "0" * 32
EVERY_TWO = Schedule(period=2)
NAMED = {
    Topology.PAIRS: "elastic-gossip",
    Topology.CENTRE: "easgd",
    Topology.LEADER: "lsgd",
    Topology.NOBODY: "none",
}


def policy(topology: Topology, **changes: Any) -> Policy:
    method = find_method(NAMED[topology])
    return Policy(method.rule(method.moving_rate), EVERY_TWO, topology, method.flow)._replace(**changes)


def record(peer: str, **facts: Any) -> PeerRecord:
    return PeerRecord.model_validate({"peer": peer, "run": "test", "schema_hash": HASH, "step": 1000, **facts})


def a_peer(topology: Topology, *others: PeerRecord, newcomer: bool = False, **changes: Any) -> Member:
    """A peer that sees these others, and does not run."""
    member = build_member(SimulatedNetwork(), "me", policy=policy(topology, **changes), newcomer=newcomer)
    member.peer.parts.members.look(others, 0.0)
    return member


def strategy(member: Member) -> Strategy:
    return member.peer.parts.run.topology


def names(records: list[PeerRecord]) -> str:
    return "".join(r.peer for r in records)


def offer(**said: Any) -> Offer:
    known = {"id": ID, "peer": "a", "run": "test", "schema_hash": HASH, "elements": 72, "codec": "none"}
    return Offer.model_validate({**known, "step": 1, "loss": 0.5, "weight": 1.0, **said})


def goodbye(**said: Any) -> Goodbye:
    return Goodbye.model_validate({"id": ID, "peer": "a", "run": "test", "sequence": 1, **said})


def claim(term: int, clock: int = 0, *, seated: bool = False) -> Mapping[str, Any]:
    return {"centre": CentreClaim(stamp=Stamp(term=term, clock=clock), seated=seated)}


def errands(member: Member, steps: int) -> list[tuple[int, str]]:
    coin = random.Random(0)
    return [(step, errand) for step in range(1, steps + 1) for errand in strategy(member).due(step, coin)]


CANDIDATES = [record("a", loss=0.5), record("b", loss=0.4, weight=0.0), record("c", loss=0.4)]


# -- the table ---------------------------------------------------------------------------------------------------------


def test_every_topology_that_runs_live_has_a_strategy() -> None:
    assert {method.topology for method in RULES.values() if method.live} == set(STRATEGIES)


# -- pairs -------------------------------------------------------------------------------------------------------------


def test_pairs_ask_any_member_once_each() -> None:
    pairs = strategy(a_peer(Topology.PAIRS, record("a"), record("b"), record("c", drained=True)))
    tried = set[str]()

    async def ask() -> None:
        while (partner := pairs.next_partner(tried)) is not None:
            tried.add(partner.peer)

    run_virtual(ask())
    assert tried == {"a", "b"}


def test_nobody_is_asked_who_says_that_it_speaks_another_protocol() -> None:
    other = Software(version="9", protocol=PROTOCOL_VERSION + 1).told
    a = record("a", addresses=(other,), loss=0.1, **claim(9, seated=True))
    b = record("b", addresses=(OURS.told,), loss=0.5, **claim(1, seated=True))
    assert not a.available

    async def ask(topology: Topology) -> None:
        worker = a_peer(topology, a, b, newcomer=True)
        await strategy(worker).look(_ignored)
        asked = strategy(worker).next_partner(set())
        assert asked is not None
        assert asked.peer == "b"
        assert strategy(worker).next_partner({"b"}) is None
        assert "a" in worker.peer.parts.members.known  # people see who runs what
        assert names(strategy(worker).donors([a, b])) == "b"

    for topology in (Topology.PAIRS, Topology.CENTRE):
        run_virtual(ask(topology))


async def _ignored() -> None:
    """An announcement that nobody waits for."""


def test_pairs_exchange_when_they_are_due() -> None:
    assert errands(a_peer(Topology.PAIRS), 5) == [(2, "exchange"), (4, "exchange")]


def test_in_pairs_an_offer_is_for_the_model_that_trains_here_and_all_are_alike() -> None:
    pairs = strategy(a_peer(Topology.PAIRS))
    endpoint = pairs.endpoint()
    assert endpoint is not None
    assert not any(endpoint.precedence(offer(centre={"term": 9, "clock": 9})))
    assert not pairs.here
    assert pairs.reference() is None


def test_in_pairs_the_best_are_copied_first_and_together() -> None:
    pairs = strategy(a_peer(Topology.PAIRS))
    assert names(pairs.donors(CANDIDATES)) == "ca"
    assert (pairs.one_donor, pairs.why_alone) == (False, None)


def test_a_leaver_prefers_who_counts_and_passes_over_who_is_not_trusted() -> None:
    pairs = strategy(a_peer(Topology.PAIRS, record("a", weight=0.0), record("b")))
    first, second = pairs.taker(set()), pairs.taker({"b"})
    assert (first and first.peer, second and second.peer) == ("b", "a")
    assert pairs.taker({"a", "b"}) is None
    assert pairs.hands_parameters


@pytest.mark.parametrize(("weighting", "compares"), [("fixed", False), ("dynamic", True)])
def test_pairs_keep_a_partners_parameters_only_to_try_them(weighting: str, compares: bool) -> None:
    member = a_peer(Topology.PAIRS, weighting=weighting)
    assert strategy(member).compares is compares
    assert member.peer.parts.slot.take()
    member.peer.during_evaluation()  # takes the snapshot
    assert (member.peer.parts.slot.mailbox.both is not None) is compares


# -- the centre --------------------------------------------------------------------------------------------------------


def test_the_founder_is_the_centre_and_who_joins_is_not() -> None:
    founder, joiner = a_peer(Topology.CENTRE), a_peer(Topology.CENTRE, newcomer=True)
    assert (strategy(founder).here, strategy(joiner).here) == (True, False)
    assert strategy(founder).claim() == claim(1, seated=True)
    assert strategy(joiner).claim() == claim(0)


def test_workers_ask_the_holder_alone_and_not_where_it_is_drained() -> None:
    worker = a_peer(Topology.CENTRE, record("a"), record("b"), newcomer=True)
    centre = centre_at(worker.peer)
    assert strategy(worker).next_partner(set()) is None
    centre.holder = "b"
    asked = strategy(worker).next_partner(set())
    assert asked is not None
    assert asked.peer == "b"
    assert strategy(worker).next_partner({"b"}) is None
    drained = a_peer(Topology.CENTRE, record("b", drained=True), newcomer=True)
    centre_at(drained.peer).holder = "b"
    assert strategy(drained).next_partner(set()) is None
    last = strategy(drained).taker(set())  # a leaver has nobody else
    assert last is not None


def test_an_offer_to_a_peer_that_is_not_the_centre_is_not_paced_since_it_has_to_hear_that() -> None:
    founder, joiner = a_peer(Topology.CENTRE), a_peer(Topology.CENTRE, newcomer=True)
    for member, exempt in ((founder, False), (joiner, True)):
        endpoint = strategy(member).endpoint()
        assert endpoint is not None
        assert endpoint.precedence(offer()) == (exempt, False, True)
        assert endpoint.precedence(offer(centre={"term": 1, "clock": 1})) == (exempt, True, True)


def test_from_a_centre_everything_comes_from_its_holder() -> None:
    worker = a_peer(Topology.CENTRE, newcomer=True)
    assert strategy(worker).donors(CANDIDATES) == []
    centre_at(worker.peer).holder = "b"
    assert names(strategy(worker).donors(CANDIDATES)) == "b"
    given = Given(id=ID, origin="b", step=1, loss=None)
    assert strategy(worker).objection_to(given) is DeclineReason.NOT_CENTRE
    assert strategy(worker).objection_to(given.model_copy(update={"centre": Stamp(term=1)})) is None
    assert strategy(worker).one_donor


def test_what_a_newcomer_begins_with_is_the_centre_as_it_saw_it_last() -> None:
    worker = a_peer(Topology.CENTRE, newcomer=True)
    found = CaughtUp(torch.ones(72), ("a",), 5, 0.1, None, Stamp(term=2, clock=7))
    strategy(worker).caught_up(found)
    value = worker.peer.centre_value()
    assert value is not None
    assert torch.equal(value, torch.ones(72))
    assert strategy(worker).claim() == claim(2, 7)


def test_what_an_exchange_brought_is_kept_as_the_centre() -> None:
    worker = a_peer(Topology.CENTRE, newcomer=True)
    mailbox = worker.peer.parts.slot.mailbox
    assert mailbox.request()
    worker.peer.during_evaluation()  # takes the snapshot
    mailbox.theirs.fill_(3.0)
    strategy(worker).exchanged(Result(Outcome.COMPLETED, centre=Stamp(term=1, clock=4)))
    assert torch.equal(centre_at(worker.peer).value, torch.full((72,), 3.0))
    strategy(worker).exchanged(Result(Outcome.COMPLETED))
    assert centre_at(worker.peer).stamp == Stamp(term=1, clock=4)


def test_the_centre_gives_newcomers_its_value_and_workers_give_none() -> None:
    founder, worker = a_peer(Topology.CENTRE), a_peer(Topology.CENTRE, newcomer=True)
    reference = strategy(founder).reference()
    assert reference is not None
    assert torch.equal(reference.snapshot.vector, values(founder.model))
    assert reference.stamp == Stamp(term=1)
    assert strategy(worker).reference() is None
    assert strategy(founder).snapshot_of("me") is reference.snapshot
    assert strategy(founder).snapshot_of("a") is None


def place_handed(
    *heirs: PeerRecord, answers: Mapping[str, Heard | None]
) -> tuple[Member, list[str], Mapping[str, Any]]:
    """The centre that leaves, whom it asked in what order, and what its farewell says of that."""
    leaver, asked = a_peer(Topology.CENTRE, *heirs), list[str]()

    async def answer(heir: PeerRecord, _failed: int, place: Mapping[str, Any]) -> Heard | None:
        assert place == {"heir": heir.peer, "centre": Stamp(term=1)}
        asked.append(heir.peer)
        return answers[heir.peer]

    async def hand() -> Mapping[str, Any]:
        assert strategy(leaver).goodbye() == {}
        return await strategy(leaver).hand_place(answer, 2)

    return leaver, asked, run_virtual(hand())


TOOK, REFUSED = Heard(id=ID, took=True), Heard(id=ID)


def test_a_centre_that_leaves_hands_its_place_to_the_freshest_copy() -> None:
    heirs = record("a", **claim(1, 3)), record("b", **claim(1, 9)), record("c", **claim(1, 5))
    leaver, asked, said = place_handed(*heirs, answers={"b": REFUSED, "c": TOOK})
    assert asked == ["b", "c"]
    assert said == {"centre_to": "c", "reason": None}
    assert not strategy(leaver).here
    assert strategy(leaver).goodbye() == {"heir": "c", "centre": Stamp(term=1)}


def test_after_two_heirs_that_do_not_answer_a_centre_gives_up_and_keeps_its_place() -> None:
    heirs = [record(name, **claim(1, clock)) for clock, name in enumerate("abcd")]
    leaver, asked, said = place_handed(*heirs, answers=dict.fromkeys("abcd"))
    assert asked == ["d", "c"]
    assert said == {"reason": "nobody took the centre variable over"}
    assert strategy(leaver).here
    assert strategy(leaver).goodbye() == {}


def test_a_centre_that_leaves_names_its_heir_which_counts_at_once() -> None:
    worker = a_peer(Topology.CENTRE, record("b", **claim(1)), newcomer=True)
    centre_at(worker.peer).holder = "a"
    strategy(worker).left(goodbye(heir="b", centre={"term": 1, "clock": 8}))
    named = worker.peer.parts.members.known["b"].record
    assert {"centre": named.centre} == claim(2, 8, seated=True)


def test_who_is_not_the_centre_names_no_heir() -> None:
    worker = a_peer(Topology.CENTRE, record("b", **claim(1)), newcomer=True)
    centre_at(worker.peer).holder = "c"
    strategy(worker).left(goodbye(heir="b", centre={"term": 1, "clock": 8}))
    assert {"centre": worker.peer.parts.members.known["b"].record.centre} == claim(1)


def test_a_vacant_place_is_taken_announced_and_told_of() -> None:
    worker, announced = a_peer(Topology.CENTRE, record("b", **claim(0)), newcomer=True), list[bool]()

    async def announce() -> None:
        announced.append(strategy(worker).here)

    async def look() -> None:
        for _ in range(30):
            await strategy(worker).look(announce)
            await asyncio.sleep(0.1)
            worker.peer.parts.members.look([record("b", **claim(0))], asyncio.get_running_loop().time())

    centre_at(worker.peer).stamp = Stamp(term=1, clock=5)
    run_virtual(look())
    assert announced == [True]
    assert strategy(worker).claim() == claim(2, 5, seated=True)
    assert [e.kind for e in worker.peer.events.since(0)].count("centre") == 1


def test_a_centre_is_remembered_and_recalled() -> None:
    before, after = a_peer(Topology.CENTRE), a_peer(Topology.CENTRE, newcomer=True)
    centre = centre_at(before.peer)
    centre.value, centre.stamp, centre.since, centre.behind = torch.ones(72), Stamp(term=3, clock=9), 4, 5
    memory = before.peer.memory()
    strategy(after).recall(memory, strategy(before).value())
    assert strategy(after).memory() == strategy(before).memory()
    assert strategy(after).status(0.0) == TopologyStatus(centre=centre_at(after.peer).status())
    again = a_peer(Topology.CENTRE, newcomer=True)
    strategy(again).recall(memory, None)  # its value was lost
    assert not strategy(again).here


# -- leaders -----------------------------------------------------------------------------------------------------------


def test_followers_are_due_for_their_group_and_for_all() -> None:
    assert errands(a_peer(Topology.LEADER, global_period=4), 4) == [(2, "exchange"), (4, "exchange"), (4, "global")]
    assert errands(a_peer(Topology.LEADER, global_period=2), 2) == [(2, "global")]


def test_under_a_leader_nobody_offers_and_nothing_is_handed_over() -> None:
    leader = strategy(a_peer(Topology.LEADER, record("a")))
    assert leader.endpoint() is None
    assert leader.next_partner(set()) is None
    assert not leader.hands_parameters
    assert names(leader.donors(CANDIDATES)) == "ca"
    assert leader.one_donor


def test_who_asks_for_our_snapshot_sees_the_leader_in_us() -> None:
    member = a_peer(Topology.LEADER)
    following = following_at(member.peer)
    following.snapshots.keep(held := Snapshot("a", 1, 0.5, torch.zeros(72)))
    assert strategy(member).snapshot_of("a") is held
    assert not following.asked_for
    assert strategy(member).snapshot_of("me") is None
    assert following.asked_for


def test_what_members_tell_makes_them_leaders_until_they_leave() -> None:
    member = a_peer(Topology.LEADER, record("a", loss=0.5), record("b", loss=0.4))
    following = following_at(member.peer)
    strategy(member).told("a", 0.1, 1.0)
    assert following.choose(1.0, member.peer.parts.members.known, 1.0, of_all=False) == "a"
    status = strategy(member).status(1.0)
    assert (status.leader and status.leader.leader, status.centre) == ("a", None)
    strategy(member).left(goodbye())
    assert following.leader is None


# -- nobody ------------------------------------------------------------------------------------------------------------


def test_who_trains_alone_asks_answers_and_hands_over_nothing() -> None:
    member = a_peer(Topology.NOBODY, record("a"))
    nobody = strategy(member)
    assert errands(member, 100) == []
    assert (nobody.next_partner(set()), nobody.taker(set()), nobody.endpoint(), nobody.value()) == (None,) * 4
    assert nobody.why_alone == "by this run's rule everybody trains alone"
    assert (nobody.here, nobody.hands_parameters, nobody.pending, nobody.compares) == (False,) * 4
    assert (nobody.claim(), nobody.memory(), nobody.goodbye(), nobody.verdicts()) == ({},) * 4
    assert nobody.status(0.0) == TopologyStatus()


def test_what_was_due_before_is_given_up_by_who_trains_alone_now() -> None:
    member = a_peer(Topology.NOBODY)
    slot = member.peer.parts.slot
    assert slot.take()
    run_virtual(strategy(member).run_due("exchange"))
    assert slot.state == IDLE


def test_another_run_may_have_another_topology() -> None:
    member = a_peer(Topology.NOBODY)

    async def adopt() -> None:
        member.peer.adopt("other", policy(Topology.CENTRE), codec="none", fragments=1)

    run_virtual(adopt())
    assert not strategy(member).here
    assert strategy(member).compares
    assert member.peer.parts.slot.take()
    member.peer.during_evaluation()  # takes the snapshot
    assert member.peer.parts.slot.mailbox.both is not None
    assert member.peer.centre() is not None


# -- one more ----------------------------------------------------------------------------------------------------------


class RingStrategy(Strategy):
    """Each asks the next one by name: all that another topology has to say."""

    def __init__(self, parts: StrategyParts) -> None:
        self._parts, self._local = parts, parts.local

    def due(self, step: int, coin: random.Random) -> Iterator[Errand]:
        if self._local.run.policy.schedule.due(step, coin):
            yield "exchange"

    async def run_due(self, errand: Errand) -> None:
        await self._parts.initiator.run_once()

    def next_partner(self, tried: set[str]) -> PeerRecord | None:
        around = sorted({**self._local.members.alive(), self._local.peer: None})
        found = around[(around.index(self._local.peer) + 1) % len(around)]
        return None if found in tried | {self._local.peer} else self._local.members.known[found].record

    def endpoint(self) -> Endpoint:
        return self._parts.own


def test_another_topology_is_one_class_and_one_line_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(topologies.STRATEGIES, Topology.PAIRS, RingStrategy)  # type: ignore[arg-type]
    members = simulate(SimulatedNetwork(), ["a", "b", "c"], policy=policy(Topology.PAIRS))
    for member, following in zip(members, "bca", strict=True):
        asked = {entry.partner for entry in member.peer.last_exchanges() if entry.initiated}
        assert asked == {following}
        assert member.peer.exchanges().by_outcome[Outcome.COMPLETED] > 10


def test_only_the_table_names_topologies() -> None:
    folder = Path(topologies.__file__).parent
    assert [p.name for p in sorted(folder.rglob("*.py")) if "Topology." in p.read_text()] == ["topologies.py"]
