"""MNIST and Fashion-MNIST with the MLP and recipe of the Elastic Gossip experiments (Pramod 2018, arXiv:1812.02407)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from p2p_elastic.tasks.base import Data, Recipe, Split, Task, on_inputs
from p2p_elastic.tasks.folders import Source, data_folder, ensure, unusable
from p2p_elastic.tasks.sampling import hold_out

CLASSES = 10

RECIPE = Recipe(batch_size=32, learning_rate=0.001, momentum=0.99, epochs=100)


def model() -> nn.Module:
    """Build an MLP 784-1024-1024-1024-10; 2,913,290 parameters.

    ReLU; dropout 0.2 on the input and 0.5 after each hidden layer; Kaiming-normal weights (fan-in), zero biases.

    Returns:
        From images [B, 28, 28] to logits [B, 10].
    """
    layers: list[nn.Module] = [nn.Flatten(), nn.Dropout(0.2)]
    for inputs in (784, 1024, 1024):
        layers += [_linear(inputs, 1024), nn.ReLU(), nn.Dropout(0.5)]
    return nn.Sequential(*layers, _linear(1024, CLASSES))


def small_model() -> nn.Module:
    """Build an MLP 784-64-10 (50,890 parameters) with ReLU and torch's default weights.

    Returns:
        From images [B, 28, 28] to logits [B, 10].
    """
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, CLASSES))


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer


def load(source: Source, data_dir: Path | None) -> Data:
    """Load the images; 8,800 of the 60,000 training images are for validation.

    A smaller training set gives the same share (8800/60000, rounded down, at least one image).

    Args:
        source: MNIST or a data set like it.
        data_dir: the folder around torchvision's; None: the default one.

    Returns:
        The splits, images as uint8 [N, 28, 28].

    Raises:
        ConfigError: if a file is missing and cannot be downloaded, or is damaged.
    """
    folder = data_folder(data_dir)
    ensure(source, folder)
    train_inputs, train_labels, test_inputs, test_labels = (folder / file for file in source.files)
    inputs, labels = _read_part(train_inputs, train_labels)
    if len(labels) < 2:
        raise unusable(train_inputs, "fewer than two images")
    validation, train = hold_out(inputs, labels, max(1, len(labels) * 8_800 // 60_000))
    return Data(train=train, validation=validation, test=Split(*_read_part(test_inputs, test_labels)))


def _read_part(images: Path, labels: Path) -> tuple[Tensor, Tensor]:
    pixels, digits = read_idx(images), read_idx(labels)
    if pixels.ndim != 3 or pixels.shape[1:] != (28, 28) or len(pixels) == 0:
        raise unusable(images, f"its shape is {tuple(pixels.shape)}, not (N, 28, 28)")
    if digits.shape != (len(pixels),):
        raise unusable(labels, f"its shape is {tuple(digits.shape)}, but there are {len(pixels)} images")
    if int(digits.max()) >= CLASSES:
        raise unusable(labels, f"a label is {int(digits.max())}, not 0..{CLASSES - 1}")
    return pixels, digits.long()


def read_idx(path: Path) -> Tensor:
    """Read an idx file.

    The format: two zero bytes, 8 for "unsigned byte", the number of dimensions, each dimension as a big-endian
    uint32, the bytes. Source: https://yann.lecun.com/exdb/mnist/

    Args:
        path: of the file, not compressed.

    Returns:
        uint8, of any shape.

    Raises:
        ConfigError: if it cannot be read, or header and size disagree.
    """
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise unusable(path, error) from error
    header = content[:4].tolist()
    if header[:3] != [0, 0, 8] or len(header) < 4:
        raise unusable(path, "no idx file of unsigned bytes")
    start = 4 + 4 * header[3]
    shape = [int.from_bytes(content[at : at + 4].tobytes(), "big") for at in range(4, start, 4)]
    # No images at all is refused here: beside a zero the other numbers may be too large for any tensor.
    if 0 in shape or start + int(np.prod(shape, dtype=object)) != len(content):
        raise unusable(path, f"its header says {shape}, it has {len(content)} bytes")
    return torch.from_numpy(content[start:]).view(shape)


def prepare(mean: float, std: float, inputs: Tensor, generator: torch.Generator | None) -> Tensor:  # noqa: ARG001
    """Bytes to 0..1, then normalised; there is no augmentation.

    Args:
        mean: of the training pixels, 0..1.
        std: their standard deviation.
        inputs: uint8 [B, 28, 28].
        generator: not used.

    Returns:
        float32 [B, 28, 28].
    """
    return inputs.float().div(255).sub(mean).div(std)


def _download(name: str, folder: Path) -> None:
    from torchvision import datasets  # slow to import, and needed for nothing else

    getattr(datasets, name)(folder, download=True)


def _source(task: str, name: str, page: str) -> Source:
    files = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    return Source(task, tuple(f"{name}/raw/{file}" for file in files), page, partial(_download, name))


MNIST = Task(
    name="mnist",
    summary="handwritten digits 28x28, MLP 784-1024-1024-1024-10 with dropout",
    recipe=RECIPE,
    model=model,
    data=partial(load, _source("mnist", "MNIST", "https://yann.lecun.com/exdb/mnist/")),
    prepare=on_inputs(partial(prepare, 0.1307, 0.3081)),
)

MNIST_SMALL = Task(
    name="mnist-small",
    summary="handwritten digits 28x28, MLP 784-64-10, for small machines",
    recipe=Recipe(batch_size=32, learning_rate=0.05, momentum=0.0, epochs=10),
    model=small_model,
    data=MNIST.data,
    prepare=MNIST.prepare,
)

FASHION_MNIST = Task(
    name="fashion-mnist",
    summary="clothes 28x28, MLP 784-1024-1024-1024-10 with dropout",
    recipe=RECIPE,
    model=model,
    data=partial(load, _source("fashion-mnist", "FashionMNIST", "https://github.com/zalandoresearch/fashion-mnist")),
    prepare=on_inputs(partial(prepare, 0.2860, 0.3530)),
)
