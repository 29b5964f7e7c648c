"""CIFAR-10 with PreActResNet18 and the recipe of the Elastic Gossip experiments (Pramod 2018, arXiv:1812.02407)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from p2p_elastic.tasks.base import Data, Recipe, Split, Task, on_inputs
from p2p_elastic.tasks.folders import Source, data_folder, ensure, unusable
from p2p_elastic.tasks.sampling import hold_out

if TYPE_CHECKING:
    from torchvision.datasets import ImageFolder

LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CLASSES = len(LABELS)
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
PADDING = 4  # pixels on each side, of which a random crop keeps 32 rows and columns


class PreActBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm and ReLU before each, and a shortcut (He et al. 2016, arXiv:1603.05027).

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        stride: of the first convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block's output.

        Args:
            x: [B, inputs, H, W].

        Returns:
            [B, outputs, H / stride, W / stride].
        """
        activated = functional.relu(self.bn1(x))
        shortcut: Tensor = x if self.shortcut is None else self.shortcut(activated)
        residual: Tensor = self.conv2(functional.relu(self.bn2(self.conv1(activated))))
        return shortcut + residual


def model() -> nn.Module:
    """Build PreActResNet18, 11,171,146 parameters, without BatchNorm after the last block; torch's default weights.

    Returns:
        From images [B, 3, 32, 32] to logits [B, 10].
    """
    widths, strides = (64, 64, 128, 256, 512), (1, 2, 2, 2)
    blocks: list[nn.Module] = []
    for inputs, outputs, stride in zip(widths[:-1], widths[1:], strides, strict=True):
        blocks += [PreActBlock(inputs, outputs, stride), PreActBlock(outputs, outputs, 1)]
    first = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    return nn.Sequential(first, *blocks, nn.AvgPool2d(4), nn.Flatten(), nn.Linear(512, CLASSES))


