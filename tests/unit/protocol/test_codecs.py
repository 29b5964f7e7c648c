"""Codecs: what is sent is what both ends have, errors are bounded, and bytes from anybody are only numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from p2p_elastic.protocol.blocks import BLOCK, PIECE, SMALLEST_SCALE, Seams
from p2p_elastic.protocol.codecs import CODECS, FLOAT16_MAX, Codec, seams_within
from p2p_elastic.rules.base import Facts
from p2p_elastic.rules.pairwise import elastic

checked = settings(max_examples=100)
NAMES = st.sampled_from(list(CODECS))
LENGTHS = st.one_of(st.integers(1, 3 * BLOCK), st.sampled_from([8 * BLOCK - 1, 8 * BLOCK, PIECE, PIECE + 1, 65_536]))
FINITE = st.floats(width=32, min_value=-(2.0**127), max_value=2.0**127)
LIMITS: Mapping[str, Callable[[Tensor, Seams], Tensor]] = {  # values, and the seams between them -> the largest errors
    "none": lambda x, _: torch.zeros_like(x),
    "float16": lambda x, _: (x.abs() * 2**-11).clamp(min=2**-25),
    "bfloat16": lambda x, _: (x.abs() * 2**-8).clamp(min=2**-126),
    "int8": lambda x, seams: (1.0001 * block_amax(x, seams) / 254).clamp(min=SMALLEST_SCALE / 2),
    "int4": lambda x, seams: int4_limit(x.abs(), block_amax(x, seams)).clamp(min=SMALLEST_SCALE / 2),
}
SCALED = ("int8",)  # what was decoded is near a multiple of its scale: the next scale may be rounded once more


def int4_limit(magnitude: Tensor, largest: Tensor) -> Tensor:
    """Half a scale; what lies between the two last ones may be cut to 7/8 of the largest."""
    return 1.0001 * torch.maximum(largest / 16, magnitude - largest * 7 / 8)


def block_amax(x: Tensor, seams: Seams = ()) -> Tensor:
    """The largest magnitude in each element's block."""
    tensors = torch.tensor_split(x, seams)
    return torch.cat([part.abs().amax().expand(len(part)) for one in tensors for part in one.split(BLOCK) if len(part)])


@st.composite
def vectors(draw: st.DrawFn) -> Tensor:
    """Random numbers of one scale, or constant, with some special ones between them."""
    length, scale = draw(LENGTHS), draw(st.sampled_from([0.0, 1e-44, 1e-38, 1e-6, 1.0, 1e4, 1e6, 1e37]))
    noise = torch.randn(length, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    values = torch.full((length,), scale) if draw(st.booleans()) else scale * noise
    for place, value in draw(st.dictionaries(st.integers(0, length - 1), FINITE, max_size=5)).items():
        values[place] = value
    return values


def sent(codec: Codec, values: Tensor, seams: Seams = ()) -> tuple[Tensor, Tensor]:
    """What stays here and what arrives there; in scratch that has other things in it, and is too large."""
    scratch = torch.full((codec.nbytes(len(values), seams) + 12,), 0xA5, dtype=torch.uint8)
    data = codec.encode(mine := values.clone(), scratch, seams)
    assert data.dtype is torch.uint8
    assert data.shape == (codec.nbytes(len(values), seams),)
    assert scratch[-12:].eq(0xA5).all(), "wrote beyond its bytes"
    theirs = codec.decode(data.clone(), torch.full((len(values),), torch.nan), seams)
    assert theirs.shape == values.shape
    return mine, theirs


def same_bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.view(torch.int32), other.view(torch.int32))


@checked
@given(NAMES, vectors())
def test_both_ends_have_the_same_bits(name: str, values: Tensor) -> None:
    mine, theirs = sent(CODECS[name], values)
    assert same_bits(mine, theirs)


