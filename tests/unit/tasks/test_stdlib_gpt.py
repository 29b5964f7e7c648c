"""A language model on the source of Python's standard library."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from p2p_elastic.errors import ConfigError
from p2p_elastic.tasks import Batches, evaluate, find_task, initial_model
from p2p_elastic.tasks.checking import check_task
from p2p_elastic.tasks.stdlib_gpt import CONTEXT, read, sample

NAMES = ["stdlib-gpt", "stdlib-gpt-small"]


def library(folder: Path, files: int = 120) -> Path:
    """A standard library of files whose bytes are all alike, each of another letter."""
    (folder / "json").mkdir()
    for number in range(files):
        where = folder / "json" if number % 3 == 0 else folder
        (where / f"module_{number:03}.py").write_bytes(b"%c" % (33 + number) * 1200)
    return folder


@pytest.mark.parametrize(("name", "low", "high"), [(NAMES[0], 0.35e6, 0.45e6), (NAMES[1], 2.8e6, 3.2e6)])
def test_models_have_their_sizes_and_begin_as_good_as_guessing(name: str, low: float, high: float) -> None:
    task = find_task(name)
    model = initial_model(task, 0)
    assert low < sum(p.numel() for p in model.parameters()) < high
    text = torch.randint(0, 256, (4, CONTEXT + 1), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    batch = task.prepare((text[:, :-1], text[:, 1:]), None)
    losses = task.loss(model, batch).detach()
    assert losses.shape == (4,)
    assert float(losses.mean()) == pytest.approx(5.545, abs=0.1)  # log 256
    with torch.no_grad():
        nats, count = task.metrics(model, batch)["perplexity"]
    assert float(nats) / float(count) == pytest.approx(float(losses.mean()), rel=1e-4)


def test_no_byte_sees_what_comes_after_it() -> None:
    model = initial_model(find_task("stdlib-gpt"), 0).eval()
    text = torch.randint(0, 256, (1, 32), generator=torch.Generator().manual_seed(1))
    other = text.clone()
    other[0, 20] = (other[0, 20] + 1) % 256
    before, after = model(text), model(other)
    torch.testing.assert_close(before[:, :20], after[:, :20])
    assert not torch.allclose(before[:, 20:], after[:, 20:])


def test_a_label_is_the_next_byte_and_no_file_is_in_two_splits(tmp_path: Path) -> None:
    data = read(library(tmp_path))
    letters = [set(split.inputs.flatten().tolist()) for split in (data.train, data.validation, data.test)]  # type: ignore[attr-defined, union-attr]
    assert letters[0].isdisjoint(letters[1] | letters[2])
    assert letters[1].isdisjoint(letters[2])
    assert all(letters)
    inputs, labels = data.train.inputs, data.train.labels  # type: ignore[attr-defined]
    assert torch.equal(inputs[:, 1:], labels[:, :-1])
    assert torch.equal(inputs[1:, 0], labels[:-1, -1])


def test_the_same_library_gives_the_same_splits(tmp_path: Path) -> None:
    one, same = (read(tmp_path if (tmp_path / "json").exists() else library(tmp_path)) for _ in range(2))
    assert torch.equal(one.train.inputs, same.train.inputs)  # type: ignore[attr-defined]


def test_a_python_without_its_source_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the source of Python's standard library there"):
        read(tmp_path)


def test_this_python_has_enough_and_its_text_is_learnt() -> None:
    task = find_task("stdlib-gpt")
    data, model = task.load(None), initial_model(task, 0)
    check_task(task, data)
    assert task.optimizer is not None
    batches = Batches(data.train, 4, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        task.loss(model, task.prepare(next(batches), None)).mean().backward()
        optimizer.step()
    assert data.test is not None
    result = evaluate(model, task, data.test, "cpu", limit=64)
    assert result is not None
    assert result.metrics["perplexity"] < 50.0  # of 256, guessing
    assert result.accuracy is None


def test_a_sample_is_the_same_each_time_and_leaves_model_and_random_numbers_alone() -> None:
    model = initial_model(find_task("stdlib-gpt"), 0).train()
    before = torch.get_rng_state()
    one, same = sample(model), sample(model)
    assert one == same
    assert one.startswith("def ")
    assert all(c.isprintable() or c == "\n" for c in one)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
