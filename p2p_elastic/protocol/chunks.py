"""Vectors on their way, chunk by chunk, without I/O: what a stream is to send next, and what it is to fill.

Each stream of an exchange has an `Outgoing`, an `Incoming`, or both. With several streams each has every n-th chunk. A
chunk is encoded just before it is sent, and checked, decoded and turned into its part of the move as it arrives, while
it is in the processor's cache.

In place (`Vectors.in_place`) one tensor does for both directions: a chunk that was sent is no longer needed as it was,
and becomes the difference to the partner's. So an exchange takes the memory of one model. Only the receiver has to wait
until its own chunk is sent, never for anything at the partner: two ends that do so cannot wait for each other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from p2p_elastic.parameters.copying import Copying
from p2p_elastic.protocol.blocks import FLOAT32_BYTES, Seams
from p2p_elastic.protocol.codecs import CODECS, Codec, seams_within
from p2p_elastic.protocol.framing import (
    CHUNK_ELEMENTS,
    CHUNK_HEADER,
    check_chunk,
    check_chunk_length,
    chunk_header,
    chunks,
)

EXACT = "none"
Vector = npt.NDArray[np.float32]
Places = tuple[tuple[int, int], ...]
"""Pieces of a vector: the first element of each, and the one after its last."""


class Vectors(NamedTuple):
    """The two ends of a transfer: float32 `[n]`, contiguous, on the CPU.

    Attributes:
        mine: travels out. A lossy codec replaces it by what it makes of it at the other end, unless it is `shared`.
        theirs: is filled.
        codec: by which both travel.
        in_place: `mine` becomes theirs - mine; both are one tensor.
        shared: `mine` is used by others too, and stays as it is.
        seams: the first elements of the tensors in them, the same at both ends.
        lost: the tensors of `mine` that are not finite. They go out as they are, so that the partner leaves them out.
            In place, their difference to the partner's is all of the partner's.
        copying: `mine` is still being made; whether it is finite shows as it goes out. None: it is whole.
    """

    mine: Tensor
    theirs: Tensor
    codec: str = EXACT
    in_place: bool = False
    shared: bool = False
    seams: Seams = ()
    lost: Places = ()
    copying: Copying | None = None

    @classmethod
    def moving(cls, vector: Tensor, codec: str = EXACT, seams: Seams = (), lost: Places = ()) -> Vectors:
        """Make both ends of one vector, which becomes the difference to the partner's.

        Args:
            vector: `[n]`.
            codec: by which it travels.
            seams: of the tensors in it.
            lost: those that are not finite.

        Returns:
            The two ends, in place.
        """
        return cls(vector, vector, codec, in_place=True, seams=seams, lost=lost)

    @classmethod
    def sending(cls, values: Tensor, codec: str = EXACT, seams: Seams = ()) -> Vectors:
        """Make the ends of a transfer in which only this peer's vector travels, and stays as it is.

        Args:
            values: `[n]`.
            codec: by which it travels.
            seams: of the tensors in it.

        Returns:
            The two ends.
        """
        return cls(values, values, codec, shared=True, seams=seams)

    @classmethod
    def into(cls, out: Tensor, codec: str = EXACT, seams: Seams = ()) -> Vectors:
        """Make the ends of a transfer in which only the partner's vector travels.

        Args:
            out: `[n]`, to be filled.
            codec: by which it travels.
            seams: of the tensors in it.

        Returns:
            The two ends.
        """
        return cls(out, out, codec, seams=seams)

    @property
    def wire_bytes(self) -> int:
        """What both of them take on the wire, in bytes."""
        return sum(wire_bytes(len(end), self.codec, self.seams) for end in (self.mine, self.theirs))

    def leave_out(self) -> Places:
        """Find the tensors that came with numbers that are not finite, and let them be as they are here.

        Returns:
            Their places; none if all are finite, or if more than half of all numbers are not.
        """
        left_out = not_finite(self.theirs, self.seams)
        for start, stop in left_out:
            self.theirs[start:stop] = 0.0 if self.in_place else self.mine[start:stop].nan_to_num(0.0, 0.0, 0.0)
        return left_out


def not_finite(values: Tensor, seams: Seams) -> Places:
    """Find the tensors in a vector that have numbers which are not finite.

    Args:
        values: `[n]`.
        seams: of the tensors in it.

    Returns:
        First element of each, and the one after its last; none if more than half of all numbers are not finite.

    Example:
        >>> not_finite(torch.tensor([1.0, math.nan, 2.0, 3.0, 4.0]), (1, 3))
        ((1, 3),)
    """
    places = itertools.pairwise((0, *seams, len(values)))
    broken = {place: n for place in places if (n := int((~torch.isfinite(values[slice(*place)])).sum()))}
    return () if 2 * sum(broken.values()) > len(values) else tuple(broken)


def wire_bytes(elements: int, codec: str, seams: Seams = ()) -> int:
    """Work out what a vector takes on the wire.

    Args:
        elements: its length.
        codec: by which it travels.
        seams: of the tensors in it.

    Returns:
        Bytes, headers of chunks included.

    Example:
        >>> wire_bytes(1000, "none")
        4012
    """
    return sum(CHUNK_HEADER.size + _chunk_bytes(CODECS[codec], place, seams) for place in chunks(elements))


def _chunk_bytes(codec: Codec, place: slice, seams: Seams) -> int:
    return codec.nbytes(place.stop - place.start, seams_within(seams, place.start, place.stop))


class Outgoing:
    """What one stream sends. `sent`: how many of its chunks were handed on; `nbytes`: their bytes, headers included.

    Args:
        vectors: both ends of the transfer.
        lane: the number of the stream, from 0.
        lanes: how many streams there are.
    """

    def __init__(self, vectors: Vectors, lane: int = 0, lanes: int = 1) -> None:
        self._values, self._codec, self._shared = vectors.mine, CODECS[vectors.codec], vectors.shared
        self._seams, self._copying, self._in_place = vectors.seams, vectors.copying, vectors.in_place
        self._exact = vectors.codec == EXACT
        self._chunks = chunks(len(self._values), lane, lanes)
        self.sent = self.nbytes = 0

    def pieces(self, *, headers: bool = True) -> Iterator[tuple[bytes, memoryview]]:
        """Encode the chunks, each just before it is sent.

        Args:
            headers: False if what carries the chunks checks every byte itself: then they have no headers.

        Returns:
            The header, or nothing, and the bytes of the next chunk; to be asked for once the one before was handed on.
        """
        for data in self._exactly() if self._exact else self._encoded():
            header = chunk_header(data) if headers else b""
            yield header, data
            self.sent += 1
            self.nbytes += len(header) + len(data)

    def _exactly(self) -> Iterator[memoryview]:
        everything = bytes_of(self._values)
        for place in self._copied():
            yield everything[FLOAT32_BYTES * place.start : FLOAT32_BYTES * place.stop]

    def _copied(self) -> Iterator[slice]:
        """The places of the chunks, each once it is copied. In place `Incoming` sees whether it is finite."""
        copying, values = self._copying, self._values.numpy()
        for place in self._chunks:
            if copying is not None:
                copying.wait(place.stop)
                if not self._in_place:
                    copying.finite = copying.finite and bool(np.isfinite(values[place]).all())
            yield place

    def _encoded(self) -> Iterator[memoryview]:
        copy = torch.empty(min(CHUNK_ELEMENTS, len(self._values)) if self._shared else 0)
        scratch = torch.empty(0, dtype=torch.uint8)
        for place in self._copied():
            values, seams = self._values[place], seams_within(self._seams, place.start, place.stop)
            scratch = _room(scratch, self._codec.nbytes(len(values), seams))
            if self._shared:
                values = copy[: len(values)].copy_(values)
            yield bytes_of(self._codec.encode(values, scratch, seams))


class Incoming:
    """What one stream fills. `nbytes`: the bytes of its chunks that came so far, headers included.

    `finite`: every number that came so far is; `zero`: every one is 0; `square`: in place, the squared L2 distance.

    Args:
        vectors: both ends of the transfer.
        lane: the number of the stream, from 0.
        lanes: how many streams there are.
        after: what the same stream sends; in place a chunk is only changed once it was sent. None: nothing is sent.
    """

    def __init__(self, vectors: Vectors, lane: int = 0, lanes: int = 1, after: Outgoing | None = None) -> None:
        self._into, self._codec, self._in_place = vectors.theirs, CODECS[vectors.codec], vectors.in_place
        self._seams, self._lost = vectors.seams, vectors.lost if vectors.in_place else ()
        self._copying = vectors.copying
        self._exact = vectors.codec == EXACT
        self._direct = self._exact and not vectors.in_place
        self._after = after if vectors.in_place else None
        self._chunks = chunks(len(self._into), lane, lanes)
        self.finite = self.zero = True
        self.square, self.nbytes = 0.0, 0

    def pieces(self, *, headers: bool = True) -> Iterator[memoryview | int]:
        """Give the pieces to fill, and check, decode and take in each chunk that is full.

        Args:
            headers: False if what carries the chunks checks every byte itself: then they have no headers.

        Returns:
            The next piece to fill, to be asked for once the one before is full; or a number: how many chunks of the
            `Outgoing` beside it must be sent before the next one is asked for.

        Raises:
            RemoteProtocolError: if a chunk has another length than it must, or was changed on its way.
        """
        stage = torch.empty(0, dtype=torch.uint8)
        # What came exactly is not decoded into anything.
        scratch = torch.empty(0 if self._exact else min(CHUNK_ELEMENTS, len(self._into)))
        header, into = bytearray(CHUNK_HEADER.size if headers else 0), self._into.numpy()
        data, view = stage, bytes_of(stage)
        for number, place in enumerate(self._chunks):
            mine, seams = into[place], seams_within(self._seams, place.start, place.stop)
            nbytes = self._codec.nbytes(len(mine), seams)
            if self._direct:
                view = memoryview(mine.view(np.uint8))  # type: ignore[arg-type, unused-ignore]  # buffers: old stubs do not say so
            elif nbytes != len(view):  # the last chunk has another length, and so may one with seams
                stage = _room(stage, nbytes)
                data, view = stage[:nbytes], bytes_of(stage[:nbytes])
            if headers:
                yield memoryview(header)
                check_chunk_length(header, nbytes)
            yield view
            if headers:
                check_chunk(header, view)
            self.nbytes += len(header) + nbytes
            if self._after is not None and self._after.sent <= number:
                yield number + 1
            for start, stop in self._lost:
                mine[max(0, start - place.start) : max(0, stop - place.start)] = 0.0
            theirs = mine if self._direct else self._codec.decode(data, scratch[: len(mine)], seams).numpy()
            with np.errstate(all="ignore"):  # what is not finite is counted
                self._take(mine, theirs)

    def _look(self, theirs: Vector, difference: Vector) -> None:
        """Which end is not finite: in place, this end's own numbers are only in the difference any more."""
        if not bool(np.isfinite(theirs).all()):
            self.finite = False
        elif self._copying is not None and not bool(np.isfinite(difference).all()):
            self._copying.finite = False

    def _take(self, mine: Vector, theirs: Vector) -> None:
        """In numpy, which calls with a fraction of PyTorch's overhead, and never shares out work among threads."""
        if self.zero and bool(theirs.any()):
            self.zero = False
        if self._in_place:
            np.subtract(theirs, mine, out=mine)
            square = float(np.einsum("i,i", mine, mine))  # not np.dot: BLAS would use other threads
            self.square += square
            if not math.isfinite(square):  # nearly never; a square may overflow though the numbers do not
                self._look(theirs, mine)
            return
        # The sum is finite only if every element is, and faster than asking each one.
        self.finite = self.finite and math.isfinite(float(theirs.sum()))
        if not self._direct:
            mine[:] = theirs


