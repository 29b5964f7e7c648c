"""How the data is divided among workers: laws of each kind."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from p2p_elastic.errors import ConfigError
from p2p_elastic.tasks import Division, Shard, shard_indices, worker_parts

KINDS: tuple[Division, ...] = ("shards", "whole", "overlap", "dirichlet")

sets = st.lists(st.integers(0, 4), min_size=1, max_size=80).map(torch.tensor)
seeds = st.integers(0, 2**32 - 1)
concentrations = st.floats(1e-300, 1e6)


def workers_of(data: st.DataObject, labels: Tensor) -> int:
    return data.draw(st.integers(1, min(len(labels), 9)))


def together(parts: list[Tensor]) -> list[int]:
    return sorted(torch.cat(parts).tolist())


def sizes(parts: list[Tensor]) -> list[int]:
    return [len(part) for part in parts]


@settings(max_examples=60)
@given(st.data(), sets, st.sampled_from(KINDS), st.floats(0, 1), concentrations, seeds)
def test_whatever_the_kind_parts_cover_all_have_no_doubles_and_follow_from_the_seed(
    data: st.DataObject, labels: Tensor, kind: Division, overlap: float, dirichlet: float, seed: int
) -> None:
    workers = workers_of(data, labels)
    parts, again = (
        worker_parts(labels, workers, kind, overlap=overlap, dirichlet=dirichlet, seed=seed) for _ in range(2)
    )
    assert len(parts) == workers
    assert set(together(parts)) == set(range(len(labels)))
    for part, same in zip(parts, again, strict=True):
        assert part.dtype == torch.int64
        assert len(set(part.tolist())) == len(part) > 0
        assert torch.equal(part, same)


@settings(max_examples=30)
@given(st.data(), sets, concentrations, seeds)
def test_shards_and_skewed_parts_are_disjoint(data: st.DataObject, labels: Tensor, dirichlet: float, seed: int) -> None:
    workers = workers_of(data, labels)
    for kind in ("shards", "dirichlet"):
        parts = worker_parts(labels, workers, kind, dirichlet=dirichlet, seed=seed)
        assert together(parts) == list(range(len(labels)))


@settings(max_examples=30)
@given(st.data(), sets, st.floats(0, 1), seeds)
def test_overlapping_parts_share_that_share_and_have_the_size_of_the_formula(
    data: st.DataObject, labels: Tensor, overlap: float, seed: int
) -> None:
    workers, n = workers_of(data, labels), len(labels)
    parts = worker_parts(labels, workers, "overlap", overlap=overlap, seed=seed)
    expected = overlap * n + (1 - overlap) * n / workers
    assert all(abs(size - expected) < 1.5 for size in sizes(parts))
    assert max(sizes(parts)) - min(sizes(parts)) <= 1
    if workers > 1:
        common = set.intersection(*(set(part.tolist()) for part in parts))
        assert len(common) == round(overlap * n)
        own = [number for part in parts for number in part.tolist() if number not in common]
        assert len(set(own)) == len(own)


@settings(max_examples=20)
@given(st.data(), sets, seeds)
def test_shards_are_those_of_live_peers_and_the_ends_of_overlap_are_shards_and_whole(
    data: st.DataObject, labels: Tensor, seed: int
) -> None:
    workers = workers_of(data, labels)
    shards = worker_parts(labels, workers, "shards", seed=seed)
    none, all_of_it = (worker_parts(labels, workers, "overlap", overlap=share, seed=seed) for share in (0.0, 1.0))
    for index, (shard, same) in enumerate(zip(shards, none, strict=True), start=1):
        assert torch.equal(shard, shard_indices(len(labels), Shard(index, workers), seed))
        assert torch.equal(shard, same)
    whole = worker_parts(labels, workers, "whole", seed=seed)
    assert [sorted(part.tolist()) for part in all_of_it] == [part.tolist() for part in whole]


def test_the_whole_is_in_its_own_order() -> None:
    assert [part.tolist() for part in worker_parts(torch.zeros(4), 2, "whole")] == [[0, 1, 2, 3]] * 2


# ---------------------------------------------------------------- dirichlet


def shares(dirichlet: float, workers: int = 4, per_class: int = 500) -> Tensor:
    """Of each class [10] the share of each worker [workers]."""
    labels = torch.arange(10).repeat(per_class)
    parts = worker_parts(labels, workers, "dirichlet", dirichlet=dirichlet)
    return torch.stack([torch.bincount(labels[part], minlength=10) for part in parts], dim=1) / per_class


def test_a_large_concentration_is_even_and_a_small_one_leaves_a_class_to_one_worker() -> None:
    assert (shares(1e6) - 0.25).abs().max() < 0.01
    assert (shares(1e-12).max(dim=1).values > 0.99).all()


@pytest.mark.parametrize("dirichlet", [0.1, 0.5, 2.0])
def test_proportions_have_the_mean_and_the_spread_of_the_distribution(dirichlet: float) -> None:
    labels = torch.arange(2000).repeat(40)
    parts = worker_parts(labels, 4, "dirichlet", dirichlet=dirichlet)
    drawn = torch.stack([torch.bincount(labels[part], minlength=2000) for part in parts], dim=1) / 40
    assert drawn.mean(dim=0).tolist() == pytest.approx([0.25] * 4, abs=0.03)
    variance = 0.25 * 0.75 / (4 * dirichlet + 1)
    assert drawn.var(dim=0).tolist() == pytest.approx([variance] * 4, rel=0.1)


def test_who_drew_nothing_gets_an_example_of_who_has_most() -> None:
    parts = worker_parts(torch.zeros(12), 6, "dirichlet", dirichlet=1e-6)
    assert sorted(sizes(parts)) == [1, 1, 1, 1, 1, 7]


def test_divisions_stay_what_they_were_so_that_results_can_be_repeated() -> None:
    labels = torch.arange(12) % 3
    assert [p.tolist() for p in worker_parts(labels, 3, "dirichlet")] == [[0, 10], [9, 6, 3, 7, 1, 4, 8], [5, 2, 11]]
    shared = [11, 3, 10]
    assert [p.tolist() for p in worker_parts(labels, 3, "overlap")] == [
        [*shared, 7, 2, 4],
        [*shared, 8, 0, 6],
        [*shared, 1, 5, 9],
    ]


# ---------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("workers", "kind", "options", "key"),
    [
        (0, "whole", {}, "workers"),
        (6, "shards", {}, "workers"),
        (6, "dirichlet", {}, "workers"),
        (2, "overlap", {"overlap": -0.1}, "overlap"),
        (2, "overlap", {"overlap": 1.1}, "overlap"),
        (2, "overlap", {"overlap": math.nan}, "overlap"),
        (2, "dirichlet", {"dirichlet": 0.0}, "dirichlet"),
        (2, "dirichlet", {"dirichlet": math.inf}, "dirichlet"),
        (2, "dirichlet", {"dirichlet": math.nan}, "dirichlet"),
        (2, "halves", {}, "split"),
    ],
)
def test_what_cannot_be_is_named(workers: int, kind: Division, options: dict[str, float], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        worker_parts(torch.zeros(5), workers, kind, **options)
    assert caught.value.key == key
