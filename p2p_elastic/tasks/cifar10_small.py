"""CIFAR-10 as EASGD (arXiv:1412.6651) and Leader SGD (arXiv:1905.10395) used it: 28x28 crops, and two small networks.

Trained on random crops, half of them mirrored; evaluated on the crop in the middle.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from p2p_elastic.tasks.base import Recipe, Task, on_inputs
from p2p_elastic.tasks.cifar10 import CLASSES, MEAN, STD, load

CROP = 28  # pixels


def crop(inputs: Tensor, generator: torch.Generator | None) -> Tensor:
    """Cut 28x28 pixels out of each image: at random and half of them mirrored, or the middle.

    Args:
        inputs: [B, C, H, W], on any device.
        generator: on the CPU, so that a seed means the same everywhere; None: the middle.

    Returns:
        [B, C, 28, 28].
    """
    batch, margin = len(inputs), inputs.shape[-1] - CROP
    if generator is None:
        start = margin // 2
        return inputs[:, :, start : start + CROP, start : start + CROP]
    top, left = torch.randint(margin + 1, (2, batch, 1), generator=generator)
    mirrored = torch.randint(2, (batch, 1), generator=generator).bool()
    pixels = torch.arange(CROP)
    rows = (top + pixels).to(inputs.device)
    columns = (left + torch.where(mirrored, pixels.flip(0), pixels)).to(inputs.device)
    image = torch.arange(batch, device=inputs.device)
    last = inputs.permute(0, 2, 3, 1)
    return last[image[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def prepare_plain(inputs: Tensor, generator: torch.Generator | None) -> Tensor:
    """A crop, bytes to 0..1.

    Args:
        inputs: uint8 [B, 3, 32, 32].
        generator: on the CPU; None: the crop in the middle.

    Returns:
        float32 [B, 3, 28, 28].
    """
    return crop(inputs, generator).float().div(255)


def prepare_normalised(inputs: Tensor, generator: torch.Generator | None) -> Tensor:
    """A crop, bytes to 0..1, then normalised.

    Args:
        inputs: uint8 [B, 3, 32, 32].
        generator: on the CPU; None: the crop in the middle.

    Returns:
        float32 [B, 3, 28, 28].
    """
    mean, std = (torch.tensor(values, device=inputs.device).view(3, 1, 1) for values in (MEAN, STD))
    return prepare_plain(inputs, generator).sub(mean).div(std)


def cnn7() -> nn.Module:
    """Build the seven layers of EASGD's CIFAR experiment; 351,946 parameters.

    The sides of the maps are 28, 24, 12, 8, 4, 2. Torch's default weights, biases 0.

    Returns:
        From crops [B, 3, 28, 28] to logits [B, 10].
    """
    model = nn.Sequential(
        *(nn.Conv2d(3, 64, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 128, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(128, 64, 3), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(64 * 2 * 2, 256), nn.ReLU(), nn.Dropout(0.5)),
        nn.Linear(256, CLASSES),
    )
    for layer in model:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return model


class Block(nn.Module):
    """Two 3x3 convolutions with BatchNorm, and a shortcut without parameters (He et al. 2015, option A).

    Args:
        inputs: channels that come in.
        outputs: channels that go out, as many or more.
        stride: of the first convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self._stride, self._new = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block's output.

        Args:
            x: [B, inputs, H, W].

        Returns:
            [B, outputs, H / stride, W / stride].
        """
        residual = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        shortcut = x[:, :, :: self._stride, :: self._stride]
        if self._new:  # every other pixel, and zeros for half of the new channels on either side
            shortcut = functional.pad(shortcut, (0, 0, 0, 0, self._new // 2, self._new - self._new // 2))
        return functional.relu(shortcut + residual)


def resnet20() -> nn.Module:
    """Build ResNet20 for CIFAR (He et al. 2015, arXiv:1512.03385); 269,722 parameters.

    Kaiming-normal weights in convolutions and the last layer.

    Returns:
        From crops [B, 3, 28, 28] to logits [B, 10].
    """
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    for inputs, outputs, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2)):
        layers += [Block(inputs, outputs, stride), Block(outputs, outputs, 1), Block(outputs, outputs, 1)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES))
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight)
    return model


CIFAR10_CNN7 = Task(
    name="cifar10-cnn7",
    summary="photographs, 28x28 crops of CIFAR-10, the 7-layer network of EASGD",
    recipe=Recipe(batch_size=128, learning_rate=0.01, momentum=0.9, epochs=60, weight_decay=1e-4),
    model=cnn7,
    data=load,
    prepare=on_inputs(prepare_plain),
)

CIFAR10_RESNET20 = Task(
    name="cifar10-resnet20",
    summary="photographs, 28x28 crops of CIFAR-10, ResNet20",
    recipe=Recipe(
        batch_size=128,
        learning_rate=0.1,
        momentum=0.9,
        epochs=160,
        weight_decay=1e-4,
        milestones=(80, 120),
        decay=0.1,
    ),
    model=resnet20,
    data=load,
    prepare=on_inputs(prepare_normalised),
)