def _room(buffer: Tensor, nbytes: int) -> Tensor:
    """The buffer, or a larger one."""
    return buffer if len(buffer) >= nbytes else torch.empty(nbytes, dtype=torch.uint8)


class Received(NamedTuple):
    """What a transfer brought.

    Attributes:
        finite: whether all of it is finite.
        zero: whether all of it is 0.
        distance: in place, the L2 norm of the difference; otherwise 0.
        left_out: the tensors that are not finite, and that are left out of what came.
    """

    finite: bool = True
    zero: bool = True
    distance: float = 0.0
    left_out: Places = ()

    @classmethod
    def of(cls, incoming: list[Incoming]) -> Received:
        """Sum up all streams of a transfer.

        Args:
            incoming: what each of them filled.

        Returns:
            What came over all of them.
        """
        square = sum(one.square for one in incoming)
        return cls(all(one.finite for one in incoming), all(one.zero for one in incoming), math.sqrt(square))


def bytes_of(vector: Tensor) -> memoryview:
    """View a vector as bytes, without a copy.

    Args:
        vector: contiguous, on the CPU.

    Returns:
        Its memory.
    """
    return memoryview(vector.view(torch.uint8).numpy())  # type: ignore[arg-type, unused-ignore]  # buffers: old stubs do not say so
