"""The wire of a simulation: what of a worker's vector travels in one exchange, and what arrives of it."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from p2p_elastic.protocol.codecs import CODECS, PIECE, Codec
from p2p_elastic.protocol.link_choice import fragment

CHUNK = 2 * PIECE  # elements that are encoded at once


class Wire:
    """A codec, and the number of fragments of a vector.

    The worker that asks chooses the part that both ends send: the next of its own rotation, which begins at a random
    one. A part is encoded by itself; the last block of a part may be short.

    Args:
        codec: as in live runs.
        fragments: parts of a vector; 1: it travels whole.
        seed: of the rotations' beginnings.
    """

    def __init__(self, codec: Codec = CODECS["none"], fragments: int = 1, *, seed: int = 0) -> None:
        self.codec, self.fragments = codec, fragments
        self._seed, self._turns = seed, dict[int, int]()
        self._scratch = torch.empty(0, dtype=torch.uint8)

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
        return values if self.codec is CODECS["none"] else self.round_trip(values)

    def round_trip(self, values: Tensor) -> Tensor:
        """Encode and decode values.

        Args:
            values: [n].

        Returns:
            The values that arrive; always a copy.
        """
        arrived = values.clone()
        if self._scratch.device != values.device or not len(self._scratch):
            self._scratch = torch.empty(self.codec.nbytes(CHUNK), dtype=torch.uint8, device=values.device)
        for chunk in torch.split(arrived, CHUNK):
            self.codec.encode(chunk, self._scratch)
        return arrived

    def nbytes(self, elements: int) -> int:
        """Bytes of a vector, or part of one, on the wire.

        Args:
            elements: of the vector or part.

        Returns:
            Its bytes, without headers.
        """
        return self.codec.nbytes(elements)
