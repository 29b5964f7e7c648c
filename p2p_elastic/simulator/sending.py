"""The wire of a simulation: what of a worker's vector travels in one exchange, what arrives, and what rows move."""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch
from torch import Tensor

from p2p_elastic.protocol.blocks import Seams
from p2p_elastic.protocol.codecs import CODECS, Codec, seams_within
from p2p_elastic.protocol.framing import chunks
from p2p_elastic.protocol.link_choice import fragment


class Wire:
    """A codec, and the number of fragments of a vector.

    The worker that asks chooses the part that both ends send: the next of its own rotation, which begins at a random
    one. A part is encoded by itself, in chunks.

    Args:
        codec: as in live runs.
        fragments: parts of a vector; 1: it travels whole.
        seams: the first elements of the tensors in a vector.
        seed: of the rotations' beginnings.
    """

    def __init__(self, codec: Codec = CODECS["none"], fragments: int = 1, seams: Seams = (), *, seed: int = 0) -> None:
        self.codec, self.fragments = codec, fragments
        self._seams, self._seed, self._turns = seams, seed, dict[int, int]()

    def part(self, row: int, elements: int) -> slice:
        """Choose the part that a worker's next exchange is about, and turn its rotation.

        Args:
            row: of the worker that asks.
            elements: D.

        Returns:
            Its place in the vector.
        """
        if self.fragments == 1:
            return slice(0, elements)
        if row not in self._turns:
            self._turns[row] = random.Random(f"{self._seed} fragment {row}").randrange(self.fragments)
        part = fragment(elements, self.fragments, self._turns[row])
        self._turns[row] += 1
        return slice(*(part or (0, elements)))

    def sent(self, row: int, vector: Tensor, part: slice) -> Tensor:
        """What arrives of a part of a vector, which stays as it is.

        Args:
            row: of the sender; CENTRE: the centre.
            vector: of the sender, [D].
            part: the elements that are sent.

        Returns:
            The values that arrive; a view of `vector` if the codec changes nothing.
        """
        values = vector[part]
        return values if self.codec is CODECS["none"] else self.round_trip(values, part.start or 0)

    def round_trip(self, values: Tensor, start: int = 0) -> Tensor:
        """Encode and decode values.

        Args:
            values: [n].
            start: the place of the first one in the vector.

        Returns:
            The values that arrive; always a copy.
        """
        arrived = values.to("cpu", copy=True)  # where codecs work
        for place, seams in self._chunks(start, len(values)):
            chunk = arrived[place]
            self.codec.encode(chunk, torch.empty(self.codec.nbytes(len(chunk), seams), dtype=torch.uint8), seams)
        return arrived.to(values.device)

    def nbytes(self, part: slice) -> int:
        """Bytes of a part of a vector on the wire.

        Args:
            part: its place in the vector.

        Returns:
            Its bytes, without headers.
        """
        return sum(
            self.codec.nbytes(place.stop - place.start, seams)
            for place, seams in self._chunks(part.start or 0, part.stop - (part.start or 0))
        )

    def _chunks(self, start: int, elements: int) -> Iterator[tuple[slice, Seams]]:
        """The chunks of a part, as live peers cut it, and the seams inside of each."""
        for place in chunks(elements):
            yield place, seams_within(self._seams, start + place.start, start + place.stop)


class Moves(dict[int, Tensor]):
    """What to add to each row that moves: {row: [D]}.

    Attributes:
        parts: the parts of the vector that moved, by row.
    """

    def __init__(self) -> None:
        super().__init__()
        self.parts: dict[int, list[slice]] = {}

    def add(self, row: int, part: slice, move: Tensor, elements: int) -> None:
        """Add a move of a part to what the row moves in all.

        Args:
            row: of the worker.
            part: the elements of the vector.
            move: of that part.
            elements: D.
        """
        self.parts.setdefault(row, []).append(part)
        if row not in self and len(move) == elements:
            self[row] = move
            return
        if row not in self:
            self[row] = torch.zeros(elements, dtype=move.dtype, device=move.device)
        self[row][part].add_(move)
