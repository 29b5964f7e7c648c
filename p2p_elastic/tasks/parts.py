"""Divisions of the training data among a given number of workers."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from p2p_elastic.errors import ConfigError
from p2p_elastic.tasks.sampling import SPLIT_SEED, Shard, permutation, random_state, shard_indices

Division = Literal["shards", "whole", "overlap", "dirichlet"]

TINY_CONCENTRATION = 1e-9  # below it a class goes to one worker as a whole anyway, and logarithms overflow


def worker_parts(
    labels: Tensor,
    workers: int,
    kind: Division,
    *,
    overlap: float = 0.25,
    dirichlet: float = 0.5,
    seed: int = SPLIT_SEED,
) -> list[Tensor]:
    """Divide the training examples among workers; no worker is without any.

    The kinds:
        shards: disjoint parts of equal size, those of `shard_indices`.
        whole: everything for each worker.
        overlap: a random share of the data goes to every worker, the rest is dealt out as shards: of n examples each
            worker has overlap * n + (1 - overlap) * n / workers, up to rounding.
        dirichlet: disjoint, and of another mix of classes for each worker. The examples of a class are divided in
            proportions drawn from a symmetric Dirichlet distribution (Yurochkin et al. 2019, arXiv:1905.12022; Hsu et
            al. 2019, arXiv:1909.06335, draw the classes of each worker instead).

    Args:
        labels: of the training examples, [N].
        workers: the number of parts, at least one and at most N.
        kind: see above.
        overlap: 0 is the same as shards, 1 as whole (in another order).
        dirichlet: the concentration, above 0: a small one leaves few classes to each worker, a large one is even.
        seed: the same division for the same seed, on every machine.

    Returns:
        The positions (int64) of each worker's examples.

    Raises:
        ConfigError: if an argument is out of range, or there are fewer examples than workers.

    Example:
        >>> [len(part) for part in worker_parts(torch.zeros(10), 4, "shards")]
        [3, 3, 2, 2]
    """
    size = len(labels)
    if not 1 <= workers <= size:
        raise ConfigError("workers", workers, f"allowed: from 1 to the number of examples, {size}")
    if kind == "shards":
        return [shard_indices(size, Shard(index, workers), seed) for index in range(1, workers + 1)]
    if kind == "whole":
        return [torch.arange(size) for _ in range(workers)]
    if kind == "overlap":
        return _overlapping(size, workers, overlap, seed)
    if kind == "dirichlet":
        return _skewed(labels, workers, dirichlet, seed)
    raise ConfigError("split", kind, f"allowed: {', '.join(get_args(Division))}")


def _overlapping(size: int, workers: int, overlap: float, seed: int) -> list[Tensor]:
    if not 0 <= overlap <= 1:
        raise ConfigError("overlap", overlap, "allowed: from 0 to 1")
    order = permutation(size, seed)
    shared = round(overlap * size)
    common, rest = order[:shared], order[shared:]
    return [torch.cat([common, rest[worker::workers]]) for worker in range(workers)]


def _skewed(labels: Tensor, workers: int, concentration: float, seed: int) -> list[Tensor]:
    if not 0 < concentration < float("inf"):
        raise ConfigError("dirichlet", concentration, "allowed: any number above 0")
    generator = random_state(seed)
    parts: list[list[Tensor]] = [[] for _ in range(workers)]
    for label in sorted(set(labels.tolist())):
        positions = (labels == label).nonzero().flatten()
        positions = positions[torch.from_numpy(generator.permutation(len(positions)))]
        ends = np.rint(np.cumsum(_proportions(generator, workers, concentration)) * len(positions)).astype(int)
        for part, piece in zip(parts, positions.tensor_split(ends[:-1].tolist()), strict=True):
            part.append(piece)
    return _none_empty([torch.cat(part) for part in parts])


def _proportions(generator: np.random.RandomState, workers: int, concentration: float) -> list[float]:
    """A sample [workers] of the symmetric Dirichlet distribution: normalised Gamma variables, as logarithms.

    Gamma(a) is Gamma(a + 1) U^(1/a) (Marsaglia and Tsang 2000). `RandomState.dirichlet` divides zero by zero if
    all of them underflow, which they do at a concentration of 0.001.
    """
    concentration = max(concentration, TINY_CONCENTRATION)
    uniform = 1.0 - generator.random_sample(workers)  # never zero
    logarithms = np.log(generator.standard_gamma(concentration + 1.0, workers)) + np.log(uniform) / concentration
    shares = np.exp(logarithms - np.max(logarithms))
    return [float(share) for share in shares / shares.sum()]


def _none_empty(parts: list[Tensor]) -> list[Tensor]:
    """Give each empty part one example of the part that is then the largest."""
    for at, part in enumerate(parts):
        if len(part) == 0:
            largest = max(range(len(parts)), key=lambda other: len(parts[other]))
            parts[at], parts[largest] = parts[largest][-1:], parts[largest][:-1]
    return parts
