"""What AdaHessian can differentiate twice, and that everything else is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from p2p_elastic.errors import ConfigError
from p2p_elastic.simulator.looped import LoopedWorkers
from p2p_elastic.simulator.workers import Optimization, StackedWorkers
from p2p_elastic.tasks import Data, Recipe, Split, Task, cross_entropy
from p2p_elastic.training.adahessian import AdaHessian, rademacher, set_gradients
from p2p_elastic.training.second_derivative import twice_differentiable
from p2p_elastic.training.settings import Settings
from p2p_elastic.training.trainer import Trainer


def sequences(seed: int = 1) -> Tensor:
    return torch.randn(6, 5, 8, generator=torch.Generator().manual_seed(seed))


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return make()


class Attentive(nn.Module):
    """A classifier of sequences [B, 5, 8] with one layer of attention, whose fused kernel is chosen without dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.encoder(inputs).mean(dim=1))  # type: ignore[no-any-return]


LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def attention_loss(model: nn.Module) -> Tensor:
    return functional.cross_entropy(model(sequences()), LABELS)


# ---------------------------------------------------------------- attention


def test_attention_has_the_curvature_of_the_formula() -> None:
    model = seeded(Attentive)
    with sdpa_kernel(SDPBackend.MATH):
        grads = torch.autograd.grad(attention_loss(model), list(model.parameters()), create_graph=True)
    optimizer = AdaHessian(model.named_parameters(), seed=5)
    set_gradients(optimizer, lambda: attention_loss(model))
    signs = torch.Generator().manual_seed(5)
    zs = [rademacher(p, signs) for p in model.parameters()]
    products = torch.autograd.grad(grads, list(model.parameters()), grad_outputs=zs)
    for p, grad, hz in zip(model.parameters(), grads, products, strict=True):
        assert p.grad is not None
        torch.testing.assert_close(p.grad, grad.detach())
        torch.testing.assert_close(optimizer.curvature[p], hz.abs())


@pytest.mark.parametrize("way", ["helper", "context", "closure"])
def test_attention_learns_in_a_loop_of_ones_own(way: str) -> None:
    model = seeded(Attentive)
    optimizer = AdaHessian(model.named_parameters())

    def closure() -> float:
        loss = attention_loss(model)
        optimizer.backward(loss)
        return float(loss.detach())

    before = float(attention_loss(model).detach())
    for _ in range(20):
        optimizer.zero_grad()
        if way == "closure":
            optimizer.step(closure)
            continue
        if way == "helper":
            set_gradients(optimizer, lambda: attention_loss(model))
        else:
            with twice_differentiable():
                loss = attention_loss(model)
            optimizer.backward(loss)
        optimizer.step()
    assert float(attention_loss(model).detach()) < before / 2


def test_attention_without_the_plain_kernel_is_named_with_what_to_do() -> None:
    model = seeded(Attentive)
    optimizer = AdaHessian(model.named_parameters())
    with pytest.raises(ConfigError, match=r"run the forward pass in `with twice_differentiable\(\):`") as caught:
        optimizer.backward(attention_loss(model))
    assert caught.value.key.startswith("encoder.self_attn.in_proj_")


def test_the_kernels_of_others_are_as_before_afterwards() -> None:
    before = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()
    with pytest.raises(ZeroDivisionError), twice_differentiable():
        assert not torch.backends.cuda.flash_sdp_enabled()
        raise ZeroDivisionError
    assert (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()) == before


class Alone:
    """A peer that meets nobody."""

    move_waits = False

    def after_step(self) -> bool:
        return False

    def report_loss(self, loss: float) -> None:
        pass

    def during_evaluation(self) -> None:
        pass


def trainer(make: Callable[[], nn.Module], inputs: Tensor, steps: int = 20) -> Trainer:
    task = Task("t", make, lambda _: data, Recipe(6, 0.02, 0.0, 1))
    data = Data(*(Split(inputs, LABELS) for _ in range(3)))
    settings = Settings(steps, 1, 6, 0.02, 0.0, seed=1, optimizer="adahessian")
    return Trainer(seeded(make), task, data, settings, torch.device("cpu"), lambda: 0.0)


def test_the_loop_of_join_trains_attention() -> None:
    training = trainer(Attentive, sequences(), steps=40)
    before = training.untrained_loss()
    training.train(Alone(), lambda: False, lambda: None)
    assert training.untrained_loss() < before / 2


