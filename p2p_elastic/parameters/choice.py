"""What of a model travels, and what cannot."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from p2p_elastic.errors import ConfigError
from p2p_elastic.parameters.memory import is_wrapper, overlaps_itself

TRAVELS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
STATISTICS = ("running_mean", "running_var")
Exchange = Literal["trainable", "all"] | Callable[[str, Tensor], bool] | Collection[str]
"""What travels.

"trainable": the parameters that require a gradient, and the running statistics of normalisation layers that train.
"all": every floating-point parameter, and every persistent floating-point buffer.
A function of name and tensor that says so, asked about the tensors of "all".
Names.
"""


class Named(NamedTuple):
    """One tensor of a model.

    Attributes:
        owner: the module that has it.
        attribute: its name there, such as "weight".
        key: its name in the model's `state_dict`.
        name: the same without the names of wrappers, such as that of `torch.compile`.
        tensor: it.
        is_parameter: False for a buffer.
        is_persistent: False for a buffer that is not in the `state_dict`.
    """

    owner: nn.Module
    attribute: str
    key: str
    name: str
    tensor: Tensor
    is_parameter: bool
    is_persistent: bool


def all_names(model: nn.Module) -> Iterator[Named]:
    """List every tensor of a model under every name that it has.

    Args:
        model: is not changed.

    Yields:
        Parameters in the order of `named_parameters`, then buffers in that of `named_buffers`.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    plain = {"": ""}
    for path in modules:
        if path:
            parent, _, last = path.rpartition(".")
            plain[path] = plain[parent] if _wraps(modules[parent], last) else f"{plain[parent]}{last}."
    for is_parameter in (True, False):
        for path, owner in modules.items():
            held = owner._parameters if is_parameter else owner._buffers
            start = f"{path}." if path else ""
            for attribute, tensor in held.items():
                if tensor is not None:
                    persistent = is_parameter or attribute not in owner._non_persistent_buffers_set
                    name = plain[path] + attribute
                    yield Named(owner, attribute, start + attribute, name, tensor, is_parameter, persistent)


def _wraps(parent: nn.Module, child: str) -> bool:
    """Whether a module is only there to run its child otherwise. `module` is a name that models have, too."""
    if child == "module":
        return isinstance(parent, (nn.DataParallel, DistributedDataParallel))
    return child in ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")


def choose(model: nn.Module, tensors: Collection[Named], exchange: Exchange) -> list[Named]:
    """Choose the tensors that travel.

    Args:
        model: that has them.
        tensors: all of it, each once.
        exchange: what is to travel.

    Returns:
        Those that travel, in their order.

    Raises:
        ConfigError: for a name that the model does not have, or a tensor that was chosen and cannot be exchanged.
    """
    if isinstance(exchange, str):
        if exchange not in ("trainable", "all"):
            raise ConfigError("exchange", exchange, "'trainable', 'all', names, or a function of name and tensor")
        trains = _Training(model).trains
        chosen = [n for n in tensors if _may_travel(n) and (exchange == "all" or trains(n))]
    elif callable(exchange):
        chosen = [n for n in tensors if _may_travel(n) and exchange(n.name, n.tensor)]
    else:
        chosen = _by_names(model, tensors, exchange)
    for named in chosen:
        _check(named)
    return chosen


def _may_travel(named: Named) -> bool:
    """False for counters, tables of complex numbers, and caches."""
    tensor = named.tensor
    if is_lazy(tensor) or tensor.is_floating_point():
        return named.is_persistent
    return tensor.is_complex() and tensor.requires_grad  # to be refused, rather than trained by each peer alone


def _by_names(model: nn.Module, tensors: Collection[Named], names: Collection[str]) -> list[Named]:
    known = dict[str, int]()
    for named in all_names(model):
        if named.is_persistent:
            known.update({named.key: id(named.tensor), named.name: id(named.tensor)})
    for name in names:
        if name not in known:
            near = ", ".join(difflib.get_close_matches(str(name), known, n=3, cutoff=0.5))
            raise ConfigError("exchange", name, f"names of the model's tensors{f', such as {near}' if near else ''}")
    wanted = {known[name] for name in names}
    return [named for named in tensors if id(named.tensor) in wanted]


class _Training:
    """Which tensors of a model training changes."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = dict(model.named_modules())

    def trains(self, named: Named) -> bool:
        """Whether an optimizer changes this parameter, or a forward pass these statistics."""
        if named.is_parameter:
            return named.tensor.requires_grad
        if named.attribute not in STATISTICS:
            return False
        layer = named.owner
        if any(True for _ in layer.parameters()):
            is_norm = isinstance(layer, _NormBase) or all(
                isinstance(getattr(layer, s, None), Tensor) for s in STATISTICS
            )
            return is_norm and _has_gradients(layer)
        return isinstance(layer, _NormBase) and self._around_trains(named.key)

    def _around_trains(self, key: str) -> bool:
        """Of a layer without parameters, whether those train that are the nearest around it."""
        path = key.rpartition(".")[0]
        while path:
            path = path.rpartition(".")[0]
            around = self._modules.get(path)
            if around is not None and any(True for _ in around.parameters()):
                return _has_gradients(around)
        return False


def _has_gradients(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())


# -- what cannot be exchanged -----------------------------------------------------------------------------------------

REFUSED: tuple[tuple[Callable[[Tensor], bool], str, str], ...] = (
    (
        is_lazy,
        "a lazy tensor, still without a shape",
        "run one forward pass first: that gives lazy layers their shapes",
    ),
    (
        lambda tensor: tensor.is_nested,
        "a nested tensor",
        "tensors of one shape each: register its parts as parameters of their own",
    ),
    (
        is_wrapper,
        "a tensor that is sharded, quantized or wrapped by a class of its own",
        "plain tensors: take the whole model before it is sharded or quantized",
    ),
    (lambda tensor: tensor.layout != torch.strided, "a sparse or packed tensor", "dense tensors: use .to_dense()"),
    (
        lambda tensor: tensor.is_meta,
        "a tensor on the meta device, without values",
        "materialize the model first: model.to_empty(device=...), and then load or initialize its values",
    ),
    (
        lambda tensor: tensor.numel() > 0 and tensor.untyped_storage().nbytes() == 0,
        "a tensor whose memory was freed, as sharding does",
        "the whole model: gather it first",
    ),
    (
        lambda tensor: tensor.is_inference(),
        "a tensor made in inference mode, which cannot be changed outside of it",
        "make or load the model outside of torch.inference_mode()",
    ),
    (
        overlaps_itself,
        "a tensor whose elements share memory, such as an expanded one",
        "elements of their own: use .contiguous(), or .clone()",
    ),
)
"""Of tensors in floating point: the kind, what it is called, and what may be given instead."""


def _check(named: Named) -> None:
    """Raise ConfigError for what cannot be exchanged."""
    tensor, name = named.tensor, named.name
    if not is_lazy(tensor) and tensor.is_complex():
        raise ConfigError(name, tensor.dtype, "real parameters; complex ones cannot be exchanged")
    if not is_lazy(tensor) and not tensor.is_floating_point():
        raise ConfigError(name, tensor.dtype, "a floating-point tensor: leave it out of exchange")
    for holds, got, instead in REFUSED:
        if holds(tensor):
            raise ConfigError(name, got, instead)
    if tensor.dtype not in TRAVELS:
        types = ", ".join(str(dtype).removeprefix("torch.") for dtype in TRAVELS)
        local = "keep it local: register_buffer(..., persistent=False)"
        raise ConfigError(name, tensor.dtype, f"one of {types}: cast it with .to(), or {local}")
