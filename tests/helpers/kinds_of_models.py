"""Models of many kinds, each with what travels of it by default."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.ao.quantization import FakeQuantize, MovingAverageMinMaxObserver
from torch.nn.utils import parametrizations

HALF = torch.bfloat16


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.output = nn.Embedding(5, 3), nn.Linear(3, 5)
        self.output.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.output(self.embedding(tokens))  # type: ignore[no-any-return]


class Transposed(nn.Module):
    """Two layers; the memory of the one's weight is that of the other's, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 4, bias=False), nn.Linear(4, 3, bias=False)
        self.outer.weight = nn.Parameter(self.inner.weight.detach().t())

    def forward(self, inputs: Tensor) -> Tensor:
        return self.outer(self.inner(inputs))  # type: ignore[no-any-return]


class Attending(nn.Module):
    """A layer with a causal mask of -inf."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(4, 4)
        self.register_buffer("mask", torch.full((3, 3), -math.inf).triu(1))

    def forward(self, inputs: Tensor) -> Tensor:
        return (self.query(inputs) @ inputs.mT + self.mask).softmax(-1) @ inputs


class Rotary(nn.Module):
    """A layer with a table of complex numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("table", torch.polar(torch.ones(2), torch.arange(2.0)))

    def forward(self, inputs: Tensor) -> Tensor:
        turned = torch.view_as_complex(self.linear(inputs).view(*inputs.shape[:-1], 2, 2)) * self.table
        return torch.view_as_real(turned).flatten(-2)


class LoRA(nn.Module):
    """A frozen layer beside two factors that train."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(2, base.in_features))
        self.b = nn.Parameter(torch.zeros(base.out_features, 2))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.base(inputs) + inputs @ self.a.t() @ self.b.t()  # type: ignore[no-any-return]


class Scalars(nn.Module):
    """Parameters of no dimension, and of no element."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(1.0))
        self.nothing = nn.Parameter(torch.empty(0, 4))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.scale + self.shift + self.nothing.sum()


class Lists(nn.Module):
    """A list and a dictionary of parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.of = nn.ParameterList([nn.Parameter(torch.randn(4)) for _ in range(2)])
        self.by = nn.ParameterDict({"b": nn.Parameter(torch.randn(4)), "a": nn.Parameter(torch.randn(1))})

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.of[0] + self.of[1] * self.by["b"] + self.by["a"]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 3, batch_first=True)
        self.lstm.flatten_parameters()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.lstm(inputs)[0]  # type: ignore[no-any-return]


class Repeated(nn.Module):
    """One layer in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = self.first

    def forward(self, inputs: Tensor) -> Tensor:
        return self.again(self.first(inputs).relu())  # type: ignore[no-any-return]


