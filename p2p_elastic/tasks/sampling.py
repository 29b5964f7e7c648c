"""The examples that a peer sees, and their order: a function of seeds, so that peers agree without talking."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from p2p_elastic.errors import ConfigError
from p2p_elastic.tasks.base import Split

SPLIT_SEED = 1234  # of the fixed splits and shards; the seed of the Elastic Gossip experiments

_SHARD_ALLOWED = "allowed: INDEX/COUNT with 1 <= INDEX <= COUNT, for example 2/4"


def random_state(*seed: int) -> np.random.RandomState:
    """Build a generator whose numbers are the same on every machine.

    NumPy promises never to change the stream of `RandomState` (NEP 19); torch promises that for no generator, and peers
    with different versions of torch must cut the same shards.

    Args:
        *seed: numbers that together are the seed, each taken modulo 2^32.

    Returns:
        The generator.
    """
    return np.random.RandomState([number % 2**32 for number in seed])


def permutation(size: int, *seed: int) -> Tensor:
    """The numbers 0..size-1 in a random order that is the same on every machine.

    Args:
        size: how many, 0 or more.
        *seed: numbers that together are the seed.

    Returns:
        int64 [size].
    """
    return torch.from_numpy(random_state(*seed).permutation(size)).long()


def hold_out(inputs: Tensor, labels: Tensor, size: int, seed: int = SPLIT_SEED) -> tuple[Split, Split]:
    """Take random examples away from a set.

    Args:
        inputs: [N, ...].
        labels: [N].
        size: the number of examples that are taken away.
        seed: the same examples for the same seed, on every machine.

    Returns:
        Those taken away, and the rest.
    """
    order = permutation(len(labels), seed)
    held, rest = order[:size], order[size:]
    return Split(inputs[held], labels[held]), Split(inputs[rest], labels[rest])


@dataclass(frozen=True)
class Shard:
    """One of `count` equal parts of the training data. As text "2/4".

    Attributes:
        index: of this part; the first has 1.
        count: of all parts.

    Raises:
        ConfigError: if the index is not 1 to count.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise ConfigError("shard", str(self), _SHARD_ALLOWED)

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def is_empty(self, size: int) -> bool:
        """Whether no example of a set falls into this shard.

        Args:
            size: of the set, in examples.

        Returns:
            True if there are fewer examples than the shard's index.
        """
        return self.index > size

    @staticmethod
    def parse(text: str) -> Shard:
        """Read a shard.

        Args:
            text: such as "2/4".

        Returns:
            The shard.

        Raises:
            ConfigError: for any other text.

        Example:
            >>> Shard.parse("2/4")
            Shard(index=2, count=4)
        """
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if match is None:
            raise ConfigError("shard", text, _SHARD_ALLOWED)
        return Shard(int(match[1]), int(match[2]))


def shard_indices(size: int, shard: Shard, seed: int = SPLIT_SEED) -> Tensor:
    """The positions of a shard in a set of examples.

    The shards of one count are disjoint, cover everything, and differ in size by one at most, provided that every peer
    uses the same seed.

    Args:
        size: of the set, in examples.
        shard: the part that is wanted.
        seed: of the division.

    Returns:
        int64 [n].

    Raises:
        ConfigError: if the shard would be empty.
    """
    if shard.is_empty(size):
        raise ConfigError("shard", str(shard), f"allowed: at most as many shards as examples, {size}")
    return permutation(size, seed)[shard.index - 1 :: shard.count]


class Batches:
    """An endless iterator of minibatches (inputs, labels), as stored.

    Every epoch has a new random order. An incomplete last batch is dropped, unless the whole part is smaller than one
    batch: then an epoch is one batch of everything. What comes next depends on the arguments and on the number of
    batches drawn, and on nothing else.

    Args:
        split: the examples, usually `data.train`.
        batch_size: examples per batch, at least 1.
        seed: of the orders; peers with the same part should differ in it.
        part: use only the examples at these positions (int64 [n]), such as `shard_indices`; None is all.

    Attributes:
        batches_per_epoch: batches in one pass over the part.
        drawn: batches drawn so far.

    Raises:
        ConfigError: if the batch size is not positive, or the part is empty.
    """

    def __init__(self, split: Split, batch_size: int, seed: int, part: Tensor | None = None) -> None:
        if batch_size < 1:
            raise ConfigError("batch-size", batch_size, "allowed: at least 1")
        self._split, self._seed = split, seed
        self._part = torch.arange(len(split)) if part is None else part
        if len(self._part) == 0:
            raise ConfigError("part", [], "allowed: at least one example")
        self._batch_size = min(batch_size, len(self._part))
        self._order, self._order_epoch = self._part, -1
        self.batches_per_epoch = len(self._part) // self._batch_size
        self.drawn = 0

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        epoch, position = divmod(self.drawn, self.batches_per_epoch)
        if epoch != self._order_epoch:
            self._order = self._part[permutation(len(self._part), self._seed, epoch)]
            self._order_epoch = epoch
        chosen = self._order[position * self._batch_size : (position + 1) * self._batch_size]
        self.drawn += 1
        return self._split.inputs[chosen], self._split.labels[chosen]

    def skip(self, n: int) -> None:
        """Go on as if more batches had been drawn. Takes no time: every epoch's order has its own seed.

        Args:
            n: the number of batches, 0 or more.
        """
        assert n >= 0
        self.drawn += n
