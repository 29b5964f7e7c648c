"""Whom a newcomer copies, whether it believes what it got, and when it counts: pure functions of values."""

from __future__ import annotations

import asyncio
import hashlib

import pytest
import torch

from p2p_elastic.peers.lifecycle.catch_up import disbelief
from p2p_elastic.peers.lifecycle.download import Download, bytes_of, digest_of, parts_of
from p2p_elastic.peers.membership.healthy import healthy
from p2p_elastic.peers.membership.liveness import Member
from p2p_elastic.peers.membership.newcomer import STEPS_MAX, STEPS_MIN, Arrival, Measured
from p2p_elastic.protocol.messages import Given
from p2p_elastic.protocol.records import PeerRecord


def record(peer: str, **facts: object) -> PeerRecord:
    known = {"step": 1000, "loss": 0.4, **facts}
    return PeerRecord.model_validate({"peer": peer, "run": "r", "schema_hash": "0" * 32, **known})


def names(records: list[PeerRecord]) -> str:
    return "".join(r.peer for r in records)


@pytest.mark.parametrize(
    ("facts", "copied"),
    [
        ({}, True),
        ({"step": 10}, True),  # came late, and does as well
        ({"loss": 0.7}, True),
        ({"loss": 0.71}, False),
        ({"loss": None}, False),
        ({"weight": 0.0}, False),
        ({"weight": 0.1}, False),
        ({"drained": True}, False),
        ({"left": True}, False),
    ],
)
def test_who_is_worth_copying(facts: dict[str, object], copied: bool) -> None:
    assert ("x" in names(healthy([record("a"), record("b"), record("x", **facts)]))) is copied


def test_where_no_losses_are_known_the_most_advanced_are_copied() -> None:
    assert names(healthy([record("a", loss=None), record("b", loss=None, step=499)])) == "a"
    assert healthy([]) == []


def test_parts_cover_the_vector_once_and_the_last_one_is_shorter() -> None:
    assert parts_of(10, 4) == [(0, 4), (4, 8), (8, 10)]
    assert parts_of(4, 4) == [(0, 4)]


def test_the_digest_is_blake2b_of_the_bytes() -> None:
    values = torch.arange(200_000, dtype=torch.float32)
    expected = hashlib.blake2b(values.numpy().tobytes(), digest_size=32).hexdigest()
    assert asyncio.run(digest_of(bytes_of(values))) == expected


def downloaded(*losses: float | None) -> Download:
    download = Download.begin(torch.zeros(8), 4)
    for i, loss in enumerate(losses):
        download.given[str(i)] = Given(id="0" * 32, origin=str(i), step=i, loss=loss)
    return download


@pytest.mark.parametrize(
    ("claimed", "measured", "believed"),
    [
        ((0.1,), Measured(0.12), True),
        ((0.1,), Measured(1.1), True),  # a small part of the data only: the others never saw ours
        ((0.1,), Measured(1.3), False),
        ((0.1,), Measured(1.3, error=0.1), True),
        ((0.1, 0.1), Measured(0.6), True),
        ((0.1, 0.1), Measured(1.1), False),  # parts that do not fit together
        ((0.1, 0.3), Measured(0.75), True),  # the higher claim counts
        ((2.2,), Measured(2.4), True),  # early in the run
        ((None,), Measured(2.4), True),  # a centre claims nothing
        ((None,), Measured(9.0), False),
        ((0.1,), Measured(float("nan")), False),
    ],
)
def test_parameters_must_do_about_as_well_here_as_is_claimed(
    claimed: tuple[float | None, ...], measured: Measured, believed: bool
) -> None:
    assert (disbelief(downloaded(*claimed), 2.3, measured) is None) is believed


def arrived(losses: list[float], others: tuple[float, ...] = (0.4,), weight: float = 1.0) -> list[bool]:
    members = {str(i): Member(record(str(i), loss=loss, weight=weight), 0.0) for i, loss in enumerate(others)}
    arrival = Arrival(newcomer=True)
    arrival.began(10.0)
    arrival.copied()
    return [arrival.stepped(loss, 2.3, members, 11.0 + i) for i, loss in enumerate(losses)]


def test_a_newcomer_counts_after_a_few_steps_where_its_loss_is_in_range() -> None:
    assert arrived([0.4] * 10) == [False] * (STEPS_MIN - 1) + [True] + [False] * (10 - STEPS_MIN)
    assert arrived([2.0] * 8 + [0.5]) == [False] * 8 + [True]


def test_nobody_is_left_out_for_ever() -> None:
    assert arrived([2.0] * (STEPS_MAX + 1)).index(True) == STEPS_MAX - 1


def test_others_that_do_not_count_say_nothing() -> None:
    assert arrived([2.0] * STEPS_MIN, weight=0.0)[-1]
    assert arrived([2.0] * STEPS_MIN, others=())[-1]


def test_how_long_it_took_is_kept() -> None:
    arrival = Arrival(newcomer=True)
    arrival.began(10.0)
    arrival.began(99.0)
    arrival.copied()
    for i in range(STEPS_MIN):
        arrival.stepped(0.1, 2.3, {}, 11.0 + i)
    assert arrival.status is not None
    assert (arrival.status.useful_seconds, arrival.status.useful_steps) == (STEPS_MIN, STEPS_MIN)
    assert Arrival(newcomer=False).status is None
