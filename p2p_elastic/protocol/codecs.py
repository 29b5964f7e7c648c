"""How parameters travel: float32 as it is, in 16 bits, or in 8 bits with one scale per block.

    sent = codec.encode(values, scratch)        # bytes; `values` is now what the other end will decode
    theirs = codec.decode(received, scratch)

Both ends difference what went over the wire, so an encoder leaves in `values` what `decode` makes of its bytes, bit for
bit: the moves of a symmetric rule stay negatives of each other whatever a codec loses. All is little-endian, as are all
machines that PyTorch is built for but one. A codec has no state, may be used in any thread, and uses no other: PyTorch
shares out operations on 32,768 elements or more, and then waits for threads that a busy machine does not run.

    codec     bytes per element   error of x
    none      4                   none
    float16   2                   2^-11 |x|, at least 2^-25; beyond 65,504 it saturates, below 2^-25 it is 0
    bfloat16  2                   2^-8 |x|; below 2^-126 it may be 0
    int8      1.03                amax / 254, where amax is the largest magnitude in x's block of 128
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor

from p2p_elastic.errors import ConfigError

BLOCK = 128  # elements that share a scale; half of it costs 3 % more bytes for 8 % less error
PIECE = 255 * BLOCK  # elements at once: fewer than make PyTorch use other threads, and they stay in the cache
FLOAT32_BYTES = 4
FLOAT16_MAX = 65504.0
INT8_MAX = 127.0
TO_INTEGER = 1.5 * 2.0**23  # float32 of that size have no fractions; round_() would use other threads at any length
SMALLEST_SCALE = torch.finfo(torch.float32).tiny  # a normal number: what is divided by it stays finite


class Codec(Protocol):
    """Turns a chunk of float32 elements into bytes, and back. Where a chunk begins matters only to its two ends.

    Cut at multiples of `BLOCK`, chunks have the same values after their way as the whole vector. Multiples of `PIECE`
    are the fastest.
    """

    def nbytes(self, elements: int) -> int:
        """Bytes on the wire of a chunk.

        Args:
            elements: n, of the chunk.

        Returns:
            Its bytes.
        """

    def encode(self, values: Tensor, scratch: Tensor) -> Tensor:
        """Encode `values`, and leave in them what `decode` will make of the bytes.

        Args:
            values: float32 [n], contiguous, n at least 1; changed in place.
            scratch: uint8 [nbytes(n) or more], aligned to 4 bytes.

        Returns:
            uint8 [nbytes(n)], a view of `scratch` (of `values` if nothing is changed). What is not finite in
            `values` is not finite afterwards either; with "int8" it takes its block with it.
        """

    def decode(self, data: Tensor, scratch: Tensor) -> Tensor:
        """Decode the elements in `data`. Any bytes are values, some of them not finite; none raises.

        Args:
            data: uint8 [nbytes(n)], aligned to 4 bytes.
            scratch: float32 [n or more].

        Returns:
            float32 [n], a view of `scratch` (of `data` if nothing is changed).
        """


class Plain:
    """float32 as it is, without a copy."""

    def nbytes(self, elements: int) -> int:
        """Bytes of a chunk: 4 per element.

        Args:
            elements: n.

        Returns:
            4 n.
        """
        return FLOAT32_BYTES * elements

    def encode(self, values: Tensor, scratch: Tensor) -> Tensor:
        """See the values as bytes; nothing is lost.

        Args:
            values: float32 [n], contiguous.
            scratch: not used.

        Returns:
            uint8 [4 n], a view of `values`.
        """
        return values.view(torch.uint8)

    def decode(self, data: Tensor, scratch: Tensor) -> Tensor:
        """See the bytes as values.

        Args:
            data: uint8 [4 n], aligned to 4 bytes.
            scratch: not used.

        Returns:
            float32 [n], a view of `data`.
        """
        return data.view(torch.float32)


class Half:
    """Each element in 16 bits, rounded to the nearest. What is finite stays finite up to `largest`, and saturates.

    Args:
        dtype: a floating-point type of 16 bits.
        largest: the magnitude at which finite values saturate; None if the type's range is that of float32.
    """

    def __init__(self, dtype: torch.dtype, largest: float | None = None) -> None:
        self._dtype, self._largest = dtype, largest

    def nbytes(self, elements: int) -> int:
        """Bytes of a chunk: 2 per element.

        Args:
            elements: n.

        Returns:
            2 n.
        """
        return self._dtype.itemsize * elements

    def encode(self, values: Tensor, scratch: Tensor) -> Tensor:
        """Round the values to 16 bits, in place and into `scratch`.

        Args:
            values: float32 [n], contiguous; changed in place.
            scratch: uint8 [2 n or more], aligned to 4 bytes.

        Returns:
            uint8 [2 n], a view of `scratch`.
        """
        sent = scratch[: self.nbytes(len(values))]
        for piece, halves in _pieces(values, sent.view(self._dtype)):
            if self._largest is not None:
                _saturate_(piece, self._largest)
            piece.copy_(halves.copy_(piece))
        return sent

    def decode(self, data: Tensor, scratch: Tensor) -> Tensor:
        """Widen the elements to float32, exactly.

        Args:
            data: uint8 [2 n], aligned to 4 bytes.
            scratch: float32 [n or more].

        Returns:
            float32 [n], a view of `scratch`.
        """
        halves = data.view(self._dtype)
        out = scratch[: len(halves)]
        for piece, some in _pieces(out, halves):
            piece.copy_(some)
        return out


def _pieces(values: Tensor, others: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(torch.split(values, PIECE), torch.split(others, PIECE), strict=True)


def _saturate_(values: Tensor, largest: float) -> None:
    low, high = torch.aminmax(values)
    if -largest <= float(low) and float(high) <= largest:  # nearly always, and cheaper than to clamp
        return
    values.copy_(torch.where(values.isinf(), values, values.clamp(-largest, largest)))


class Blocks:
    """Each element an integer -127..127, times the scale of its block: amax / 127.

    On the wire: float32 scales [ceil(n / BLOCK)], int8 integers [n]. The last block may be short. Scales are
    `SMALLEST_SCALE` at least, so blocks below 1e-36 round to multiples of that.

    The product is one multiplication, which IEEE rounds the same on every machine. An offset per block (affine, in
    blocks of 256, for the same bytes) has 1 % less error on normal data and on trained weights, and one operation more.
    """

    def nbytes(self, elements: int) -> int:
        """Bytes of a chunk: one per element, and four for each block begun.

        Args:
            elements: n.

        Returns:
            n + 4 ceil(n / BLOCK).

        Example:
            >>> Blocks().nbytes(128), Blocks().nbytes(129)
            (132, 137)
        """
        return FLOAT32_BYTES * -(-elements // BLOCK) + elements

    def encode(self, values: Tensor, scratch: Tensor) -> Tensor:
        """Round the values to multiples of their block's scale, in place and into `scratch`.

        Args:
            values: float32 [n], contiguous; changed in place.
            scratch: uint8 [nbytes(n) or more], aligned to 4 bytes.

        Returns:
            uint8 [nbytes(n)], a view of `scratch`: scales, then integers.
        """
        sent = scratch[: self.nbytes(len(values))]
        scales, integers = _parts(sent)
        for block, scale, integer in _blocks(values, scales, integers):
            torch.amax(block, 1, keepdim=True, out=scale)
            torch.maximum(scale, torch.amin(block, 1, keepdim=True).neg_(), out=scale)
            scale.mul_(1.0 / INT8_MAX).clamp_(min=SMALLEST_SCALE)
            integer.copy_(block.div_(scale).add_(TO_INTEGER).sub_(TO_INTEGER))
            block.copy_(integer).mul_(scale)
        return sent

    def decode(self, data: Tensor, scratch: Tensor) -> Tensor:
        """Multiply the integers by their blocks' scales.

        Args:
            data: uint8 [nbytes(n)], aligned to 4 bytes.
            scratch: float32 [n or more].

        Returns:
            float32 [n], a view of `scratch`.
        """
        scales, integers = _parts(data)
        out = scratch[: len(integers)]
        for block, scale, integer in _blocks(out, scales, integers):
            block.copy_(integer).mul_(scale)  # faster than one product of int8 and float32
        return out


def _parts(data: Tensor) -> tuple[Tensor, Tensor]:
    """Scales and integers, as views of what `Blocks` sends."""
    size = FLOAT32_BYTES * -(-len(data) // (BLOCK + FLOAT32_BYTES))
    return data[:size].view(torch.float32), data[size:].view(torch.int8)


def _blocks(values: Tensor, scales: Tensor, integers: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Values [n, BLOCK], scales [n, 1] and integers [n, BLOCK] of some blocks at once; a short one comes last."""
    whole = len(values) // BLOCK * BLOCK
    for start in range(0, whole, PIECE):
        stop = min(start + PIECE, whole)
        scale = scales[start // BLOCK : stop // BLOCK, None]
        yield values[start:stop].view(-1, BLOCK), scale, integers[start:stop].view(-1, BLOCK)
    if whole < len(values):
        yield values[None, whole:], scales[-1:, None], integers[None, whole:]


CODECS: Mapping[str, Codec] = {
    "none": Plain(),
    "float16": Half(torch.float16, FLOAT16_MAX),
    "bfloat16": Half(torch.bfloat16),
    "int8": Blocks(),
}
"""Every codec that a run can name."""


def find_codec(name: str) -> Codec:
    """Find the codec of a name.

    Args:
        name: a key of `CODECS`.

    Returns:
        The codec; it has no state and is shared.

    Raises:
        ConfigError: if there is none; it names those there are.

    Example:
        >>> values = torch.tensor([1.0, 0.5])
        >>> sent = find_codec("float16").encode(values, torch.empty(4, dtype=torch.uint8))
        >>> find_codec("float16").decode(sent, torch.empty(2))
        tensor([1.0000, 0.5000])
    """
    if name not in CODECS:
        raise ConfigError("codec", name, f"allowed: {', '.join(CODECS)}")
    return CODECS[name]
