"""What a peer says of itself."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

import pytest
import torch
from helpers.swarm import build_parts, tiny_model

from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.exchange.mailbox import Mailbox
from p2p_elastic.peers.state.context import LocalContext
from p2p_elastic.peers.state.own_state import Progress
from p2p_elastic.protocol.limits import AUTO_FRAGMENTS
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.rules.pairwise import elastic
from p2p_elastic.rules.policy import Policy
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.testing.virtual_time import run_virtual

FIXED = Policy(elastic(0.5), Schedule(period=10))
DYNAMIC = FIXED._replace(weighting="dynamic")


def seen(parts: LocalContext, step: int, loss: float | None = None, now: float = 0.0) -> None:
    """One other member is there."""
    record = PeerRecord(
        peer="b", run="test", schema_hash=parts.vector.schema_hash, step=step, loss=loss, sequence=int(now) + 1
    )
    parts.members.look([record], now=now)


def in_time(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await scenario()

    run_virtual(main())


def test_the_first_finite_loss_is_where_training_began() -> None:
    own = build_parts(FIXED).own
    for loss in (math.nan, 2.0, 1.0):
        own.report_loss(loss)
    assert own.progress == Progress(0, 1.0, 2.0)
    assert (own.stepped(), own.stepped(), own.progress.step) == (1, 2, 2)
    own.report_loss(math.inf)
    assert own.loss() is None
    assert own.tell("f" * 32).loss is None


def test_broken_parameters_and_losses_count_nothing_whatever_the_operator_says() -> None:
    parts = build_parts(FIXED)
    own = parts.own
    assert own.weight == 1.0
    own.condition.override_weight(0.5)
    assert own.weight == 0.5
    own.report_loss(math.nan)
    assert own.weight == 0.0
    own.report_loss(1.0)
    assert own.weight == 0.5


def test_a_snapshot_that_is_not_finite_makes_a_peer_broken_until_another_model_takes_its_place() -> None:
    model = tiny_model(0)
    mailbox, own = Mailbox(ParameterVector(model)), build_parts(FIXED).own

    async def scenario() -> None:
        with torch.no_grad():
            next(model.parameters()).fill_(math.nan)
        mailbox.between_steps(1, due=True, settle=True, published=lambda _: None)
        assert not await own.finite(mailbox)
        assert (own.broken, own.weight, own.next_part()) == (True, 0.0, None)
        own.replaced()
        assert (own.broken, own.weight) == (False, 1.0)

    in_time(scenario)


def test_a_newcomer_counts_nothing_while_somebody_is_ahead_and_until_its_loss_shows_that_it_copied() -> None:
    parts = build_parts(FIXED, newcomer=True)
    own = parts.own
    assert own.weight == 1.0  # nobody is ahead
    seen(parts, step=100, loss=1.0)
    assert own.weight == 0.0
    own.met(copied=True)
    assert (own.newcomer, own.weight) == (False, 0.0)
    own.report_untrained_loss(2.3)
    counts = []
    for _ in range(5):
        own.stepped()
        own.report_loss(1.0)
        counts.append(own.arrives(1.0))
    assert counts == [False] * 4 + [True]
    assert own.weight == 1.0
    assert not own.arrives(2.0)


def test_a_newcomer_that_moved_as_an_equal_counts_at_once() -> None:
    parts = build_parts(FIXED, newcomer=True)
    seen(parts, step=100)
    parts.own.met(copied=False)
    assert parts.own.weight == 1.0
    parts.own.join(now=3.0)
    assert parts.own.weight == 0.0


@pytest.mark.parametrize(("step", "after", "newcomer"), [(1000, 0.0, True), (120, 0.0, False), (1000, 61.0, False)])
def test_who_was_away_for_long_is_a_newcomer_again_unless_it_trained_alone_for_a_while(
    step: int, after: float, newcomer: bool
) -> None:
    parts = build_parts(FIXED)
    parts.own.look_back(0.0)
    assert not parts.own.newcomer
    parts.own.resume(Progress(100, 1.0, 2.0), newcomer=False)
    if after:
        parts.own.look_back(0.0)  # nobody is there yet
    seen(parts, step=step, now=after)
    parts.own.look_back(after)
    assert parts.own.newcomer is newcomer


def test_a_change_of_weight_is_said_once_with_its_reason() -> None:
    parts = build_parts(DYNAMIC)

    async def scenario() -> None:
        parts.own.weigh()
        for _ in range(2):
            parts.own.compared(0.0)
            parts.own.weigh()
        told = [event.text for event in parts.events.since(0) if event.kind == "weight"]
        assert len(told) == 1
        assert "partner's parameters do clearly better" in told[0]
        assert parts.own.weight < 1.0

    in_time(scenario)


def test_parts_are_exchanged_only_by_who_needs_no_whole_model() -> None:
    parts = build_parts(FIXED, fragments=4, newcomer=True)
    assert parts.own.next_part() is None
    parts.own.met(copied=False)
    part = parts.own.next_part()
    assert part is not None
    assert part[1] - part[0] == 18


def test_in_quiet_times_nothing_is_said_of_a_partition() -> None:
    parts = build_parts(FIXED)

    async def scenario() -> None:
        seen(parts, step=1)
        await asyncio.sleep(0.1)
        assert parts.own.apart_from("b") is None

    in_time(scenario)


def test_who_has_copied_the_model_over_a_thin_link_does_not_ask_for_all_of_it_again() -> None:
    for fragments, whole in ((AUTO_FRAGMENTS, False), (4, True)):
        parts = build_parts(FIXED, fragments=fragments)
        parts.members.deadlines.saw("b", "byte", 1.0)
        parts.own.arrival.copied()
        assert (parts.own.next_part() is None) == whole