@checked
@given(NAMES, vectors())
def test_the_error_is_bounded(name: str, values: Tensor) -> None:
    if name == "float16":
        values.clamp_(-FLOAT16_MAX, FLOAT16_MAX)
    mine, _ = sent(CODECS[name], values)
    error = (mine.double() - values.double()).abs()
    assert (error <= LIMITS[name](values.double(), ())).all()


@st.composite
def tensors_beside_each_other(draw: st.DrawFn) -> tuple[Tensor, Seams]:
    """A vector, and the first elements of its tensors; some tensors have no elements, some begin at the same one."""
    values = draw(vectors())
    return values, tuple(sorted(draw(st.lists(st.integers(0, len(values)), max_size=12))))


@checked
@given(NAMES, tensors_beside_each_other(), st.integers(0, 10**6), st.integers(1, 10**6))
def test_blocks_end_at_seams_wherever_the_vector_is_cut(
    name: str, tensors: tuple[Tensor, Seams], start: int, length: int
) -> None:
    """Both ends have the same bits, and no error is more than the largest number of the element's own tensor allows."""
    values, seams = tensors
    start %= len(values)
    piece, inside = values[start : start + length], seams_within(seams, start, min(start + length, len(values)))
    if name == "float16":
        piece = piece.clamp(-FLOAT16_MAX, FLOAT16_MAX)
    mine, theirs = sent(CODECS[name], piece, inside)
    assert same_bits(mine, theirs)
    error = (mine.double() - piece.double()).abs()
    assert (error <= LIMITS[name](piece.double(), inside)).all()


def test_a_mask_of_large_numbers_costs_the_tensor_beside_it_nothing() -> None:
    values = torch.cat([torch.linspace(-1.0, 1.0, 100), torch.full((60,), -1e9)])
    _, theirs = sent(CODECS["int8"], values, (0, 100))
    torch.testing.assert_close(theirs[:100], values[:100], rtol=0.0, atol=1 / 250)
    torch.testing.assert_close(theirs[100:], values[100:])


@checked
@given(st.lists(st.integers(0, 500), max_size=9), st.integers(0, 499), st.integers(1, 500))
def test_seams_inside_of_a_piece_are_counted_from_its_first_element(seams: list[int], start: int, length: int) -> None:
    found = seams_within(tuple(sorted(seams)), start, start + length)
    assert found == tuple(sorted(seam - start for seam in seams if start < seam < start + length))


@checked
@given(NAMES, vectors(), st.sampled_from([math.nan, math.inf, -math.inf]), st.integers(0, 10**6))
def test_what_is_not_finite_does_not_become_finite(name: str, values: Tensor, bad: float, place: int) -> None:
    values[place % len(values)] = bad
    mine, theirs = sent(CODECS[name], values)
    assert not torch.isfinite(mine[place % len(values)])
    assert not torch.isfinite(theirs.sum())
    assert torch.equal(mine.isnan(), theirs.isnan())
    assert torch.equal(mine.nan_to_num(), theirs.nan_to_num())