def load(data_dir: Path | None) -> Data:
    """Load the images; 5,200 of the 50,000 training images are for validation.

    A smaller training set gives the same share (5200/50000, rounded down, at least one image). Both torchvision's
    `cifar-10-batches-py` and class folders `cifar10/{train,test}/<class>/*.png` (or jpg) will do. The two have their
    images in different orders: the peers of one run whose shards shall be disjoint need the same layout.

    Args:
        data_dir: the folder around these; None: the default one.

    Returns:
        The splits, images as uint8 [N, 3, 32, 32].

    Raises:
        ConfigError: if a file is missing and cannot be downloaded, or is damaged.
    """
    folder = data_folder(data_dir)
    images = folder / "cifar10"
    if SOURCE.missing(folder) and images.is_dir():
        (inputs, labels), test = _read_class_folders(images)
    else:
        ensure(SOURCE, folder, also="; class folders cifar10/{train,test}/CLASS/*.png or *.jpg would do as well")
        _check_batches(folder)
        (inputs, labels), test = _read_batches(folder, train=True), _read_batches(folder, train=False)
    validation, train = hold_out(inputs, labels, max(1, len(labels) * 5_200 // 50_000))
    return Data(train=train, validation=validation, test=Split(*test))


def _check_batches(folder: Path) -> None:
    """Compare the MD5 of every file: torchvision does so before it unpickles, but does not say which one is wrong."""
    from torchvision.datasets import CIFAR10 as Dataset  # slow to import
    from torchvision.datasets.utils import check_integrity

    for name, md5 in [*Dataset.train_list, *Dataset.test_list, (Dataset.meta["filename"], Dataset.meta["md5"])]:
        path = folder / Dataset.base_folder / name
        try:
            whole = check_integrity(path, md5)
        except OSError as error:
            raise unusable(path, error) from error
        if not whole:
            raise unusable(path, "its MD5 is not that of the original")


def _read_batches(folder: Path, *, train: bool) -> tuple[Tensor, Tensor]:
    from torchvision.datasets import CIFAR10 as Dataset  # slow to import

    dataset = Dataset(folder, train=train)
    return torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(dataset.targets)


def _read_class_folders(images: Path) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test images with their labels, which are those of torchvision's files: the names are sorted."""
    train, test = _class_folders(images / "train"), _class_folders(images / "test")
    return _read_images(train), _read_images(test)


def _class_folders(folder: Path) -> ImageFolder:
    from torchvision.datasets import ImageFolder  # slow to import

    try:
        dataset = ImageFolder(folder)
    except OSError as error:  # there is no such folder, or a class without images
        raise unusable(folder, error) from error
    if tuple(dataset.classes) != LABELS:  # other names would be other labels than those of the run's other peers
        missing = ", ".join(sorted({*LABELS} - {*dataset.classes})) or "none"
        others = ", ".join(sorted({*dataset.classes} - {*LABELS})) or "none"
        raise unusable(folder, f"its folders are not named as CIFAR-10's classes: missing {missing}; others {others}")
    return dataset


def _read_images(dataset: ImageFolder) -> tuple[Tensor, Tensor]:
    inputs = torch.stack([_read_image(Path(path)) for path, _ in dataset.samples])
    return inputs, torch.tensor(dataset.targets)


def _read_image(path: Path) -> Tensor:
    from PIL.Image import DecompressionBombError
    from torchvision.datasets.folder import pil_loader  # torchvision's own decoder is faster but dies of a damaged PNG

    try:
        pixels = np.array(pil_loader(str(path)))
    except (OSError, SyntaxError, ValueError, DecompressionBombError) as error:  # whatever Pillow raises for damage
        raise unusable(path, error) from error
    if pixels.shape != (32, 32, 3):
        raise unusable(path, f"its shape is {pixels.shape}, not (32, 32, 3)")
    return torch.from_numpy(pixels).permute(2, 0, 1)


def prepare(inputs: Tensor, generator: torch.Generator | None) -> Tensor:
    """Bytes to 0..1, then normalised; with a generator cropped and mirrored at random before.

    Args:
        inputs: uint8 [B, 3, 32, 32].
        generator: on the CPU; None: no augmentation.

    Returns:
        float32 [B, 3, 32, 32], on the images' device.
    """
    chosen = inputs if generator is None else augment(inputs, generator)
    mean, std = (torch.tensor(values, device=inputs.device).view(3, 1, 1) for values in (MEAN, STD))
    return chosen.float().div(255).sub(mean).div(std)


def augment(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Crop 32x32 at random from each black-padded image and mirror half of them.

    Args:
        inputs: [B, 3, 32, 32], on any device.
        generator: on the CPU, so that a seed means the same everywhere.

    Returns:
        [B, 3, 32, 32], of the same type.
    """
    batch, size = len(inputs), inputs.shape[-1]
    top, left = torch.randint(2 * PADDING + 1, (2, batch, 1), generator=generator)
    mirrored = torch.randint(2, (batch, 1), generator=generator).bool()
    pixels = torch.arange(size)
    rows = (top + pixels).to(inputs.device)
    columns = (left + torch.where(mirrored, pixels.flip(0), pixels)).to(inputs.device)
    padded = functional.pad(inputs, (PADDING,) * 4).permute(0, 2, 3, 1)
    image = torch.arange(batch, device=inputs.device)
    return padded[image[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def _download(folder: Path) -> None:
    from torchvision.datasets import CIFAR10 as Dataset  # slow to import

    Dataset(folder, download=True)


SOURCE = Source(
    name="cifar10",
    files=tuple(
        f"cifar-10-batches-py/{file}"
        for file in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")
    ),
    page="https://www.cs.toronto.edu/~kriz/cifar.html",
    download=_download,
)

CIFAR10 = Task(
    name="cifar10",
    summary="photographs 32x32 of ten kinds of things, PreActResNet18",
    recipe=Recipe(batch_size=32, learning_rate=0.01, momentum=0.9, epochs=50, milestones=(15, 30, 40), decay=0.5),
    model=model,
    data=load,
    prepare=on_inputs(prepare),
)
