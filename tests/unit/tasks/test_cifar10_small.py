from __future__ import annotations

import pytest
import torch
from torch import nn

from p2p_elastic.tasks import find_task, initial_model
from p2p_elastic.tasks.cifar10_small import CROP, crop

NAMES = ("cifar10-cnn7", "cifar10-resnet20")


def numbered(batch: int = 4) -> torch.Tensor:
    """Images [B, 3, 32, 32] whose pixels in the three channels are row, column and number of the image."""
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    images = [torch.stack([rows, columns, torch.full((32, 32), number)]) for number in range(batch)]
    return torch.stack(images).to(torch.uint8)


@pytest.mark.parametrize(("name", "parameters"), [(NAMES[0], 351_946), (NAMES[1], 269_722)])
def test_the_networks_have_the_parameters_of_the_papers_and_ten_logits(name: str, parameters: int) -> None:
    task = find_task(name)
    model = initial_model(task, seed=1)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model(task.prepare(numbered(2), None)).shape == (2, 10)


def test_cnn7_has_the_maps_of_the_paper_and_no_biases_to_begin_with() -> None:
    model = initial_model(find_task("cifar10-cnn7"), seed=1)
    assert isinstance(model, nn.Sequential)
    sides, x = [], torch.zeros(1, 3, CROP, CROP)
    for layer in model:
        x = layer(x)
        if isinstance(layer, (nn.Conv2d, nn.MaxPool2d)):
            sides.append(x.shape[-1])
    assert sides == [24, 12, 8, 4, 2]
    assert [layer.p for layer in model if isinstance(layer, nn.Dropout)] == [0.5]
    assert not any(parameter.any() for name, parameter in model.named_parameters() if name.endswith("bias"))


def test_resnet20_halves_the_maps_twice_without_parameters_in_the_shortcuts() -> None:
    model = initial_model(find_task("cifar10-resnet20"), seed=1)
    assert sum(isinstance(layer, (nn.Conv2d, nn.Linear)) for layer in model.modules()) == 20
    assert not any(layer.kernel_size == (1, 1) for layer in model.modules() if isinstance(layer, nn.Conv2d))
    model.eval()
    features = nn.Sequential(*list(model.children())[:-3])
    assert features(torch.zeros(1, 3, CROP, CROP)).shape == (1, 64, 7, 7)


def test_evaluation_uses_the_middle() -> None:
    middle = crop(numbered(), None)
    assert middle.shape == (4, 3, CROP, CROP)
    assert middle[0, :2, 0, 0].tolist() == [2, 2]
    assert middle[0, :2, -1, -1].tolist() == [29, 29]


def test_training_crops_are_whole_parts_of_the_image_mirrored_or_not() -> None:
    crops = crop(numbered(200), torch.Generator().manual_seed(1)).int()
    rows, columns, numbers = crops.unbind(dim=1)
    assert torch.equal(numbers[:, 0, 0], torch.arange(200, dtype=torch.int32))
    assert (rows.diff(dim=1) == 1).all()
    steps = columns.diff(dim=2)
    mirrored = steps[:, 0, 0] == -1
    assert torch.equal(steps, torch.where(mirrored, -1, 1)[:, None, None].expand_as(steps).int())
    assert 60 < int(mirrored.sum()) < 140
    assert set(rows[:, 0, 0].tolist()) == set(range(5)) == set(columns.amin(dim=(1, 2)).tolist())


def test_the_same_generator_gives_the_same_crops() -> None:
    one, same, other = (crop(numbered(), torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_pixels_are_in_0_to_1_for_cnn7_and_normalised_for_resnet20() -> None:
    white = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    plain, normalised = (find_task(name).prepare(white, None) for name in NAMES)
    assert plain.unique().tolist() == [1.0]
    expected = [(1 - 0.4914) / 0.2023, (1 - 0.4822) / 0.1994, (1 - 0.4465) / 0.2010]
    assert normalised[0, :, 0, 0].tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_of_the_recipe_lowers_the_loss(name: str) -> None:
    task = find_task(name)
    model = initial_model(task, seed=1)
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    inputs, labels = task.prepare(torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8), None), torch.arange(8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for _ in range(3):
        loss = task.loss(model, (inputs, labels)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