@checked
@given(NAMES, st.binary(min_size=1, max_size=4 * BLOCK), st.integers(1, 3 * BLOCK))
def test_any_bytes_are_numbers(name: str, junk: bytes, length: int) -> None:
    codec = CODECS[name]
    size = codec.nbytes(length)
    data = torch.tensor(list((junk * (size // len(junk) + 1))[:size]), dtype=torch.uint8)
    assert codec.decode(data, torch.empty(length)).shape == (length,)


@pytest.mark.parametrize("name", ["int8", "int4"])
@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf])
def test_a_hostile_scale_makes_its_whole_block_not_finite(name: str, scale: float) -> None:
    codec = CODECS[name]
    data = torch.zeros(codec.nbytes(2 * BLOCK), dtype=torch.uint8)
    data[:4] = torch.tensor([scale]).view(torch.uint8)
    decoded = codec.decode(data, torch.empty(2 * BLOCK))
    assert not torch.isfinite(decoded[:BLOCK]).any()
    assert torch.equal(decoded[BLOCK:], torch.zeros(BLOCK))


@checked
@given(NAMES, vectors(), st.floats(0.0, 0.99), st.integers(0, 99))
def test_moves_are_negatives_of_each_other(name: str, values: Tensor, moving_rate: float, seed: int) -> None:
    """Whatever a codec loses: both ends difference what went over the wire."""
    others = values + torch.randn(len(values), generator=torch.Generator().manual_seed(seed))
    (a_here, a_there), (b_here, b_there) = sent(CODECS[name], values), sent(CODECS[name], others)
    rule, facts = elastic(moving_rate), Facts(step=1, loss=None, weight=1.0)
    of_a, _ = rule.move(b_there - a_here, None, mine=facts, theirs=facts)
    of_b, _ = rule.move(a_there - b_here, None, mine=facts, theirs=facts)
    assert torch.equal(of_a, -of_b)


@checked
@given(NAMES, vectors())
def test_what_was_sent_once_is_sent_again_as_it_is(name: str, values: Tensor) -> None:
    """Values that a codec has are not changed further; a scale may be rounded once more."""
    once, _ = sent(CODECS[name], values)
    twice, _ = sent(CODECS[name], once)
    tolerance = 1e-6 if name in SCALED else 0.0
    assert torch.allclose(once.double(), twice.double(), rtol=tolerance, atol=0.0)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("length", [BLOCK * 5, BLOCK * 5 + 37])
def test_chunks_cut_between_blocks_are_the_whole(name: str, length: int) -> None:
    codec, values = CODECS[name], torch.randn(length, generator=torch.Generator().manual_seed(1))
    whole, _ = sent(codec, values)
    assert same_bits(whole, torch.cat([sent(codec, part)[0] for part in values.split(2 * BLOCK)]))


def test_bytes_on_the_wire() -> None:
    assert {name: codec.nbytes(65_536) for name, codec in CODECS.items()} == {
        "none": 262_144,
        "float16": 131_072,
        "bfloat16": 131_072,
        "int8": 67_584,
        "int4": 34_816,
    }
    assert CODECS["int8"].nbytes(65_536) <= 0.26 * 4 * 65_536
    assert CODECS["int8"].nbytes(1) == 5
    assert CODECS["int8"].nbytes(300, (10, 10, 138)) == 300 + 4 * 4
    assert CODECS["int4"].nbytes(1) == 5
    assert CODECS["int4"].nbytes(301, (10, 10, 138)) == 151 + 4 * 4


@pytest.mark.parametrize(
    ("name", "values", "data"),
    [
        ("none", [1.0], "0000803f"),
        ("float16", [1.0, -2.0], "003c00c0"),
        ("bfloat16", [1.0, -2.0], "803f00c0"),
        ("int8", [127.0, -63.0, 0.4, 0.6], "0000803f7fc10001"),
        ("int4", [-8.0, 7.4, 0.4, 0.6, -3.0], "0000803f78100d"),
        ("int4", [8.0, -4.0], "000080bf48"),
    ],
)
def test_the_bytes_themselves(name: str, values: list[float], data: str) -> None:
    """Little-endian; int8, int4: scales first, then the integers. A change here is a change of the wire protocol."""
    codec = CODECS[name]
    encoded = codec.encode(torch.tensor(values), torch.empty(64, dtype=torch.uint8))
    assert bytes(encoded.tolist()).hex() == data


def test_float16_saturates() -> None:
    mine, theirs = sent(CODECS["float16"], torch.tensor([1e5, -3e38, 65_519.0, math.inf, 1e-9]))
    assert theirs.tolist() == [65_504.0, -65_504.0, 65_504.0, math.inf, 0.0]
    assert same_bits(mine, theirs)


def test_none_copies_nothing() -> None:
    values, codec = torch.ones(3), CODECS["none"]
    data = codec.encode(values, torch.empty(12, dtype=torch.uint8))
    assert data.data_ptr() == values.data_ptr()
    assert codec.decode(data, torch.empty(3)).data_ptr() == values.data_ptr()
