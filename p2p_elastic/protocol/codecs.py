"""How parameters travel: float32 as it is, in 16 bits, or in 8 or 4 bits with one scale per block.

    sent = codec.encode(values, scratch)        # bytes; `values` is now what the other end will decode
    theirs = codec.decode(received, scratch)

Both ends difference what went over the wire, so an encoder leaves in `values` what `decode` makes of its bytes, bit for
bit: the moves of a symmetric rule stay negatives of each other whatever a codec loses. All is little-endian, as are all
machines that PyTorch is built for but one. A codec has no state, may be used in any thread, and uses no other: PyTorch
shares out operations on 32,768 elements or more, and then waits for threads that a busy machine does not run.

A block ends at a seam: the first element of a tensor. So a tensor with large numbers, such as a mask of -1e9, costs the
one beside it nothing. Both ends have the same model, and so the same seams; they do not travel.

    codec     bytes per element   error of x
    none      4                   none
    float16   2                   2^-11 |x|, at least 2^-25; beyond 65,504 it saturates, below 2^-25 it is 0
    bfloat16  2                   2^-8 |x|; below 2^-126 it may be 0
    int8      1.03                amax / 254, where amax is the largest magnitude in x's block: at most 128 elements, of
                                  one tensor
    int4      0.53                amax / 16; up to amax / 8 if |x| is more than 15/16 amax and its sign another one's
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor

from p2p_elastic.errors import ConfigError
from p2p_elastic.protocol.blocks import FLOAT32_BYTES, PIECE, Blocks, Seams, SmallBlocks

FLOAT16_MAX = 65504.0


def seams_within(seams: Seams, start: int, stop: int) -> Seams:
    """Find the seams inside of a piece of a vector: both its ends are seams anyway.

    Args:
        seams: of the vector.
        start, stop: the piece's first element, and the one after its last.

    Returns:
        Those between, counted from `start`.

    Example:
        >>> seams_within((0, 6, 9, 20), 6, 20)
        (3,)
    """
    return tuple(seam - start for seam in seams[bisect_right(seams, start) : bisect_left(seams, stop)])


class Codec(Protocol):
    """Turns a chunk of float32 elements into bytes, and back. Where a chunk begins matters only to its two ends.

    If each chunk begins at a multiple of `BLOCK` in its tensor, chunks have the same values after their way as the
    whole vector. Multiples of `PIECE` are the fastest.
    """

    def nbytes(self, elements: int, seams: Seams = ()) -> int:
        """Bytes on the wire of a chunk.

        Args:
            elements: n, of the chunk.
            seams: inside of the chunk, counted from its first element.

        Returns:
            Its bytes.
        """

    def encode(self, values: Tensor, scratch: Tensor, seams: Seams = ()) -> Tensor:
        """Encode `values`, and leave in them what `decode` will make of the bytes.

        Args:
            values: float32 [n], contiguous, on the CPU, n at least 1; changed in place.
            scratch: uint8 [nbytes(n, seams) or more], aligned to 4 bytes.
            seams: inside of the chunk.

        Returns:
            uint8 [nbytes(n, seams)], a view of `scratch` (of `values` if nothing is changed). What is not finite in
            `values` is not finite afterwards either; with "int8" and "int4" it takes its block with it.
        """

    def decode(self, data: Tensor, out: Tensor, seams: Seams = ()) -> Tensor:
        """Decode the elements in `data`. Any bytes are values, some of them not finite; none raises.

        Args:
            data: uint8 [nbytes(n, seams)], aligned to 4 bytes.
            out: float32 [n], contiguous, on the CPU; it is overwritten, or left as it is.
            seams: inside of the chunk.

        Returns:
            float32 [n]: `out`, or a view of `data` if nothing is changed.
        """


class Plain:
    """float32 as it is, without a copy."""

    def nbytes(self, elements: int, seams: Seams = ()) -> int:
        """Bytes of a chunk: 4 per element.

        Args:
            elements: n.
            seams: not used.

        Returns:
            4 n.
        """
        return FLOAT32_BYTES * elements

    def encode(self, values: Tensor, scratch: Tensor, seams: Seams = ()) -> Tensor:
        """See the values as bytes; nothing is lost.

        Args:
            values: float32 [n], contiguous.
            scratch, seams: not used.

        Returns:
            uint8 [4 n], a view of `values`.
        """
        return values.view(torch.uint8)

    def decode(self, data: Tensor, out: Tensor, seams: Seams = ()) -> Tensor:
        """See the bytes as values.

        Args:
            data: uint8 [4 n], aligned to 4 bytes.
            out, seams: not used.

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

    def nbytes(self, elements: int, seams: Seams = ()) -> int:
        """Bytes of a chunk: 2 per element.

        Args:
            elements: n.
            seams: not used.

        Returns:
            2 n.
        """
        return self._dtype.itemsize * elements

    def encode(self, values: Tensor, scratch: Tensor, seams: Seams = ()) -> Tensor:
        """Round the values to 16 bits, in place and into `scratch`.

        Args:
            values: float32 [n], contiguous; changed in place.
            scratch: uint8 [2 n or more], aligned to 4 bytes.
            seams: not used.

        Returns:
            uint8 [2 n], a view of `scratch`.
        """
        sent = scratch[: self.nbytes(len(values))]
        for piece, halves in _pieces(values, sent.view(self._dtype)):
            if self._largest is not None:
                _saturate_(piece, self._largest)
            piece.copy_(halves.copy_(piece))
        return sent

    def decode(self, data: Tensor, out: Tensor, seams: Seams = ()) -> Tensor:
        """Widen the elements to float32, exactly.

        Args:
            data: uint8 [2 n], aligned to 4 bytes.
            out: float32 [n].
            seams: not used.

        Returns:
            `out`.
        """
        for piece, some in _pieces(out, data.view(self._dtype)):
            piece.copy_(some)
        return out


def _pieces(values: Tensor, others: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(torch.split(values, PIECE), torch.split(others, PIECE), strict=True)


def _saturate_(values: Tensor, largest: float) -> None:
    numbers = values.numpy()  # whose extremes take half of the time of PyTorch's
    if -largest <= numbers.min() and numbers.max() <= largest:  # nearly always, and cheaper than to clamp
        return
    values.copy_(torch.where(values.isinf(), values, values.clamp(-largest, largest)))


CODECS: Mapping[str, Codec] = {
    "none": Plain(),
    "float16": Half(torch.float16, FLOAT16_MAX),
    "bfloat16": Half(torch.bfloat16),
    "int8": Blocks(),
    "int4": SmallBlocks(),
}
"""Every codec that a run can name."""
BY_LOSS = ("none", "float16", "int8")
"""Those that `auto` chooses from, by growing error; bfloat16 has the bytes of float16, and 8 times its error.

Not int4: with it peers stay 4 to 8 times as far apart as with int8, and int8 in twice as many fragments has its bytes.
"""


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
