from __future__ import annotations

import ast
import builtins
import errno
import hashlib
import pickle
import struct
import zlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from p2p_elastic import tasks
from p2p_elastic.errors import ConfigError
from p2p_elastic.tasks import (
    TASKS,
    Batches,
    Recipe,
    Shard,
    Split,
    Task,
    default_data_dir,
    evaluate,
    find_task,
    initial_model,
    reestimate_batchnorm,
    shard_indices,
)
from p2p_elastic.tasks.cifar10 import LABELS
from p2p_elastic.tasks.sampling import permutation

IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


# ---------------------------------------------------------------- the table


def test_tasks_are_sorted_and_named_as_their_keys() -> None:
    assert list(TASKS) == [
        "cifar10",
        "cifar10-cnn7",
        "cifar10-resnet20",
        "digits",
        "fashion-mnist",
        "mnist",
        "mnist-small",
        "stdlib-gpt",
        "stdlib-gpt-small",
    ]
    assert all(task.name == name and task.summary for name, task in TASKS.items())


def test_unknown_task_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(
        ConfigError,
        match=r"task: got 'minst'; allowed: cifar10, .*, digits, .*, mnist-small, stdlib-gpt, stdlib-gpt-small, or",
    ):
        find_task("minst")


def test_public_names_are_sorted_and_exist() -> None:
    assert tasks.__all__ == sorted(tasks.__all__, key=lambda name: (not name.isupper(), name))
    assert all(hasattr(tasks, name) for name in tasks.__all__)


def test_slow_libraries_are_not_imported_before_they_are_needed() -> None:
    for path in Path(tasks.__path__[0]).glob("*.py"):
        at_import = [
            node for node in ast.parse(path.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))
        ]
        names = {name.name.split(".")[0] for node in at_import for name in node.names}
        modules = {(node.module or "").split(".")[0] for node in at_import if isinstance(node, ast.ImportFrom)}
        assert not {"torchvision", "sklearn"} & (names | modules), path


# ---------------------------------------------------------------- models


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_mlp_is_that_of_the_experiments(name: str) -> None:
    model = initial_model(find_task(name), seed=1)
    assert sum(parameter.numel() for parameter in model.parameters()) == 2_913_290
    assert [layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)] == [0.2, 0.5, 0.5, 0.5]
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    for layer in linear:
        assert not layer.bias.any()
        assert float(layer.weight.detach().std()) == pytest.approx((2 / layer.in_features) ** 0.5, rel=0.05)


def test_the_small_mlp_has_one_hidden_layer_of_64_and_no_dropout() -> None:
    task = find_task("mnist-small")
    layers = [layer for layer in initial_model(task, seed=1).modules() if not isinstance(layer, nn.Sequential)]
    assert [type(layer) for layer in layers] == [nn.Flatten, nn.Linear, nn.ReLU, nn.Linear]
    assert [tuple(layer.weight.shape) for layer in layers if isinstance(layer, nn.Linear)] == [(64, 784), (10, 64)]
    recipe = task.recipe
    assert (recipe.batch_size, recipe.learning_rate, recipe.momentum, recipe.milestones) == (32, 0.05, 0.0, ())


