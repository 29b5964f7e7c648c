"""How many parts a vector is divided into, by what a link has shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p_elastic.protocol.codecs import CODECS
from p2p_elastic.protocol.link_choice import (
    AUTO_FRAGMENTS_MAX,
    KEPT_SHARES,
    NOTHING_SHOWN,
    Link,
    choose_codec,
    choose_fragments,
    transfer_seconds,
)

MNIST = 2_913_290
RATES = st.floats(1e-9, 1e-2)


def transfer(count: int, link: Link) -> float:
    assert link.seconds_per_byte is not None
    return 2.0 * CODECS["int8"].nbytes(MNIST) * link.seconds_per_byte / count


@given(RATES, st.floats(0.0, 2.0), st.none() | st.floats(0.01, 1e4), st.integers(1, 256))
def test_a_part_takes_no_more_than_what_the_peer_can_afford(
    seconds_per_byte: float, rtt: float, period: float | None, now: int
) -> None:
    link = Link(seconds_per_byte, rtt)
    count = choose_fragments(MNIST, "int8", link, period, now)
    assert 1 <= count <= AUTO_FRAGMENTS_MAX
    if count < AUTO_FRAGMENTS_MAX:
        assert transfer(count, link) <= KEPT_SHARES[1] * transfer_seconds(link, period) * (1 + 1e-9)


@pytest.mark.parametrize(("kbits", "count"), [(100_000, 1), (10_000, 2), (1_000, 16), (256, 64)])
def test_the_thinner_the_link_the_smaller_the_parts(kbits: int, count: int) -> None:
    link = Link(0.5 / (kbits * 1000 / 8), 0.02)
    assert choose_fragments(MNIST, "int8", link, None) == count


def test_a_small_model_or_a_fast_link_is_exchanged_whole() -> None:
    assert choose_fragments(100_000, "none", NOTHING_SHOWN, None) == 1
    assert choose_fragments(MNIST, "none", Link(1e-9, 0.001), 0.01) == 1
    assert choose_fragments(MNIST, "int8", Link(1e-6, 0.02), float("inf")) == 1


def test_a_link_that_has_shown_nothing_gets_a_small_part_first() -> None:
    assert 4 * MNIST / choose_fragments(MNIST, "int8", NOTHING_SHOWN, 60.0) <= 2**20


def test_parts_keep_their_size_while_the_link_changes_a_little() -> None:
    link, period = Link(4e-6, 0.02), 6.0
    count = choose_fragments(MNIST, "int8", link, period)
    for times in (0.85, 1.2):
        assert choose_fragments(MNIST, "int8", Link(times * 4e-6, 0.02), period, count) == count
    assert choose_fragments(MNIST, "int8", Link(1.6e-5, 0.02), period, count) == 4 * count
    assert choose_fragments(MNIST, "int8", Link(1e-6, 0.02), period, count) == count // 4


def test_who_does_not_know_its_period_yet_spares_a_thin_link() -> None:
    assert [choose_codec(2**20, seconds, None) for seconds in (1e-7, 3e-6, 1e-4)] == ["none", "float16", "int8"]
