"""Vectors on their way: what is sent, what it becomes at the other end, and what is refused; without any I/O."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from p2p_elastic.errors import ExchangeError, RemoteProtocolError
from p2p_elastic.parameters.copying import Copying
from p2p_elastic.protocol.blocks import BLOCK, Seams
from p2p_elastic.protocol.chunks import Incoming, Outgoing, Received, Vectors, bytes_of, not_finite, wire_bytes
from p2p_elastic.protocol.codecs import CODECS, seams_within
from p2p_elastic.protocol.framing import CHUNK_ELEMENTS, CHUNK_HEADER

checked = settings(max_examples=30)
LARGEST = 6.0  # more than the largest magnitude of `values`
SEAMS = st.lists(st.integers(0, 3 * CHUNK_ELEMENTS + 5), max_size=40).map(lambda places: tuple(sorted(places)))
ELEMENTS = st.sampled_from([1, 7, 1000, CHUNK_ELEMENTS, CHUNK_ELEMENTS + 1, 3 * CHUNK_ELEMENTS + 5])


def values(elements: int, seed: int) -> Tensor:
    return torch.randn(elements, generator=torch.Generator().manual_seed(seed))


def largest_error(codec: str) -> float:
    """At least what any of `values` loses by a codec: twice what a block does that has larger ones."""
    exact = values(BLOCK, 0)
    exact *= LARGEST / exact.abs().max()
    rounded = exact.clone()
    CODECS[codec].encode(rounded, torch.empty(CODECS[codec].nbytes(BLOCK), dtype=torch.uint8))
    return 2 * float((rounded - exact).abs().max())


class End:
    """One end of a transfer: asks for its pieces as a stream does, one piece at each call."""

    def __init__(self, vectors: Vectors, lanes: int = 1) -> None:
        self.vectors = vectors
        self.outgoing = [Outgoing(vectors, lane, lanes) for lane in range(lanes)]
        self.incoming = [Incoming(vectors, lane, lanes, self.outgoing[lane]) for lane in range(lanes)]

    @property
    def received(self) -> Received:
        return Received.of(self.incoming)


def send_all(end: End, lane: int = 0) -> bytes:
    return b"".join(header + bytes(chunk) for header, chunk in end.outgoing[lane].pieces())


def fill(end: End, data: bytes, lane: int = 0) -> None:
    at = 0
    for piece in end.incoming[lane].pieces():
        if isinstance(piece, int):
            assert end.outgoing[lane].sent >= piece, "a real stream would wait here"
            continue
        piece[:] = data[at : at + len(piece)]
        at += len(piece)
    assert at == len(data)


def swap(one: End, other: End) -> None:
    for lane in range(len(one.outgoing)):
        there, back = send_all(one, lane), send_all(other, lane)
        fill(one, back, lane)
        fill(other, there, lane)


@given(elements=ELEMENTS, codec=st.sampled_from(sorted(CODECS)), lanes=st.integers(1, 8), seams=SEAMS)
@checked
def test_both_ends_difference_what_went_over_the_wire(elements: int, codec: str, lanes: int, seams: Seams) -> None:
    a, b = values(elements, 1), values(elements, 2)
    seams = seams_within(seams, 0, elements)
    one, other = (End(Vectors.moving(start.clone(), codec, seams), lanes) for start in (a, b))
    swap(one, other)
    moved, back = one.vectors.theirs, other.vectors.theirs
    assert torch.equal(moved, -back)
    torch.testing.assert_close(moved, b - a, atol=2 * largest_error(codec), rtol=0.0)
    assert one.received.finite
    assert not one.received.zero
    assert one.received.distance == pytest.approx(float(torch.linalg.vector_norm(moved)), rel=1e-4)


@given(elements=ELEMENTS, codec=st.sampled_from(sorted(CODECS)), seams=SEAMS)
@checked
def test_a_vector_takes_the_bytes_that_were_worked_out_for_it(elements: int, codec: str, seams: Seams) -> None:
    seams = seams_within(seams, 0, elements)
    data = send_all(End(Vectors.sending(values(elements, 5), codec, seams)))
    assert (
        len(data)
        == wire_bytes(elements, codec, seams)
        == Vectors.into(torch.empty(elements), codec, seams).wire_bytes / 2
    )


@given(elements=ELEMENTS, codec=st.sampled_from(sorted(CODECS)))
@checked
def test_in_place_and_beside_give_the_same_difference(elements: int, codec: str) -> None:
    a, b = values(elements, 3), values(elements, 4)
    in_place, beside = Vectors.moving(a.clone(), codec), Vectors(a.clone(), torch.empty(elements), codec)
    ends = End(in_place), End(beside)
    for end in ends:
        swap(end, End(Vectors.moving(b.clone(), codec)))
    assert torch.equal(in_place.mine, beside.theirs - beside.mine)


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_what_others_may_be_reading_is_sent_and_left_as_it_is(codec: str) -> None:
    shown = values(70_000, 5)
    before, out = shown.clone(), torch.empty(70_000)
    data = send_all(End(Vectors.sending(shown, codec)))
    fill(End(Vectors.into(out, codec)), data)
    assert torch.equal(shown, before)
    torch.testing.assert_close(out, before, atol=largest_error(codec), rtol=0.0)
    assert len(data) == wire_bytes(70_000, codec)


def test_a_chunk_is_not_overwritten_before_it_is_sent() -> None:
    a, b = values(2 * CHUNK_ELEMENTS, 6), values(2 * CHUNK_ELEMENTS, 7)
    data = send_all(End(Vectors.moving(b.clone())))
    end, at, waited = End(Vectors.moving(a)), 0, []
    sending = end.outgoing[0].pieces()
    sent = b""
    for piece in end.incoming[0].pieces():
        if isinstance(piece, int):
            waited.append(piece)
            while end.outgoing[0].sent < piece:
                sent += b"".join(next(sending, (b"", b"")))
            continue
        piece[:] = data[at : at + len(piece)]
        at += len(piece)
    assert waited == [1, 2]
    fill(End(Vectors.into(torch.empty(2 * CHUNK_ELEMENTS))), sent + b"".join(h + bytes(c) for h, c in sending))


@pytest.mark.parametrize("codec", sorted(CODECS))
@pytest.mark.parametrize("in_place", [True, False])
def test_a_changed_byte_is_noticed(codec: str, in_place: bool) -> None:
    data = bytearray(send_all(End(Vectors.sending(values(1000, 8), codec))))
    data[CHUNK_HEADER.size + 11] ^= 0x10
    vector = torch.zeros(1000)
    end = End(Vectors.moving(vector, codec) if in_place else Vectors.into(vector, codec))
    send_all(end)
    with pytest.raises(RemoteProtocolError, match="checksum"):
        fill(end, bytes(data))


def test_an_absurd_length_is_refused_before_anything_is_taken_in() -> None:
    pieces = Incoming(Vectors.into(torch.zeros(10))).pieces()
    header = next(pieces)
    assert isinstance(header, memoryview)
    header[:] = CHUNK_HEADER.pack(2**32 - 1, 0)
    with pytest.raises(RemoteProtocolError, match="4294967295 bytes; 40 are due"):
        next(pieces)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("in_place", [True, False])
def test_what_is_not_finite_is_said(bad: float, in_place: bool) -> None:
    theirs = values(CHUNK_ELEMENTS + 10, 9)
    theirs[CHUNK_ELEMENTS + 3] = bad
    mine = torch.zeros_like(theirs)
    end = End(Vectors.moving(mine) if in_place else Vectors.into(mine))
    send_all(end)
    fill(end, send_all(End(Vectors.sending(theirs))))
    assert not end.received.finite


def test_finite_numbers_whose_squares_overflow_are_finite_and_infinitely_far() -> None:
    end = End(Vectors.moving(torch.zeros(10)))
    send_all(end)
    fill(end, send_all(End(Vectors.sending(torch.full((10,), 1e30)))))
    assert end.received.finite
    assert math.isinf(end.received.distance)


def test_zeros_are_told_from_parameters() -> None:
    for sent, zero in (
        (torch.zeros(100_000), True),
        (torch.zeros(100_000).index_fill_(0, torch.tensor(99_999), 1), False),
    ):
        end = End(Vectors.into(torch.empty(100_000)))
        fill(end, send_all(End(Vectors.sending(sent))))
        assert end.received.zero is zero


@given(data=st.binary(min_size=1, max_size=2000), codec=st.sampled_from(sorted(CODECS)))
@checked
def test_any_bytes_with_a_right_checksum_are_values_or_refused(data: bytes, codec: str) -> None:
    from p2p_elastic.protocol.framing import chunk_header

    elements = next((n for n in range(1, 2100) if CODECS[codec].nbytes(n) == len(data)), None)
    if elements is None:
        return
    end = End(Vectors.into(torch.zeros(elements), codec))
    fill(end, chunk_header(memoryview(data)) + data)
    assert end.received.finite == bool(torch.isfinite(end.vectors.theirs).all())


def test_bytes_of_a_vector_are_its_memory() -> None:
    vector = torch.tensor([1.0, 2.0])
    bytes_of(vector)[:4] = bytes_of(torch.tensor([5.0]))
    assert vector.tolist() == [5.0, 2.0]


@pytest.mark.parametrize("codec", sorted(CODECS))
@pytest.mark.parametrize("in_place", [True, False])
def test_a_tensor_that_is_not_finite_at_one_end_is_told_from_the_others(codec: str, in_place: bool) -> None:
    """One that came broken is left out; one that is broken here is all theirs, across two chunks."""
    a, b = values(CHUNK_ELEMENTS + 500, 11), values(CHUNK_ELEMENTS + 500, 12)
    seams, lost = (100, 300, CHUNK_ELEMENTS - 50, CHUNK_ELEMENTS + 60), (CHUNK_ELEMENTS - 50, CHUNK_ELEMENTS + 60)
    a[lost[0] + 7], b[250] = math.nan, math.inf
    here = Vectors.moving(a.clone(), codec, seams, (lost,)) if in_place else Vectors(a, b.clone(), codec, seams=seams)
    end, other = End(here), End(Vectors.moving(b.clone(), codec, seams, ((100, 300),)))
    swap(end, other)
    assert not end.received.finite
    assert end.vectors.leave_out() == ((100, 300),)
    assert other.vectors.leave_out() == (lost,)
    moved, back = end.vectors.theirs, other.vectors.theirs
    assert bool(torch.isfinite(moved).all() and torch.isfinite(back).all())
    torch.testing.assert_close(back[100:300], a[100:300], atol=largest_error(codec), rtol=0.0)
    assert not back[lost[0] : lost[1]].any()
    if in_place:
        torch.testing.assert_close(moved[lost[0] : lost[1]], b[lost[0] : lost[1]], atol=largest_error(codec), rtol=0.0)
        assert not moved[100:300].any()
        assert torch.equal(moved[:100], -back[:100])
    else:
        assert torch.equal(moved[100:300], a[100:300])


def test_of_numbers_most_of_which_are_not_finite_nothing_is_left() -> None:
    broken = torch.full((10,), math.nan)
    broken[6:] = 1.0
    assert not_finite(broken, (2, 6)) == ()
    broken[5] = 1.0
    assert not_finite(broken, (2, 6)) == ((0, 2), (2, 6))


@pytest.mark.parametrize("codec", ["none", "float16"])
@pytest.mark.parametrize("broken", [False, True])
def test_a_snapshot_goes_out_as_it_is_copied_and_shows_whether_it_is_finite(codec: str, broken: bool) -> None:
    elements = 2 * CHUNK_ELEMENTS + 5
    mine, copying = torch.zeros(elements), Copying(elements)
    sending = Outgoing(Vectors.sending(mine, codec)._replace(copying=copying)).pieces()
    for start in range(0, elements, CHUNK_ELEMENTS):
        stop = min(start + CHUNK_ELEMENTS, elements)
        mine[start:stop] = 1.0
        if broken and start:
            mine[start] = math.nan
        copying.reached(stop)
        next(sending)
        assert copying.finite is not (broken and start > 0)
    assert next(sending, None) is None


def test_what_cannot_be_copied_is_not_sent() -> None:
    copying = Copying(10)
    copying.end(failed=True)
    with pytest.raises(ExchangeError):
        next(Outgoing(Vectors.sending(torch.zeros(10))._replace(copying=copying)).pieces())


def test_without_headers_the_bytes_alone_travel() -> None:
    vectors = Vectors.sending(torch.arange(10.0))
    (piece,) = Outgoing(vectors).pieces(headers=False)
    assert piece[0] == b""
    out = torch.empty(10)
    incoming = Incoming(Vectors.into(out))
    for buffer in incoming.pieces(headers=False):
        assert isinstance(buffer, memoryview)
        buffer[:] = piece[1]
    assert incoming.nbytes == 40
    assert torch.equal(out, torch.arange(10.0))