def test_preactresnet18_has_the_parameters_of_the_experiments_and_ten_logits() -> None:
    task = find_task("cifar10")
    model = initial_model(task, seed=1)
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_171_146
    logits = model(task.prepare(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), None))
    assert logits.shape == (2, 10)


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_same_seed_gives_the_same_model_and_leaves_global_random_numbers_alone(name: str) -> None:
    before = torch.get_rng_state()
    one, same, other = (initial_model(find_task(name), seed) for seed in (7, 7, 8))
    assert torch.equal(torch.get_rng_state(), before)
    pairs = list(zip(one.state_dict().values(), same.state_dict().values(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(next(one.parameters()), next(other.parameters()))


def test_loss_is_cross_entropy_in_nats_of_each_example() -> None:
    losses = find_task("digits").loss(nn.Identity(), (torch.zeros(3, 10), torch.tensor([0, 4, 9])))
    assert losses.tolist() == pytest.approx([np.log(10)] * 3)


# ---------------------------------------------------------------- shards and batches


def numbered(size: int) -> Split:
    """A split whose inputs [size] and labels are their own positions."""
    return Split(torch.arange(size, dtype=torch.uint8), torch.arange(size))


def flat(parts: list[list[int]]) -> list[int]:
    return [number for part in parts for number in part]


def drawn(batches: Batches, n: int) -> list[list[int]]:
    return [next(batches)[1].tolist() for _ in range(n)]


def test_permutation_stays_what_it_was_so_that_versions_agree() -> None:
    assert permutation(10, 1234).tolist() == [8, 7, 3, 1, 2, 0, 5, 4, 6, 9]


@pytest.mark.parametrize(("size", "count"), [(10, 1), (10, 3), (12, 4), (5, 5)])
def test_shards_are_disjoint_cover_everything_and_differ_by_one(size: int, count: int) -> None:
    shards = [shard_indices(size, Shard(index, count)) for index in range(1, count + 1)]
    assert sorted(torch.cat(shards).tolist()) == list(range(size))
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1


def test_shards_depend_on_the_seed_only() -> None:
    one, same, other = (shard_indices(100, Shard(2, 4), seed).tolist() for seed in (5, 5, 6))
    assert one == same != other


def test_shard_reads_back_from_its_text() -> None:
    assert Shard.parse("2/4") == Shard(2, 4)
    assert str(Shard.parse("2/4")) == "2/4"


@pytest.mark.parametrize(
    "text", ["", "2", "0/4", "5/4", "-1/4", "1/0", "1/4/2", "a/b", "1 / 4", "1/4\n", "1.0/4", "²/4"]
)
def test_invalid_shard_is_an_error_that_shows_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="for example 2/4") as caught:
        Shard.parse(text)
    assert (caught.value.key, caught.value.got) == ("shard", text)


def test_every_epoch_shows_every_example_once_in_a_new_order() -> None:
    batches = Batches(numbered(12), 4, seed=0)
    assert batches.batches_per_epoch == 3
    first, second = (flat(drawn(batches, 3)) for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_inputs_and_labels_stay_together_as_stored() -> None:
    inputs, labels = next(Batches(numbered(12), 4, seed=0))
    assert inputs.dtype == torch.uint8
    assert inputs.tolist() == labels.tolist()


def test_batches_depend_on_the_seed_only() -> None:
    one, same, other = (drawn(Batches(numbered(50), 8, seed), 20) for seed in (1, 1, 2))
    assert one == same != other


def test_incomplete_last_batch_is_dropped() -> None:
    batches = Batches(numbered(11), 4, seed=0)
    assert batches.batches_per_epoch == 2
    assert len(set(flat(drawn(batches, 2)))) == 8


def test_part_smaller_than_a_batch_is_one_batch_of_everything() -> None:
    batches = Batches(numbered(3), 8, seed=0)
    assert batches.batches_per_epoch == 1
    assert [sorted(batch) for batch in drawn(batches, 2)] == [[0, 1, 2]] * 2


def test_batches_of_a_shard_stay_in_the_shard() -> None:
    shard = Shard(3, 4)
    seen = flat(drawn(Batches(numbered(40), 5, seed=9, part=shard_indices(40, shard)), 2))
    assert sorted(seen) == sorted(shard_indices(40, shard).tolist())


@pytest.mark.parametrize("n", [0, 1, 6, 7, 8, 20])
def test_skip_is_the_same_as_drawing(n: int) -> None:
    walked, skipped = Batches(numbered(29), 4, seed=3), Batches(numbered(29), 4, seed=3)
    drawn(walked, 2)
    drawn(skipped, 2)
    drawn(walked, n)
    skipped.skip(n)
    assert drawn(skipped, 10) == drawn(walked, 10)


def test_skipping_a_long_way_draws_nothing() -> None:
    class Untouchable:
        def __len__(self) -> int:
            return 29

        def __getattr__(self, name: str) -> Any:
            raise AssertionError("skip must not touch the data")

    batches = Batches(Untouchable(), 4, seed=3)  # type: ignore[arg-type]
    batches.skip(10**12)
    assert batches.drawn == 10**12
    with pytest.raises(AssertionError, match="must not touch"):
        next(batches)


def test_empty_shard_empty_part_and_batch_size_zero_are_errors() -> None:
    with pytest.raises(ConfigError, match=r"shard: got '3/3'; allowed: at most as many shards as examples, 2"):
        shard_indices(2, Shard(3, 3))
    with pytest.raises(ConfigError, match=r"part: got \[\]; allowed: at least one example"):
        Batches(numbered(2), 1, seed=0, part=torch.arange(0))
    with pytest.raises(ConfigError, match="batch-size: got 0"):
        Batches(numbered(2), 0, seed=0)


# ---------------------------------------------------------------- preparing


def test_mnist_is_normalised_and_not_augmented() -> None:
    stored = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1).expand(2, 28, 28)
    for generator in (None, torch.Generator().manual_seed(1)):
        prepared = find_task("mnist").prepare(stored, generator)
        assert prepared.dtype == torch.float32
        assert prepared[:, 0, 0].tolist() == pytest.approx([-0.1307 / 0.3081, (1 - 0.1307) / 0.3081])


def pictures(n: int) -> Tensor:
    """Random uint8 images [n, 3, 32, 32] without black pixels: black is what a crop pads with."""
    return torch.randint(1, 256, (n, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_cifar10_evaluation_is_plain_normalisation() -> None:
    stored = pictures(4)
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2023, 0.1994, 0.2010])
    expected = (stored.float() / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(find_task("cifar10").prepare(stored, None), expected)


def test_cifar10_augmentation_follows_its_generator_alone() -> None:
    task, stored = find_task("cifar10"), pictures(16)
    before = torch.get_rng_state()
    one, same, other = (task.prepare(stored, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_cifar10_augmentation_is_a_crop_of_the_padded_image_or_of_its_mirror() -> None:
    from p2p_elastic.tasks.cifar10 import augment

    stored = pictures(64)
    padded = nn.functional.pad(stored, (4, 4, 4, 4))
    found = []
    for image, result in zip(padded, augment(stored, torch.Generator().manual_seed(5)), strict=True):
        crops = [
            (top, left, mirrored)
            for top in range(9)
            for left in range(9)
            for crop in (image[:, top : top + 32, left : left + 32],)
            for mirrored, view in ((False, crop), (True, crop.flip(-1)))
            if torch.equal(view, result)
        ]
        assert len(crops) == 1
        found += crops
    tops, lefts, mirrors = (set(values) for values in zip(*found, strict=True))
    assert tops == lefts == set(range(9))
    assert mirrors == {False, True}


# ---------------------------------------------------------------- evaluation


def toy(model: nn.Module | None = None) -> Task:
    """A task whose stored inputs are the logits."""
    return Task(
        name="toy",
        summary="toy",
        recipe=Recipe(batch_size=2, learning_rate=0.1, momentum=0.0, epochs=1),
        model=lambda: model or nn.Identity(),
        data=lambda _: pytest.fail("not to be loaded"),
    )


def test_evaluation_counts_right_answers_and_averages_the_loss_over_examples() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    split = Split(logits, torch.tensor([0, 1, 1]))
    result = evaluate(nn.Identity(), toy(), split, "cpu", batch_size=2)
    assert result is not None
    assert result.accuracy == pytest.approx(2 / 3)
    assert result.loss == pytest.approx(float(nn.functional.cross_entropy(logits, split.labels)))


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_puts_back_the_mode_of_every_layer(training: bool) -> None:
    seen: list[tuple[bool, bool]] = []
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()).train(training)
    model[0].eval()
    model[1].register_forward_hook(lambda layer, *_: seen.append((layer.training, torch.is_grad_enabled())))
    evaluate(model, toy(), Split(torch.randn(4, 2), torch.zeros(4, dtype=torch.int64)), "cpu")
    assert seen == [(False, False)]
    assert [layer.training for layer in model.modules()] == [training, False, training]


def test_evaluation_stops_between_batches_and_then_has_no_result() -> None:
    split = Split(torch.zeros(10, 2), torch.zeros(10, dtype=torch.int64))
    calls: list[int] = []
    model = nn.Identity()
    model.register_forward_hook(lambda *_: calls.append(1))
    assert evaluate(model, toy(), split, "cpu", batch_size=2, stop=lambda: len(calls) == 3) is None
    assert len(calls) == 3
    assert model.training


def test_batchnorm_statistics_become_those_of_the_split() -> None:
    values = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)) * 5 + 2
    model = nn.Sequential(nn.BatchNorm1d(3, momentum=0.3), nn.Dropout(0.5))
    model[0].running_mean.fill_(99.0)
    before = torch.get_rng_state()
    reestimate_batchnorm(model, toy(), Split(values, torch.zeros(8, dtype=torch.int64)), "cpu", batch_size=4)
    torch.testing.assert_close(model[0].running_mean, values.mean(dim=0))
    torch.testing.assert_close(model[0].running_var, (values[:4].var(dim=0) + values[4:].var(dim=0)) / 2)
    assert model[0].momentum == 0.3
    assert all(layer.training for layer in model.modules())
    assert torch.equal(torch.get_rng_state(), before)


def test_short_last_batch_does_not_count_in_batchnorm_statistics() -> None:
    values = torch.cat([torch.randn(4, 3), torch.full((1, 3), 1e6)])
    model = nn.BatchNorm1d(3)
    reestimate_batchnorm(model, toy(), Split(values, torch.zeros(5, dtype=torch.int64)), "cpu", batch_size=4)
    assert model.running_mean is not None
    torch.testing.assert_close(model.running_mean, values[:4].mean(dim=0))


def test_without_batchnorm_nothing_is_run() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False))
    model.register_forward_hook(lambda *_: pytest.fail("no pass is needed"))
    reestimate_batchnorm(model, toy(), Split(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64)), "cpu")


