"""Batches of any form, streams, and metrics of any name."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from p2p_elastic.errors import ConfigError
from p2p_elastic.tasks import (
    Batches,
    Data,
    OfOutputs,
    Recipe,
    Shard,
    Split,
    Stream,
    Task,
    accuracy,
    cross_entropy,
    evaluate,
    no_metrics,
    shard_indices,
)
from p2p_elastic.tasks.batch import first, stacked, to
from p2p_elastic.tasks.measures import measured, shown


class Pair(NamedTuple):
    a: Tensor
    b: Any


X, Y = torch.arange(6.0).view(3, 2), torch.arange(3)
FORMS = [X, (X, Y), [X, Y], {"x": X, "more": (Y, {"z": X})}, Pair(X, Y)]


@pytest.mark.parametrize("batch", FORMS, ids=["tensor", "tuple", "list", "dict", "named"])
def test_every_form_is_moved_cut_and_stacked_as_a_whole(batch: Any) -> None:
    assert repr(to(batch, "cpu")) == repr(batch)
    assert type(first(batch, 2)) is type(batch)
    assert repr(first(batch, 3)) == repr(batch)
    assert "[[[" in repr(stacked([batch, batch]))


def test_what_cannot_be_cut_stays_whole_and_what_is_no_tensor_stays() -> None:
    ragged = (X, torch.arange(5))
    assert first(ragged, 1) is ragged
    assert first({"x": X, "name": "a", "n": 3}, 1)["name"] == "a"
    assert to({"name": "a", "x": X}, "meta")["x"].device.type == "meta"


# ---------------------------------------------------------------- datasets


class Items(Dataset[dict[str, Tensor]]):
    """Map-style, one example at a time."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"n": torch.tensor(index)}


class Many(Items):
    """Map-style, with `__getitems__` that gives examples."""

    def __getitems__(self, indices: list[int]) -> list[dict[str, Tensor]]:
        return [self[index] for index in indices]


class Flow(IterableDataset[Tensor]):
    """Iterable; notes which pass it is asked for."""

    def __init__(self, size: int) -> None:
        self.size, self.epochs = size, list[int]()

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.arange(self.size))


@pytest.mark.parametrize("kind", [Items, Many])
def test_any_map_style_dataset_has_the_order_of_one_in_memory(kind: type[Items]) -> None:
    part = shard_indices(23, Shard(2, 2))
    theirs = Batches(kind(23), 4, 7, part)
    ours = Batches(Split(torch.arange(23), torch.arange(23)), 4, 7, part)
    for _ in range(7):
        assert next(theirs)["n"].tolist() == next(ours)[0].tolist()


@pytest.mark.processes
def test_processes_that_read_ahead_change_nothing_and_no_random_numbers() -> None:
    before = torch.get_rng_state()
    plain, ahead = Batches(Items(23), 4, 7), Batches(Items(23), 4, 7, workers=1)
    assert torch.equal(torch.get_rng_state(), before)
    for _ in range(6):
        assert next(plain)["n"].tolist() == next(ahead)["n"].tolist()
    ahead.skip(3)
    plain.skip(3)
    assert next(plain)["n"].tolist() == next(ahead)["n"].tolist()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_stream_is_read_in_its_order_and_again_at_its_end() -> None:
    flow = Flow(10)
    stream = Stream(flow, 4)
    assert stream.batches_per_epoch is None
    assert [next(stream).tolist() for _ in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]]
    assert (stream.batches_per_epoch, stream.epoch, flow.epochs) == (2, 1.5, [0, 1])


def test_peers_share_a_stream_by_turns() -> None:
    seen = [next(Stream(Flow(12), 4, Shard(index, 3))).tolist() for index in (1, 2, 3)]
    assert sorted(itertools.chain(*seen)) == list(range(12))


@pytest.mark.parametrize("n", [0, 1, 5, 9])
def test_to_skip_in_a_stream_is_to_draw(n: int) -> None:
    walked, skipped = Stream(Flow(10), 3), Stream(Flow(10), 3)
    for _ in range(n):
        next(walked)
    skipped.skip(n)
    assert next(walked).tolist() == next(skipped).tolist()
    assert (walked.drawn, walked.epoch) == (skipped.drawn, skipped.epoch)


def test_a_stream_smaller_than_a_batch_is_one_and_an_empty_one_is_an_error() -> None:
    assert next(Stream(Flow(3), 8)).tolist() == [0, 1, 2]
    with pytest.raises(ConfigError, match="data: got 'no example'"):
        next(Stream(Flow(1), 8, Shard(2, 2)))


def test_what_is_looked_at_first_is_not_drawn() -> None:
    stream = Stream(Flow(10), 4)
    assert [batch.tolist() for batch in stream.stored(2, 2)] == [[0, 1], [2, 3]]
    assert next(stream).tolist() == [0, 1, 2, 3]


# ---------------------------------------------------------------- metrics


def task_of(loss: Any, metrics: Any) -> Task:
    return Task("t", nn.Identity, lambda _: Data(Items(3)), Recipe(2, 0.1), loss=loss, metrics=metrics)


def f1(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, tuple[Any, Any]]:
    right, labels = model(batch[0]).argmax(1), batch[1]
    both = int((right & labels).sum())
    return {"f1": (2 * both, int(right.sum() + labels.sum()))}


def test_sums_and_counts_of_batches_are_added_before_they_are_divided() -> None:
    labels = torch.tensor([1, 1, 0, 0, 1])
    logits = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    found = evaluate(nn.Identity(), task_of(cross_entropy, f1), Split(logits, labels), "cpu", batch_size=2)
    assert found is not None
    assert found.metrics == {"f1": pytest.approx(2 * 2 / (3 + 3))}
    assert found.accuracy is None


def test_without_metrics_there_is_the_loss_alone() -> None:
    found = evaluate(
        nn.Identity(), task_of(cross_entropy, no_metrics), Split(torch.zeros(4, 2), torch.zeros(4).long()), "cpu"
    )
    assert found is not None
    assert (found.metrics, found.loss) == ({}, pytest.approx(math.log(2)))


@pytest.mark.parametrize(
    ("loss", "metrics", "passes"),
    [
        (cross_entropy, accuracy, 1),
        (lambda m, b: cross_entropy(m, b), accuracy, 2),
        (cross_entropy, OfOutputs(accuracy.measure, run=lambda m, b: m(b[0])), 2),
        (cross_entropy, no_metrics, 1),
    ],
)
def test_what_needs_the_same_outputs_runs_the_model_once(loss: Any, metrics: Any, passes: int) -> None:
    model, calls = nn.Identity(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    losses, _ = measured(loss, metrics, model, (torch.zeros(2, 2), torch.zeros(2).long()))
    assert losses.tolist() == pytest.approx([math.log(2)] * 2)
    assert len(calls) == passes


@pytest.mark.parametrize(
    ("name", "total", "count", "value"),
    [
        ("accuracy", 3, 4, 0.75),
        ("perplexity", math.log(8) * 5, 5, 8.0),
        ("byte perplexity", 0, 1, 1.0),
        ("rmse", 8, 2, 2.0),
    ],
)
def test_a_metric_is_the_mean_transformed_by_its_name(name: str, total: float, count: float, value: float) -> None:
    assert shown(name, total, count) == pytest.approx(value)


def test_what_cannot_be_shown_is_no_error() -> None:
    assert math.isnan(shown("accuracy", 0, 0))
    assert shown("perplexity", 1e9, 1) == math.inf
    assert math.isnan(shown("rmse", -1, 1))