class Mixed(nn.Sequential):
    """Layers of three types."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 3), nn.Linear(3, 2).to(HALF), nn.Linear(2, 2).double(), nn.Linear(2, 2))

    def forward(self, inputs: Tensor) -> Tensor:
        for layer in self:
            inputs = layer(inputs.to(layer.weight.dtype))
        return inputs


def lazy() -> nn.Module:
    model = nn.Sequential(nn.LazyConv1d(2, 2), nn.LazyBatchNorm1d(), nn.Flatten(), nn.LazyLinear(2))
    model(torch.randn(2, 3, 4))
    return model


def compiled_within() -> nn.Module:
    return nn.Sequential(torch.compile(nn.Linear(4, 3)), nn.Linear(3, 2))  # type: ignore[arg-type]


def first_frozen(*layers: nn.Module) -> nn.Module:
    layers[0].requires_grad_(False)
    return nn.Sequential(*layers)


def rows(*shape: int, dtype: torch.dtype = torch.float32) -> Callable[[], Tensor]:
    return lambda: torch.randn(*shape).to(dtype)


def tokens() -> Tensor:
    return torch.randint(0, 5, (6,))


def observer() -> nn.Module:
    return FakeQuantize.with_args(observer=MovingAverageMinMaxObserver)()  # type: ignore[no-any-return]


class Kind(NamedTuple):
    """A model, a batch for it, the names that travel, and how many elements they have.

    `raw` gives what is called instead of the model: compiling takes seconds.
    """

    make: Callable[[], nn.Module]
    batch: Callable[[], Tensor]
    names: str
    elements: int
    raw: Callable[[nn.Module], nn.Module] = lambda model: model


NORM_1D = "1.weight 1.bias 1.running_mean 1.running_var"
ENCODER = (
    *("self_attn.in_proj_weight", "self_attn.in_proj_bias", "self_attn.out_proj.weight", "self_attn.out_proj.bias"),
    *("linear1.weight", "linear1.bias", "linear2.weight", "linear2.bias"),
    *("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"),
)
KINDS = {
    "linear": Kind(lambda: nn.Linear(4, 3), rows(5, 4), "weight bias", 15),
    "sequential in sequential": Kind(
        lambda: nn.Sequential(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), nn.Linear(3, 2)),
        rows(5, 4),
        "0.0.weight 0.0.bias 1.weight 1.bias",
        23,
    ),
    "tied": Kind(Tied, tokens, "embedding.weight output.bias", 20),
    "tied, transposed": Kind(Transposed, rows(5, 3), "inner.weight", 12),
    "one layer twice": Kind(Repeated, rows(5, 4), "first.weight first.bias", 20),
    "embedding only": Kind(lambda: nn.Embedding(5, 3), tokens, "weight", 15),
    "frozen": Kind(lambda: first_frozen(nn.Linear(4, 4), nn.Linear(4, 2)), rows(5, 4), "1.weight 1.bias", 10),
    "LoRA": Kind(lambda: LoRA(nn.Linear(4, 3)), rows(5, 4), "a b", 14),
    "LoRA on bfloat16": Kind(lambda: LoRA(nn.Linear(4, 3)).to(HALF), rows(5, 4, dtype=HALF), "a b", 14),
    "batch norm": Kind(
        lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)),
        rows(5, 4),
        "0.weight 0.bias 1.weight 1.bias 1.running_mean 1.running_var",
        27,
    ),
    "batch norm, frozen": Kind(
        lambda: first_frozen(nn.BatchNorm1d(4), nn.Linear(4, 2)), rows(5, 4), "1.weight 1.bias", 10
    ),
    "batch norm without statistics": Kind(
        lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False)),
        rows(5, 4),
        "0.weight 0.bias 1.weight 1.bias",
        21,
    ),
    "group norm": Kind(
        lambda: nn.Sequential(nn.Conv1d(2, 4, 1), nn.GroupNorm(2, 4)),
        rows(5, 2, 3),
        "0.weight 0.bias 1.weight 1.bias",
        20,
    ),
    "layer norm": Kind(
        lambda: nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)), rows(5, 4), "0.weight 0.bias 1.weight 1.bias", 21
    ),
    "instance norm": Kind(
        lambda: nn.Sequential(nn.Conv1d(2, 4, 1), nn.InstanceNorm1d(4, track_running_stats=True)),
        rows(5, 2, 3),
        "0.weight 0.bias 1.running_mean 1.running_var",
        20,
    ),
    "spectral norm": Kind(
        lambda: parametrizations.spectral_norm(nn.Linear(4, 3)), rows(5, 4), "bias parametrizations.weight.original", 15
    ),
    "weight norm": Kind(
        lambda: parametrizations.weight_norm(nn.Linear(4, 3)),
        rows(5, 4),
        "bias parametrizations.weight.original0 parametrizations.weight.original1",
        18,
    ),
    "orthogonal": Kind(
        lambda: parametrizations.orthogonal(nn.Linear(4, 4)), rows(5, 4), "bias parametrizations.weight.original", 20
    ),
    "quantization observers": Kind(
        lambda: nn.Sequential(nn.Linear(4, 3), observer()), rows(5, 4), "0.weight 0.bias", 15
    ),
    "causal mask": Kind(Attending, rows(5, 3, 4), "query.weight query.bias", 20),
    "rotary table": Kind(Rotary, rows(5, 4), "linear.weight linear.bias", 20),
    "no dimension, no element": Kind(Scalars, rows(5, 4), "scale shift nothing", 2),
    "lists": Kind(Lists, rows(5, 4), "of.0 of.1 by.a by.b", 13),
    "channels last": Kind(
        lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3)).to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        rows(5, 2, 4, 4),
        f"0.weight 0.bias {NORM_1D}",
        39,
    ),
    "compiled": Kind(
        lambda: torch.compile(nn.Linear(4, 3)),  # type: ignore[arg-type, return-value]
        rows(5, 4),
        "weight bias",
        15,
        lambda model: model.get_submodule("_orig_mod"),
    ),
    "compiled within": Kind(
        compiled_within,
        rows(5, 4),
        "0.weight 0.bias 1.weight 1.bias",
        23,
        lambda model: nn.Sequential(model.get_submodule("0._orig_mod"), model.get_submodule("1")),
    ),
    "parallel": Kind(lambda: nn.DataParallel(nn.Linear(4, 3)), rows(5, 4), "weight bias", 15),
    "bfloat16": Kind(
        lambda: nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)).to(HALF),
        rows(5, 4, dtype=HALF),
        "0.weight 0.bias 1.weight 1.bias",
        21,
    ),
    "float16": Kind(lambda: nn.Linear(4, 3).half(), rows(5, 4, dtype=torch.float16), "weight bias", 15),
    "float64": Kind(
        lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double(),
        rows(5, 4, dtype=torch.float64),
        f"0.weight 0.bias {NORM_1D}",
        27,
    ),
    "mixed types": Kind(
        Mixed, rows(5, 4), " ".join(f"{n}.{name}" for n in range(4) for name in ("weight", "bias")), 35
    ),
    "LSTM": Kind(Recurrent, rows(5, 2, 4), "lstm.weight_ih_l0 lstm.weight_hh_l0 lstm.bias_ih_l0 lstm.bias_hh_l0", 108),
    "transformer encoder": Kind(
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2),
        rows(5, 3, 4),
        " ".join(f"layers.{n}.{name}" for n in range(2) for name in ENCODER),
        344,
    ),
    "transposed convolution, PReLU": Kind(
        lambda: nn.Sequential(nn.ConvTranspose1d(2, 3, 2), nn.PReLU()), rows(5, 2, 4), "0.weight 0.bias 1.weight", 16
    ),
    "lazy, after a forward pass": Kind(
        lazy, rows(5, 3, 4), "0.weight 0.bias 1.weight 1.bias 3.weight 3.bias 1.running_mean 1.running_var", 36
    ),
}