# ---------------------------------------------------------------- digits


def test_digits_are_split_in_the_same_way_everywhere() -> None:
    data = find_task("digits").load(None)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [1257, 180, 360]
    assert data.train.inputs.dtype == torch.uint8
    assert int(data.train.inputs.max()) == 16
    assert data.train.labels.dtype == torch.int64
    everything = torch.cat([split.inputs.flatten(1) for split in (data.train, data.validation, data.test)])
    assert len(everything.unique(dim=0)) == 1797
    assert data.test.labels[:10].tolist() == [9, 7, 0, 9, 5, 3, 8, 7, 8, 6]


def test_digits_train_in_seconds() -> None:
    task = find_task("digits")
    data, model = task.load(None), initial_model(task, seed=0)
    batches = Batches(data.train, task.recipe.batch_size, seed=0)
    recipe = task.recipe
    optimizer = torch.optim.SGD(
        model.parameters(), recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.nesterov
    )
    for _ in range(10 * batches.batches_per_epoch):
        optimizer.zero_grad()
        task.loss(model, task.prepare(next(batches), None)).mean().backward()
        optimizer.step()
    result = evaluate(model, task, data.test, "cpu")
    assert result is not None
    assert result.accuracy >= 0.95


# ---------------------------------------------------------------- data folders: MNIST


