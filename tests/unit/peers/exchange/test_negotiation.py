"""On what terms an exchange goes."""

from __future__ import annotations

import pytest

from p2p_elastic.peers.exchange.negotiation import Bargain, Terms
from p2p_elastic.peers.membership.run_context import RunContext
from p2p_elastic.peers.session.conversation import Limits
from p2p_elastic.peers.session.deadlines import Deadlines, Waits
from p2p_elastic.protocol.chunks import wire_bytes
from p2p_elastic.protocol.codecs import CODECS
from p2p_elastic.protocol.limits import AUTO_FRAGMENTS
from p2p_elastic.protocol.link_choice import Link

ELEMENTS = 1000


def bargain(first_turn: int = -1, **context: object) -> Bargain:
    return Bargain(RunContext("test", **context), ELEMENTS, first_turn)  # type: ignore[arg-type]


def waits(*, seconds_per_byte: float | None = None, answer: float | None = None) -> Waits:
    deadlines = Deadlines(Limits().bounds)
    if seconds_per_byte is not None:
        deadlines.saw("b", "byte", seconds_per_byte)
    if answer is not None:
        deadlines.saw("b", "opening", answer)
    return deadlines.of("b", 1.0)


def test_fragments_take_turns_and_cover_the_whole_vector() -> None:
    turns = bargain(fragments=4)
    assert [turns.next_part() for _ in range(5)] == [(0, 250), (250, 500), (500, 750), (750, 1000), (0, 250)]
    assert turns.fragments == 4
    assert bargain().next_part() is None


def test_automatic_fragments_follow_the_link_and_the_codec_of_the_run() -> None:
    thin, fast = Link(1e-2, 0.02), Link(1e-9, 0.001)
    run = bargain(fragments=AUTO_FRAGMENTS, codec="none")
    assert run.automatic
    assert run.next_part(thin, 4.0) == (0, 15)
    assert run.count == 64
    assert run.latest_bytes < bargain(codec="none").latest_bytes / 50
    assert run.vector_bytes <= run.latest_bytes
    assert run.chosen_by_link
    assert run.next_part(fast, 4.0) is None
    assert not run.chosen_by_link
    assert bargain(fragments=AUTO_FRAGMENTS, codec="auto").next_part(thin, 20.0) == (0, 250)


def test_peers_begin_with_different_fragments() -> None:
    assert bargain(first_turn=0, fragments=4).next_part() == (250, 500)


def test_the_codec_and_streams_of_the_run_are_offered_whatever_the_link() -> None:
    fixed = bargain(codec="int8", streams=3)
    assert fixed.propose((0, 10), waits(seconds_per_byte=1e-9), 60.0) == Terms("int8", (0, 10), 3)


@pytest.mark.parametrize(
    ("seconds_per_byte", "codec"), [(None, "float16"), (1e-9, "none"), (1.2e-2, "float16"), (1.0, "int8")]
)
def test_an_automatic_codec_loses_no_more_than_the_link_demands(seconds_per_byte: float | None, codec: str) -> None:
    terms = bargain(codec="auto").propose(None, waits(seconds_per_byte=seconds_per_byte), 240.0)
    assert terms.codec == codec


def test_a_part_is_quicker_than_the_whole_so_its_codec_may_be_better() -> None:
    run, link = bargain(codec="auto"), waits(seconds_per_byte=1.2e-2)
    assert run.propose((0, 250), link, 240.0).codec == "none"


def test_automatic_runs_agree_to_every_codec_and_copy_exactly() -> None:
    auto, fixed = bargain(codec="auto"), bargain(codec="float16")
    assert (set(auto.codecs), auto.codec_of_copies) == (set(CODECS), "none")
    assert (set(fixed.codecs), fixed.codec_of_copies) == ({"float16"}, "float16")


def test_what_an_exchange_sends_at_least_is_one_fragment_by_the_smallest_codec() -> None:
    assert bargain(fragments=4).vector_bytes == wire_bytes(250, "none")
    assert bargain(codec="auto").vector_bytes == wire_bytes(ELEMENTS, "int8")
