"""Numbers in blocks that share a scale: 8 or 4 bits each, and a float32 for a block. Part of `codecs.py`.

Both codecs are in numpy, which has a maximum over pieces of any lengths, and never shares out work among threads.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

BLOCK = 128  # elements that share a scale; half of it costs 3 % more bytes for 8 % less error
PIECE = 255 * BLOCK  # elements at once: fewer than make PyTorch use other threads, and they stay in the cache
FLOAT32_BYTES = 4
INT8_MAX = 127.0
INVERSE = np.float32(1.0 / INT8_MAX)
INT4_MIN, INT4_MAX, NIBBLE = np.int8(-8), np.int8(7), np.uint8(15)
PER_INT4_MIN = np.float32(1.0 / INT4_MIN)
SMALLEST_SCALE = torch.finfo(torch.float32).tiny  # a normal number: what is divided by it stays finite
SMALLEST = np.float32(SMALLEST_SCALE)
LAYOUTS = 64  # of blocks in a chunk, that are remembered: 8 KiB each of large tensors, 1 MiB each of single elements

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int8]
Places = npt.NDArray[np.intp]
Seams = tuple[int, ...]
"""The first elements of the tensors in a vector, or in a piece of one, ascending."""


class Blocks:
    """Each element an integer -127..127, times the scale of its block: amax / 127.

    A block has `BLOCK` elements, fewer before a seam and at the end of a chunk. On the wire: float32 scales, one of
    each block, then int8 integers [n]. Scales are `SMALLEST_SCALE` at least, so blocks below 1e-36 round to multiples
    of that.

    The product is one multiplication, which IEEE rounds the same on every machine. An offset per block (affine, in
    blocks of 256, for the same bytes) has 1 % less error on normal data and on trained weights, and one operation more.
    """

    def nbytes(self, elements: int, seams: Seams = ()) -> int:
        """Bytes of a chunk: one per element, and four for each block begun.

        Args:
            elements: n.
            seams: inside of the chunk.

        Returns:
            n + 4 blocks.

        Example:
            >>> Blocks().nbytes(128), Blocks().nbytes(129), Blocks().nbytes(129, (60,))
            (132, 137, 137)
        """
        edges = 0, *seams, elements
        return elements + FLOAT32_BYTES * sum(-(-(b - a) // BLOCK) for a, b in itertools.pairwise(edges))

    def encode(self, values: Tensor, scratch: Tensor, seams: Seams = ()) -> Tensor:
        """Round the values to multiples of their block's scale, in place and into `scratch`.

        Args:
            values: float32 [n], contiguous, on the CPU; changed in place.
            scratch: uint8 [nbytes(n, seams) or more], aligned to 4 bytes.
            seams: inside of the chunk.

        Returns:
            uint8 [nbytes(n, seams)], a view of `scratch`: scales, then integers.
        """
        numbers, (starts, lengths) = values.numpy(), _blocks(len(values), seams)
        sent = scratch[: len(values) + FLOAT32_BYTES * len(starts)]
        scales, integers = _parts(sent, len(values))
        with np.errstate(all="ignore"):  # what is not finite stays so
            np.maximum.reduceat(np.abs(numbers), starts, out=scales)
            np.maximum(np.multiply(scales, INVERSE, out=scales), SMALLEST, out=scales)
            of_each = np.repeat(scales, lengths)
            for start in range(0, len(numbers), PIECE):
                place = slice(start, start + PIECE)
                piece, scale, integer = numbers[place], of_each[place], integers[place]
                np.rint(np.divide(piece, scale, out=piece), out=piece)
                np.copyto(integer, piece, casting="unsafe")
                _multiply(integer, scale, piece)
        return sent

    def decode(self, data: Tensor, out: Tensor, seams: Seams = ()) -> Tensor:
        """Multiply the integers by their blocks' scales.

        Args:
            data: uint8 [nbytes(n, seams)], aligned to 4 bytes.
            out: float32 [n], contiguous, on the CPU.
            seams: inside of the chunk.

        Returns:
            `out`.
        """
        scales, integers = _parts(data, len(out))
        of_each = np.repeat(scales, _blocks(len(out), seams)[1])
        with np.errstate(all="ignore"):
            _multiply(integers, of_each, out.numpy())
        return out


class SmallBlocks(Blocks):
    """Each element an integer -8..7, times the scale of its block: its element of the largest magnitude, over -8.

    That one is exact, and a scale may be negative. Without the sign (-7..7) the error of normal numbers is 14 % larger.
    Blocks are those of `Blocks`. On the wire: float32 scales, then integers in two's complement, two in a byte, the
    first in its lower half; half a byte is 0 if the chunk has an odd number of elements.

    Source: Q4_0 of llama.cpp, which has float16 scales of 32 elements each.
    """

    def nbytes(self, elements: int, seams: Seams = ()) -> int:
        """Bytes of a chunk: one for two elements, and four for each block begun.

        Args:
            elements: n.
            seams: inside of the chunk.

        Returns:
            n / 2, rounded up, + 4 blocks.

        Example:
            >>> SmallBlocks().nbytes(128), SmallBlocks().nbytes(129), SmallBlocks().nbytes(129, (60,))
            (68, 73, 73)
        """
        return super().nbytes(elements, seams) - elements // 2

    def encode(self, values: Tensor, scratch: Tensor, seams: Seams = ()) -> Tensor:
        """Round the values to multiples of their block's scale, in place and into `scratch`.

        Args:
            values: float32 [n], contiguous, on the CPU; changed in place.
            scratch: uint8 [nbytes(n, seams) or more], aligned to 4 bytes.
            seams: inside of the chunk.

        Returns:
            uint8 [nbytes(n, seams)], a view of `scratch`: scales, then integers.
        """
        numbers, (starts, lengths) = values.numpy(), _blocks(len(values), seams)
        sent = scratch[: _bytes_of_int4(len(values)) + FLOAT32_BYTES * len(starts)]
        scales, pairs = _parts(sent, _bytes_of_int4(len(values)))
        with np.errstate(all="ignore"):  # what is not finite stays so
            highest, lowest = np.maximum.reduceat(numbers, starts), np.minimum.reduceat(numbers, starts)
            np.multiply(np.where(highest > -lowest, highest, lowest), PER_INT4_MIN, out=scales)
            np.copysign(np.maximum(np.abs(scales), SMALLEST), scales, out=scales)
            of_each = np.repeat(scales, lengths)
            for start in range(0, len(numbers), PIECE):
                place = slice(start, start + PIECE)
                piece, scale = numbers[place], of_each[place]
                integer = np.rint(np.divide(piece, scale, out=piece), out=piece).astype(np.int8)
                np.clip(integer, INT4_MIN, INT4_MAX, out=integer)  # also what a machine makes of NaN
                _pack(integer, pairs[start // 2 : (start + PIECE) // 2])
                _multiply(integer, scale, piece)
        return sent

    def decode(self, data: Tensor, out: Tensor, seams: Seams = ()) -> Tensor:
        """Multiply the integers by their blocks' scales.

        Args:
            data: uint8 [nbytes(n, seams)], aligned to 4 bytes.
            out: float32 [n], contiguous, on the CPU.
            seams: inside of the chunk.

        Returns:
            `out`.
        """
        numbers = out.numpy()
        scales, pairs = _parts(data, _bytes_of_int4(len(out)))
        of_each = np.repeat(scales, _blocks(len(out), seams)[1])
        with np.errstate(all="ignore"):
            for start in range(0, len(numbers), PIECE):
                place = slice(start, start + PIECE)
                piece = numbers[place]
                integer = _unpack(pairs[start // 2 : (start + PIECE) // 2])[: len(piece)]
                _multiply(integer, of_each[place], piece)
        return out


def _bytes_of_int4(elements: int) -> int:
    return (elements + 1) // 2


def _pack(integers: Integers, pairs: Integers) -> None:
    """Two integers of four bits into each byte; a word of two bytes at a time, which numpy does fastest."""
    halves = np.zeros(2 * len(pairs), np.uint8)
    np.bitwise_and(integers.view(np.uint8), NIBBLE, out=halves[: len(integers)])
    words = halves.view(np.uint16)
    words |= words >> 4
    np.copyto(pairs.view(np.uint8), words, casting="unsafe")


def _unpack(pairs: Integers) -> Integers:
    """The integers in bytes, as `_pack` makes them."""
    words = pairs.view(np.uint8).astype(np.uint16)
    words |= words << 4
    words &= 0x0F0F
    integers = words.view(np.int8)
    integers ^= 8  # extends the sign: 8..15 are -8..-1
    integers -= 8
    return integers


def _parts(data: Tensor, nbytes: int) -> tuple[Floats, Integers]:
    """Scales and integers, which take `nbytes`, as views of what blocks send."""
    everything, size = data.numpy(), len(data) - nbytes
    return everything[:size].view(np.float32), everything[size:].view(np.int8)


@functools.lru_cache(maxsize=LAYOUTS)
def _blocks(elements: int, seams: Seams) -> tuple[Places, Places]:
    """The first element of each block, which are every seam and every `BLOCK` elements from there; and the lengths."""
    edges = np.array((0, *seams, elements))
    counts = (edges[1:] - edges[:-1] + BLOCK - 1) // BLOCK  # of each tensor
    behind = np.cumsum(counts)
    starts = np.repeat(edges[:-1] - BLOCK * (behind - counts), counts) + BLOCK * np.arange(behind[-1])
    return starts, np.diff(starts, append=elements)


def _multiply(integers: Integers, scales: Floats, out: Floats) -> None:
    """In two steps, which are faster than one product of int8 and float32."""
    np.copyto(out, integers)
    np.multiply(out, scales, out=out)