def write_idx(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def write_mnist(raw: Path, train: int = 60, test: int = 20) -> Path:
    for prefix, size in (("train", train), ("t10k", test)):
        images = np.arange(size).repeat(28 * 28).reshape(size, 28, 28)  # image n is all n
        write_idx(raw / f"{prefix}-images-idx3-ubyte", images)
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", np.arange(size) % 10)
    return raw


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every download writes half a file and fails, as on a machine that loses its network; gives the URLs asked for."""
    asked: list[str] = []

    def fail(url: str, download_root: str, filename: str = "half", md5: str | None = None, **_: object) -> None:
        asked.append(url)
        Path(download_root).mkdir(parents=True, exist_ok=True)
        (Path(download_root) / filename).write_bytes(b"half")
        print("Downloading", url)  # noqa: T201 - as older versions of torchvision do
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", fail)
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fail)
    return asked


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("task", "name"), [("mnist", "MNIST"), ("mnist-small", "MNIST"), ("fashion-mnist", "FashionMNIST")]
)
def test_unpacked_folder_is_read_and_left_alone(task: str, name: str, tmp_path: Path, offline: list[str]) -> None:
    write_mnist(tmp_path / name / "raw", train=60, test=20)
    before = contents(tmp_path)
    data = find_task(task).load(tmp_path)
    assert (len(data.validation), len(data.train), len(data.test)) == (8, 52, 20)  # 60 * 8800 // 60000 = 8
    assert data.train.inputs.shape == (52, 28, 28)
    assert data.train.inputs.dtype == torch.uint8
    assert data.train.labels.dtype == torch.int64
    numbers = torch.cat([data.train.inputs[:, 0, 0], data.validation.inputs[:, 0, 0]]).long()
    assert sorted(numbers.tolist()) == list(range(60))
    assert torch.equal(numbers % 10, torch.cat([data.train.labels, data.validation.labels]))
    assert contents(tmp_path) == before
    assert not offline


def test_default_folder_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: list[str]
) -> None:
    monkeypatch.setenv("P2P_ELASTIC_DATA", str(tmp_path))
    write_mnist(tmp_path / "MNIST" / "raw")
    assert len(find_task("mnist").load(None).test) == 20
    monkeypatch.delenv("P2P_ELASTIC_DATA")
    monkeypatch.setenv("HOME", "/home/ada")
    assert default_data_dir() == Path("/home/ada/.cache/p2p-elastic/data")


def test_without_data_and_network_the_error_says_what_to_put_where(
    tmp_path: Path, offline: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        find_task("mnist").load(tmp_path)
    assert (caught.value.key, caught.value.got) == ("data-dir", str(tmp_path))
    message = str(caught.value)
    for part in (*(f"MNIST/raw/{file}" for file in IDX_FILES), "https://yann.lecun.com/exdb/mnist/", "--data-dir"):
        assert part in message
    out, err = capsys.readouterr()
    by_the_error = tuple(map(int, version("torchvision").split(".")[:2])) >= (0, 21)
    assert "no route to host" in (message if by_the_error else err)
    assert out == ""


def test_failed_download_leaves_no_half_files_and_the_next_run_asks_again(tmp_path: Path, offline: list[str]) -> None:
    for _ in range(2):
        offline.clear()
        with pytest.raises(ConfigError):
            find_task("mnist").load(tmp_path)
        assert offline
        assert list(tmp_path.iterdir()) == []


def test_download_fills_the_folder_and_keeps_files_that_were_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "MNIST" / "raw"
    mine = np.full(60, 3)
    write_idx(raw / "train-labels-idx1-ubyte", mine)
    monkeypatch.setattr(
        "torchvision.datasets.mnist.download_and_extract_archive",
        lambda url, download_root, **_: write_mnist(Path(download_root)),
    )
    data = find_task("mnist").load(tmp_path)
    assert data.train.labels.unique().tolist() == [3]
    assert sorted(contents(tmp_path)) == sorted(f"MNIST/raw/{file}" for file in IDX_FILES)


def test_folder_that_cannot_be_written_is_an_error(tmp_path: Path, offline: list[str]) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ConfigError, match="--data-dir"):
        find_task("mnist").load(tmp_path / "file" / "data")


def damage_truncated(raw: Path) -> str:
    path = raw / IDX_FILES[0]
    path.write_bytes(path.read_bytes()[:-1])
    return path.name


def damage_empty(raw: Path) -> str:
    (raw / IDX_FILES[1]).write_bytes(b"")
    return IDX_FILES[1]


def damage_compressed(raw: Path) -> str:
    (raw / IDX_FILES[2]).write_bytes(b"\x1f\x8b\x08\x00" * 30)
    return IDX_FILES[2]


def damage_header_only(raw: Path) -> str:
    (raw / IDX_FILES[2]).write_bytes(bytes([0, 0, 8, 3, 0, 0]))
    return IDX_FILES[2]


def damage_no_images(raw: Path) -> str:
    write_idx(raw / IDX_FILES[2], np.zeros((0, 28, 28)))
    return IDX_FILES[2]


def damage_no_images_of_any_size(raw: Path) -> str:
    (raw / IDX_FILES[2]).write_bytes(bytes([0, 0, 8, 3]) + struct.pack(">III", 0, 2**31, 2**31))
    return IDX_FILES[2]


def damage_one_image(raw: Path) -> str:
    write_mnist(raw, train=1)
    return IDX_FILES[0]


def damage_other_size(raw: Path) -> str:
    write_idx(raw / IDX_FILES[0], np.zeros((60, 32, 32)))
    return IDX_FILES[0]


def damage_labels_missing(raw: Path) -> str:
    write_idx(raw / IDX_FILES[3], np.zeros(19))
    return IDX_FILES[3]


def damage_label_eleven(raw: Path) -> str:
    write_idx(raw / IDX_FILES[3], np.full(20, 11))
    return IDX_FILES[3]


@pytest.mark.parametrize(
    "damage",
    [
        damage_truncated,
        damage_empty,
        damage_compressed,
        damage_header_only,
        damage_no_images,
        damage_no_images_of_any_size,
        damage_one_image,
        damage_other_size,
        damage_labels_missing,
        damage_label_eleven,
    ],
)
def test_damaged_file_is_an_error_that_names_it(
    damage: Callable[[Path], str], tmp_path: Path, offline: list[str]
) -> None:
    name = damage(write_mnist(tmp_path / "MNIST" / "raw"))
    with pytest.raises(ConfigError, match="replace it") as caught:
        find_task("mnist").load(tmp_path)
    assert str(caught.value.got).endswith(name)
    assert not offline


def test_a_mistyped_folder_is_not_left_behind(tmp_path: Path, offline: list[str]) -> None:
    with pytest.raises(ConfigError, match="data-dir"):
        find_task("mnist").load(tmp_path / "no" / "such")
    assert offline
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- data folders: CIFAR-10


def write_classes(folder: Path, per_class: int, suffix: str = "png", classes: int = 10) -> Path:
    """Images of one colour: image n of class c has red 10 c, green n."""
    from PIL import Image

    for label in range(classes):
        (folder / LABELS[label]).mkdir(parents=True)
        for number in range(per_class):
            image = Image.new("RGB", (32, 32), (10 * label, number, 0))
            image.save(folder / LABELS[label] / f"{number:03}.{suffix}")
    return folder


def write_cifar10(folder: Path, suffix: str = "png") -> Path:
    """Class folders for training and for the test in `folder`, with an image in each."""
    for part in ("train", "test"):
        write_classes(folder / part, 1, suffix)
    return folder


def test_class_folders_are_read_in_sorted_order_and_left_alone(tmp_path: Path, offline: list[str]) -> None:
    write_classes(tmp_path / "cifar10" / "train", per_class=4)
    write_classes(tmp_path / "cifar10" / "test", per_class=1)
    before = contents(tmp_path)
    data = find_task("cifar10").load(tmp_path)
    assert (len(data.validation), len(data.train), len(data.test)) == (4, 36, 10)  # 40 * 5200 // 50000 = 4
    assert data.train.inputs.shape == (36, 3, 32, 32)
    assert data.train.inputs.dtype == torch.uint8
    assert data.train.inputs.is_contiguous()
    assert data.test.labels.tolist() == list(range(10))
    for split in (data.train, data.validation, data.test):
        assert torch.equal(split.inputs[:, 0, 5, 7].long(), 10 * split.labels)
    assert contents(tmp_path) == before
    assert not offline


def test_class_folders_may_hold_jpegs(tmp_path: Path, offline: list[str]) -> None:
    write_cifar10(tmp_path / "cifar10", suffix="jpg")
    red = find_task("cifar10").load(tmp_path).test.inputs[:, 0].float().mean(dim=(1, 2))
    assert red.tolist() == pytest.approx([10.0 * label for label in range(10)], abs=3)


def with_huge_header(png: bytes) -> bytes:
    """An image that says it has 60,000 x 60,000 pixels."""
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


@pytest.mark.parametrize("damage", [lambda png: png[:60], lambda png: png[:20], with_huge_header])
def test_damaged_image_is_an_error_that_names_it(
    damage: Callable[[bytes], bytes], tmp_path: Path, offline: list[str]
) -> None:
    path = write_cifar10(tmp_path / "cifar10") / "train" / "horse" / "000.png"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ConfigError, match="replace it") as caught:
        find_task("cifar10").load(tmp_path)
    assert caught.value.got == str(path)


def test_image_of_another_size_is_an_error_that_names_it(tmp_path: Path, offline: list[str]) -> None:
    from PIL import Image

    path = write_cifar10(tmp_path / "cifar10") / "train" / "horse" / "000.png"
    Image.new("RGB", (40, 32)).save(path)
    with pytest.raises(ConfigError, match=r"\(32, 40, 3\), not \(32, 32, 3\)") as caught:
        find_task("cifar10").load(tmp_path)
    assert caught.value.got == str(path)


def test_incomplete_class_folders_are_an_error_that_names_them(tmp_path: Path, offline: list[str]) -> None:
    write_classes(tmp_path / "cifar10" / "train", per_class=1)
    with pytest.raises(ConfigError) as caught:
        find_task("cifar10").load(tmp_path)
    assert caught.value.got == str(tmp_path / "cifar10" / "test")
    write_classes(tmp_path / "cifar10" / "test", per_class=1, classes=9)
    with pytest.raises(ConfigError, match="missing truck; others none"):
        find_task("cifar10").load(tmp_path)


def test_classes_of_other_names_are_an_error_that_names_them(tmp_path: Path, offline: list[str]) -> None:
    folder = write_cifar10(tmp_path / "cifar10")
    (folder / "train" / "airplane").rename(folder / "train" / "zebra")  # the labels of the others would shift
    with pytest.raises(ConfigError, match="missing airplane; others zebra") as caught:
        find_task("cifar10").load(tmp_path)
    assert caught.value.got == str(folder / "train")


def write_batches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten images per batch file, image n all n; torchvision is told the MD5 of these files."""
    from torchvision.datasets import CIFAR10

    folder.mkdir(parents=True)

    def write(name: str, value: object) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(value))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    images = {"data": np.arange(10, dtype=np.uint8).repeat(3072).reshape(10, 3072), "labels": list(range(10))}
    monkeypatch.setattr(CIFAR10, "train_list", [write(f"data_batch_{number}", images) for number in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [write("test_batch", images)])
    name, md5 = write("batches.meta", {"label_names": [str(label) for label in range(10)]})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": md5})
    return folder


def test_batches_of_torchvision_are_read_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: list[str]
) -> None:
    write_batches(tmp_path / "cifar-10-batches-py", monkeypatch)
    before = contents(tmp_path)
    data = find_task("cifar10").load(tmp_path)
    assert (len(data.validation), len(data.train), len(data.test)) == (5, 45, 10)
    assert data.train.inputs.shape == (45, 3, 32, 32)
    assert torch.equal(data.train.inputs[:, 2, 31, 0].long(), data.train.labels)
    assert contents(tmp_path) == before
    assert not offline


