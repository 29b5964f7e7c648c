"""The names and shapes of what two peers exchange: they must be the same at both."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Annotated

import torch
from pydantic import FailFast, Field
from torch import Tensor

from p2p_elastic.values import Frozen

NAME_CHARACTERS_MAX = 512
TENSORS_MAX = 100_000
DIMENSIONS_MAX = 64
SIZE_MAX = 2**53  # of one dimension: what JSON carries exactly

Name = Annotated[str, Field(min_length=1, max_length=NAME_CHARACTERS_MAX)]
Shape = Annotated[
    tuple[Annotated[int, Field(ge=0, le=SIZE_MAX, strict=True)], ...], Field(max_length=DIMENSIONS_MAX), FailFast()
]


class Schema(Frozen):
    """The tensors that travel, in the order of the vector.

    Types are not in it: on the wire every element is a float32 or what the codec makes of it. Neither are the names of
    wrappers, so a peer that compiles its model meets one that does not.

    Attributes:
        tensors: name and shape of each.

    Example:
        >>> here = Schema(tensors=(("weight", (3, 2)), ("bias", (3,))))
        >>> here.difference(Schema(tensors=(("weight", (3, 4)), ("bias", (3,)))))
        'weight is [3, 2] here and [3, 4] there'
    """

    tensors: Annotated[tuple[tuple[Name, Shape], ...], Field(max_length=TENSORS_MAX), FailFast()]

    @property
    def hash(self) -> str:
        """32 hexadecimal digits: the beginning of the SHA-256 of a JSON array of `[name, shape]`."""
        text = json.dumps([[name, list(shape)] for name, shape in self.tensors])
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def elements(self) -> int:
        """D, the number of elements of the vector."""
        return sum(math.prod(shape) for _, shape in self.tensors)

    def named(self, values: Tensor) -> dict[str, Tensor]:
        """See a vector as tensors.

        Args:
            values: [D].

        Returns:
            Views by name.
        """
        parts = torch.split(values, [math.prod(shape) for _, shape in self.tensors])
        return {name: part.view(shape) for (name, shape), part in zip(self.tensors, parts, strict=True)}

    def difference(self, other: Schema) -> str | None:
        """Say the first difference to another schema.

        Args:
            other: the one that is "there"; perhaps a stranger's.

        Returns:
            In words, without characters that are not printable; None if the two are equal.
        """
        if self.tensors == other.tensors:
            return None
        here, there = dict(self.tensors), dict(other.tensors)
        for name, shape in self.tensors:
            if name not in there:
                return f"{_printable(name)} is missing there"
            if there[name] != shape:
                return f"{_printable(name)} is {list(shape)} here and {list(there[name])} there"
        for name in there:
            if name not in here:
                return f"{_printable(name)} is missing here"
        for (mine, _), (theirs, _) in zip(self.tensors, other.tensors, strict=False):
            if mine != theirs:
                return f"the order differs: {_printable(mine)} here stands where {_printable(theirs)} stands there"
        return "a name stands there more than once"


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name)