class Bags(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(9, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.words(inputs))  # type: ignore[no-any-return]


def test_the_loop_of_join_names_what_has_no_second_derivative_at_the_first_step() -> None:
    training = trainer(Bags, torch.arange(18).view(6, 3) % 9)
    with pytest.raises(ConfigError, match=r"^words\.weight: got 'EmbeddingBag'; .* take nn\.Embedding, and the mean"):
        training.train(Alone(), lambda: False, lambda: None)


def test_simulated_workers_train_attention_alike() -> None:
    kinds = [
        kind(seeded(Attentive), cross_entropy, 2, Optimization("adahessian", seed=1))
        for kind in (LoopedWorkers, StackedWorkers)
    ]
    for workers in kinds:
        workers.gradients([(sequences(1), LABELS), (sequences(2), LABELS)])
        workers.step(0.01)
    torch.testing.assert_close(kinds[0].flat, kinds[1].flat, rtol=1e-3, atol=1e-4)


# ---------------------------------------------------------------- what has no second derivative


class Once(torch.autograd.Function):
    """A square whose gradient has none, though nobody is told."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        ctx.save_for_backward(value)
        return value * value

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (value,) = ctx.saved_tensors
        return 2 * value * grad  # type: ignore[no-any-return]


def layers(first: nn.Module) -> nn.Module:
    """Named as the layers of a larger model are."""
    return nn.ModuleDict({"front": nn.Linear(8, 8), "layer": first})


def front(model: Any) -> Tensor:
    return model["front"](sequences())  # type: ignore[no-any-return]


WORDS = torch.tensor([[0, 1], [2, 3]])
Loss = Callable[[Any], Tensor]
CASES: dict[str, tuple[nn.Module, Loss, str, str]] = {
    "bag": (
        nn.EmbeddingBag(5, 3),
        lambda m: m["layer"](WORDS).square().sum(),
        "layer.weight",
        r"take nn\.Embedding, and",
    ),
    "bag, sparse": (
        nn.EmbeddingBag(5, 3, sparse=True),
        lambda m: m["layer"](WORDS).square().sum(),
        "layer.weight",
        r"got 'a sparse gradient'; .* nn\.Embedding in the place of",
    ),
    "sparse": (
        nn.Embedding(5, 3, sparse=True),
        lambda m: m["layer"](WORDS).square().sum(),
        "layer.weight",
        "got 'a sparse gradient'; .* sparse=False",
    ),
    "once, at the end": (
        nn.Identity(),
        lambda m: Once.apply(front(m)).sum(),
        "front.bias",
        "got 'Once'; .* operations",
    ),
    "once, inside": (
        nn.Linear(8, 8),
        lambda m: m["layer"](Once.apply(front(m))).square().sum(),
        "front.bias",
        "got 'Once'",
    ),
    "reentrant": (
        nn.Linear(8, 8),
        lambda m: checkpoint(m["layer"], front(m), use_reentrant=True).sum(),
        "front.bias",
        "checkpoint with use_reentrant=False",
    ),
    "reentrant, first": (
        nn.Linear(8, 8),
        lambda m: m["front"](checkpoint(m["layer"], sequences().requires_grad_(), use_reentrant=True)).square().sum(),
        "model",
        "checkpoint with use_reentrant=False",
    ),
    "ctc": (
        nn.Linear(8, 8),
        lambda m: functional.ctc_loss(
            m["layer"](front(m)).log_softmax(-1), torch.ones(5, 2, dtype=torch.long), [6] * 5, [2] * 5
        ),
        "layer.bias",
        "got 'CtcLoss'",
    ),
    "compiled": (
        nn.Linear(8, 8),
        lambda m: torch.compile(m["layer"], backend="aot_eager")(sequences()).square().sum(),
        "layer.weight",
        r"not what torch\.compile made of it",
    ),
    "attention": (
        nn.MultiheadAttention(8, 2),
        lambda m: m["layer"](*[sequences()] * 3, need_weights=False)[0].square().sum(),
        "layer.in_proj_bias",
        "twice_differentiable",
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of the compiler's own
@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_differentiated_twice_is_named_with_what_to_do(case: str) -> None:
    layer, loss, key, advice = CASES[case]
    model = layers(layer)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = AdaHessian(model.named_parameters())
    with pytest.raises(ConfigError, match=advice) as caught:
        optimizer.backward(loss(model))
    assert caught.value.key == key
    assert "take another optimizer" in str(caught.value) or "sparse=False" in str(caught.value)
    assert all(torch.equal(p, old) and p.grad is None for p, old in zip(model.parameters(), before, strict=True))


def test_frozen_it_is_no_hindrance() -> None:
    model = seeded(Bags)
    model.words.requires_grad_(False)  # type: ignore[union-attr, operator]
    optimizer = AdaHessian(model.named_parameters())
    loss = set_gradients(optimizer, lambda: functional.cross_entropy(model(WORDS), LABELS[:2]))
    optimizer.step()
    assert functional.cross_entropy(model(WORDS), LABELS[:2]) < loss


def test_without_names_a_parameter_is_told_by_its_place_and_shape() -> None:
    model = nn.EmbeddingBag(5, 3)
    optimizer = AdaHessian([{"params": [nn.Parameter(torch.ones(1))]}, {"params": model.parameters()}])
    with pytest.raises(ConfigError, match=r"^group 1, parameter 0 \[5, 3\]: got 'EmbeddingBag'"):
        optimizer.backward(model(WORDS).square().sum())


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (nn.LSTM(8, 4), sequences()),
        (nn.GRU(8, 4), sequences()),
        (nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1), sequences()),
        (nn.Embedding(5, 3), WORDS),
    ],
    ids=lambda value: type(value).__name__,
)
def test_these_can_be(layer: nn.Module, inputs: Tensor) -> None:
    def forward() -> Tensor:
        found = layer(inputs)
        return (found[0] if isinstance(found, tuple) else found).square().sum()  # type: ignore[no-any-return]

    optimizer = AdaHessian(layer.named_parameters())
    set_gradients(optimizer, forward)
    assert any(curvature.any() for curvature in optimizer.curvature.values())


def test_other_errors_are_not_taken_for_it() -> None:
    model = nn.Linear(8, 8)
    optimizer = AdaHessian(model.named_parameters())
    for loss in (lambda: model(sequences()), lambda: model(sequences()).detach().sum()):
        with pytest.raises(RuntimeError, match="scalar outputs|does not require grad"):
            optimizer.backward(loss())