def test_damaged_batch_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: list[str]
) -> None:
    path = write_batches(tmp_path / "cifar-10-batches-py", monkeypatch) / "data_batch_4"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ConfigError, match="MD5") as caught:
        find_task("cifar10").load(tmp_path)
    assert caught.value.got == str(path)
    assert not offline


def test_a_cifar10_batch_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_batches(tmp_path / "cifar-10-batches-py", monkeypatch) / "data_batch_4"
    really = builtins.open

    def opened(file: Any, *arguments: Any, **more: Any) -> Any:
        if str(file) == str(path):
            raise PermissionError(errno.EACCES, "Permission denied")
        return really(file, *arguments, **more)

    monkeypatch.setattr(builtins, "open", opened)
    with pytest.raises(ConfigError, match="Permission denied") as caught:
        find_task("cifar10").load(tmp_path)
    assert caught.value.got == str(path)


def test_without_cifar10_and_network_the_error_names_both_layouts(tmp_path: Path, offline: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        find_task("cifar10").load(tmp_path)
    message = str(caught.value)
    for part in ("cifar-10-batches-py/data_batch_1", "cifar10/{train,test}/CLASS", "www.cs.toronto.edu", "--data-dir"):
        assert part in message
    assert list(tmp_path.iterdir()) == []
