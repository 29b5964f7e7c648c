"""The side that asks: one due exchange, with whoever agrees first."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable

import torch
from helpers.peer_parts import GOSSIP, introduce, parts_in, record, serve, step, train, values_of
from helpers.topologies import gossip

from p2p_elastic.peers.exchange.slot import DELIVERED, IDLE
from p2p_elastic.peers.gossip.admission import Admission
from p2p_elastic.peers.gossip.answering import Answering
from p2p_elastic.peers.gossip.initiator import Initiator, new_id
from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.session.conversation import Limits
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.testing.faults import Event, Verdict
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual


class Swarm:
    """The peer "a" asks; those named "answer" train and answer, the others are listed and not there."""

    def __init__(self, *names: str, answer: str = "", policy: object = GOSSIP) -> None:
        self.network = SimulatedNetwork()
        self.asker = parts_in(self.network, policy)  # type: ignore[arg-type]
        self.others = {name: parts_in(self.network, policy, name) for name in names}  # type: ignore[arg-type]
        self._answer = answer
        introduce(self.asker, *self.others.values())

    def ask(self, change: Callable[[StrategyParts], None] = lambda _asker: None) -> None:
        """One exchange that is due at the asker, in the state that `change` brings it to."""

        async def main() -> None:
            trained = [self.others[name] for name in self._answer]
            for parts in trained:
                step(parts)
                await serve(parts, Answering(parts.local, parts.limits, Admission(parts.local)))
            training = [asyncio.ensure_future(train(parts)) for parts in trained]
            change(self.asker)
            step(self.asker, due=True)
            await self.asker.initiator.run_once()
            await asyncio.sleep(60.0)
            for task in training:
                task.cancel()

        run_virtual(main())

    @property
    def outcomes(self) -> dict[Outcome, int]:
        return self.asker.local.journal.totals(0.0).by_outcome

    @property
    def skipped(self) -> dict[str, int]:
        return {why: count for why, count in self.asker.local.journal.skipped.items()}


def test_both_ends_meet_half_way() -> None:
    swarm = Swarm("b", answer="b")
    middle = (values_of(swarm.asker) + values_of(swarm.others["b"])) / 2.0
    swarm.ask()
    assert swarm.asker.local.slot.state == DELIVERED
    step(swarm.asker)
    torch.testing.assert_close(values_of(swarm.asker), middle)
    torch.testing.assert_close(values_of(swarm.others["b"]), middle)
    assert swarm.outcomes == {Outcome.COMPLETED: 1}


def test_where_some_do_not_answer_the_same_snapshot_is_offered_to_others() -> None:
    swarm = Swarm("b", "c", "d", answer="d")
    before = values_of(swarm.asker)
    swarm.ask()
    assert swarm.outcomes[Outcome.COMPLETED] == 1
    step(swarm.asker)
    assert not torch.equal(values_of(swarm.asker), before)


def test_where_nobody_answers_the_slot_is_free_again_and_they_are_suspect() -> None:
    swarm = Swarm("b", "c")
    before = values_of(swarm.asker)
    swarm.ask()
    assert swarm.outcomes == {Outcome.UNREACHABLE: 2}
    assert swarm.skipped == {"no further partner": 1}
    assert swarm.asker.local.slot.state == IDLE
    assert torch.equal(values_of(swarm.asker), before)
    assert set(swarm.asker.local.members.not_dead()) == {"b", "c"}
    assert not run_virtual(alive(swarm.asker))


async def alive(parts: StrategyParts) -> set[str]:
    return set(parts.local.members.alive())


def test_alone_nothing_is_asked() -> None:
    swarm = Swarm()
    swarm.ask()
    assert swarm.skipped == {"no partner": 1}
    assert swarm.asker.local.slot.state == IDLE


def test_a_drained_peer_asks_nobody() -> None:
    swarm = Swarm("b", answer="b")
    swarm.ask(lambda asker: asker.local.own.condition.drain())
    assert swarm.skipped == {"drained": 1}
    assert swarm.outcomes == {}


def break_model(parts: StrategyParts) -> None:
    parts.local.vector.load_(torch.full((72,), math.nan))


def test_a_broken_model_asks_to_be_healed() -> None:
    swarm = Swarm("b", answer="b")
    theirs = values_of(swarm.others["b"])
    swarm.ask(break_model)
    step(swarm.asker)
    torch.testing.assert_close(values_of(swarm.asker), theirs)
    torch.testing.assert_close(values_of(swarm.others["b"]), theirs)


def test_a_broken_model_that_could_only_send_asks_nobody() -> None:
    swarm = Swarm("b", answer="b", policy=gossip("gossip-push"))
    swarm.ask(break_model)
    assert swarm.skipped == {"own parameters not finite": 1}
    assert swarm.outcomes == {}


def test_a_last_word_that_was_lost_is_asked_for_and_both_ends_have_moved() -> None:
    swarm = Swarm("b", answer="b")
    middle = (values_of(swarm.asker) + values_of(swarm.others["b"])) / 2.0

    def cut(event: Event) -> Verdict:  # the first stream's last word: after Accept, chunk header and chunk
        lost = event.source == "b" and event.kind == "piece" and event.number == 3 and not swarm.network.faults
        return Verdict("cut" if lost else "pass")

    swarm.network.judge = cut
    swarm.ask()
    step(swarm.asker)
    assert swarm.network.faults == {"cut": 1}
    torch.testing.assert_close(values_of(swarm.asker), middle)
    torch.testing.assert_close(values_of(swarm.others["b"]), middle)
    assert swarm.outcomes == {Outcome.COMPLETED: 1}


def test_an_exchange_outside_of_the_schedule_that_fails_frees_the_slot() -> None:
    swarm = Swarm("b")
    assert swarm.asker.local.slot.take()
    step(swarm.asker)
    assert run_virtual(swarm.asker.initiator.exchange_with(record("b"))) is Outcome.UNREACHABLE
    assert swarm.asker.local.slot.state == IDLE


# -- ids ---------------------------------------------------------------------------------------------------------------


def test_ids_are_those_of_the_protocol_and_do_not_come_again() -> None:
    rng = random.Random(0)
    ids = {new_id(rng) for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(one) == 32 and int(one, 16) >= 0 for one in ids)


def test_an_initiator_of_its_own_asks_whom_the_topology_names() -> None:
    swarm = Swarm("b")
    step(swarm.asker, due=True)
    limits = Limits(attempts=1)
    run_virtual(Initiator(swarm.asker.local, swarm.asker.transport, limits, random.Random(0)).run_once())
    assert swarm.outcomes == {Outcome.UNREACHABLE: 1}
