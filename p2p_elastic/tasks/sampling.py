"""The examples that a peer sees, and their order: a function of seeds, so that peers agree without talking."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from p2p_elastic.errors import ConfigError
from p2p_elastic.tasks.base import Collate, Data, Split, is_iterable
from p2p_elastic.tasks.batch import Batch

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


def parts_of(dataset: Dataset[Any], indices: Tensor, collate: Collate) -> Batch:
    """Read a batch of a map-style dataset.

    Args:
        dataset: with `__getitem__`, and perhaps `__getitems__`.
        indices: positions of its examples, int64 [B].
        collate: puts a list of examples together; not asked if `__getitems__` gave something else: a whole batch.

    Returns:
        The batch, as it is stored.
    """
    if isinstance(dataset, Split):
        return dataset.__getitems__(indices)
    return _collated(dataset, indices.tolist(), collate)


def _collated(dataset: Dataset[Any], indices: list[int], collate: Collate) -> Batch:
    many = getattr(dataset, "__getitems__", None)
    found = [dataset[index] for index in indices] if many is None else many(indices)
    return collate(found) if isinstance(found, list) else found


class Batches:
    """An endless iterator of minibatches of a map-style dataset, as stored.

    Every epoch has a new random order. An incomplete last batch is dropped, unless the whole part is smaller than one
    batch: then an epoch is one batch of everything. What comes next depends on the arguments and on the number of
    batches drawn, and on nothing else.

    Args:
        dataset: the examples, usually `data.train`.
        batch_size: examples per batch, at least 1.
        seed: of the orders; peers with the same part should differ in it.
        part: use only the examples at these positions (int64 [n]), such as `shard_indices`; None is all.
        collate: puts examples together.
        workers: processes that read ahead; 0: none.

    Attributes:
        batches_per_epoch: batches in one pass over the part.
        drawn: batches drawn so far.

    Raises:
        ConfigError: if the batch size is not positive, or the part is empty.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int,
        seed: int,
        part: Tensor | None = None,
        *,
        collate: Collate = default_collate,
        workers: int = 0,
    ) -> None:
        _check_batch_size(batch_size)
        self._dataset, self._seed, self._collate, self._workers = dataset, seed, collate, workers
        self._part = torch.arange(length(dataset)) if part is None else part
        if len(self._part) == 0:
            raise ConfigError("part", [], "allowed: at least one example")
        self._batch_size = min(batch_size, len(self._part))
        self._order, self._order_epoch = self._part, -1
        self._ahead: Iterator[Batch] | None = None
        self.batches_per_epoch = len(self._part) // self._batch_size
        self.drawn = 0

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Batch:
        if self._workers:
            if self._ahead is None:
                self._ahead = self._read_ahead()
            batch = next(self._ahead)
        else:
            batch = parts_of(self._dataset, self._chosen(self.drawn), self._collate)
        self.drawn += 1
        return batch

    def _chosen(self, number: int) -> Tensor:
        """The positions of the examples of a batch."""
        epoch, position = divmod(number, self.batches_per_epoch)
        if epoch != self._order_epoch:
            self._order = self._part[permutation(len(self._part), self._seed, epoch)]
            self._order_epoch = epoch
        return self._order[position * self._batch_size : (position + 1) * self._batch_size]

    def _read_ahead(self) -> Iterator[Batch]:
        order = (self._chosen(number).tolist() for number in itertools.count(self.drawn))
        return _loaded(_Whole(self._dataset, self._collate), self._workers, sampler=order)

    @property
    def epoch(self) -> float:
        """Passes over the part so far."""
        return self.drawn / self.batches_per_epoch

    @property
    def is_epoch_over(self) -> bool:
        """Whether the batch drawn last was the last one of a pass."""
        return self.drawn % self.batches_per_epoch == 0

    def skip(self, n: int) -> None:
        """Go on as if more batches had been drawn. Takes no time: every epoch's order has its own seed.

        Args:
            n: the number of batches, 0 or more.
        """
        assert n >= 0
        self.drawn += n
        self._ahead = None

    def stored(self, batch_size: int, batches: int) -> list[Batch]:
        """Read the first batches of the part in the order in which they are stored, without drawing them.

        Args:
            batch_size: examples per batch.
            batches: as many at most.

        Returns:
            Whole batches, or a single smaller one.
        """
        chosen = self._part[: batches * batch_size]
        chosen = chosen[: len(chosen) // batch_size * batch_size or None]  # no BatchNorm over one example
        return [parts_of(self._dataset, at, self._collate) for at in torch.split(chosen, batch_size)]


class Stream:
    """An endless iterator of minibatches of an iterable dataset, in the dataset's own order.

    At its end it is read from its beginning, after `set_epoch(n)` if it has that. An incomplete last batch is dropped,
    unless it is the only one.

    Args:
        dataset: whose iterator yields examples.
        batch_size: examples per batch, at least 1.
        shard: each peer takes every `count`-th example; None is all.
        collate: puts examples together.
        workers: if there are any, one process reads ahead.

    Attributes:
        batches_per_epoch: batches in one pass; None if the dataset has no length, until a first pass is over.
        drawn: batches drawn so far.

    Raises:
        ConfigError: if the batch size is not positive, or (when it is read) there is no example.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int,
        shard: Shard | None = None,
        *,
        collate: Collate = default_collate,
        workers: int = 0,
    ) -> None:
        _check_batch_size(batch_size)
        self._dataset, self._batch_size, self._shard = dataset, batch_size, shard or Shard(1, 1)
        self._collate, self._workers = collate, workers
        self._pass, self._passes, self._passed = iter(()), 0, 0
        self._next: Batch | None = None
        size = length(dataset, 0)
        self.batches_per_epoch = max(1, -(-(size - self._shard.index + 1) // self._shard.count) // batch_size) or None
        if size == 0:
            self.batches_per_epoch = None
        self.drawn = 0

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Batch:
        batch = next(self._pass, None)
        if batch is None:
            self._begin()
            batch = next(self._pass, None)
            if batch is None:
                raise ConfigError("data", "no example", f"at least one in shard {self._shard}")
        self.drawn += 1
        self._passed += 1
        return batch

    def _begin(self) -> None:
        if self._passed:
            self.batches_per_epoch, self._passes, self._passed = self._passed, self._passes + 1, 0
        if hasattr(self._dataset, "set_epoch"):
            self._dataset.set_epoch(self._passes)
        self._pass = self._batches()

    def _batches(self) -> Iterator[Batch]:
        mine: Iterable[Any] = _Every(self._dataset, self._shard)
        examples = _loaded(mine, 1) if self._workers else iter(mine)
        any_yet = False
        while examples_now := list(itertools.islice(examples, self._batch_size)):
            if len(examples_now) == self._batch_size or not any_yet:
                yield self._collate(examples_now)
            any_yet = True

    @property
    def epoch(self) -> float:
        """Passes so far; only whole ones if their length is not known yet."""
        return self._passes + (min(1.0, self._passed / self.batches_per_epoch) if self.batches_per_epoch else 0.0)

    @property
    def is_epoch_over(self) -> bool:
        """Whether the batch drawn last was the last one of a pass, as far as that is known."""
        return self.batches_per_epoch is not None and self._passed == self.batches_per_epoch

    def skip(self, n: int) -> None:
        """Draw batches that nobody uses: what comes next is known only by reading what is before it.

        Args:
            n: the number of batches, 0 or more.
        """
        for _ in range(n):
            next(self)

    def stored(self, batch_size: int, batches: int) -> list[Batch]:
        """Read the first batches, without drawing them.

        Args:
            batch_size: examples per batch.
            batches: as many at most.

        Returns:
            The batches.
        """
        mine = Stream(self._dataset, batch_size, self._shard, collate=self._collate)
        return list(itertools.islice(mine._batches(), batches))


class _Whole(Dataset[Batch]):
    """A dataset whose positions are lists of positions of another one."""

    def __init__(self, dataset: Dataset[Any], collate: Collate) -> None:
        self._dataset, self._collate = dataset, collate

    def __getitem__(self, indices: list[int]) -> Batch:
        return _collated(self._dataset, indices, self._collate)


class _Every(IterableDataset[Any]):
    """The examples of an iterable dataset that are in a shard."""

    def __init__(self, dataset: Dataset[Any], shard: Shard) -> None:
        self._dataset, self._shard = dataset, shard

    def __iter__(self) -> Iterator[Any]:
        examples: Any = iter(self._dataset)
        return itertools.islice(examples, self._shard.index - 1, None, self._shard.count)


def _loaded(dataset: Any, workers: int, sampler: Iterable[Any] | None = None) -> Iterator[Any]:
    """Read in other processes; a generator of its own, since otherwise torch's global one would go on by a number."""
    loader = DataLoader(
        dataset, batch_size=None, sampler=sampler, num_workers=workers, collate_fn=_same, generator=torch.Generator()
    )
    return iter(loader)


def _same(batch: Batch) -> Batch:
    return batch


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ConfigError("batch-size", batch_size, "allowed: at least 1")


def length(dataset: Dataset[Any], otherwise: int | None = None) -> int:
    """The number of examples.

    Args:
        dataset: of either kind.
        otherwise: if it has no length.

    Returns:
        Examples.

    Raises:
        ConfigError: if it has no length, and no other value is given.
    """
    try:
        return len(dataset)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError) as error:
        if otherwise is None:
            raise ConfigError("data", type(dataset).__name__, "a dataset with a length here") from error
        return otherwise


def check_shard(data: Data, shard: Shard) -> None:
    """See whether a peer would have anything to train on.

    Args:
        data: of the task; of a stream nobody knows.
        shard: of the peer.

    Raises:
        ConfigError: if there is no example in it.
    """
    shard_indices(length(data.train, shard.index), shard)


def in_order(dataset: Dataset[Any], batch_size: int, collate: Collate, limit: int | None = None) -> Iterator[Batch]:
    """Read a dataset once, in the order in which it is stored.

    Args:
        dataset: of either kind.
        batch_size: examples per batch.
        collate: puts examples together.
        limit: examples at most; None: all.

    Yields:
        Batches; the last one may be smaller.
    """
    if is_iterable(dataset):
        examples = itertools.islice(iter(dataset), limit)
        while some := list(itertools.islice(examples, batch_size)):
            yield collate(some)
        return
    size = length(dataset)
    for indices in torch.split(torch.arange(size if limit is None else min(size, limit)), batch_size):
        yield parts_of(dataset, indices, collate)
