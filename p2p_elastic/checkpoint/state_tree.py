"""Nested states, as `state_dict()` gives them, as JSON and tensors: what a checkpoint holds, without pickle.

What JSON has stays as it is. All else is an object with one key that says its kind:

    {"tensor": NAME}            in the tensors, by that name; {"array": NAME} was a NumPy array
    {"dict": [[KEY, VALUE]]}    keys may be numbers or tuples, too
    {"counter": [[KEY, N]]}     a collections.Counter, such as the milestones of MultiStepLR
    {"tuple": [VALUE]}, {"set": [VALUE]}, {"float": "inf"}, {"bytes": HEX}

A list is a JSON list.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor

from p2p_elastic.errors import ConfigError

DEPTH_MAX = 100
Tensors = dict[str, Tensor]


def pack(state: object, name: str) -> tuple[JsonValue, Tensors]:
    """Copy a state into JSON and tensors.

    Args:
        state: made of dicts, lists, tuples, sets, numbers, texts, bytes, None, tensors and NumPy arrays.
        name: of the whole, such as "scheduler"; names of tensors begin with it.

    Returns:
        What `unpack` needs: JSON, and copies of the tensors on the CPU by name.

    Raises:
        ConfigError: if a part of it is anything else; it says which.

    Example:
        >>> pack({"best": float("inf"), 0: (1, 2)}, "scheduler")[0]
        {'dict': [['best', {'float': 'inf'}], [0, {'tuple': [1, 2]}]]}
    """
    tensors: Tensors = {}
    return _packed(state, name, tensors, 0), tensors


def _packed(value: object, name: str, tensors: Tensors, depth: int) -> JsonValue:
    if depth > DEPTH_MAX:
        raise ConfigError("state", name, f"at most {DEPTH_MAX} levels deep; does it contain itself?")

    def inner(part: object, key: object) -> JsonValue:
        return _packed(part, f"{name}.{key}", tensors, depth + 1)

    if isinstance(value, (Tensor, np.ndarray)):
        name += "'" * (name in tensors)  # a dict may have 1 and "1" as keys
        is_tensor = isinstance(value, Tensor)
        tensors[name] = _copy(value if isinstance(value, Tensor) else _as_tensor(value, name), name)
        return {"tensor" if is_tensor else "array": name}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, str):
        return value  # type: ignore[return-value]
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, Mapping):
        kind = "counter" if isinstance(value, Counter) else "dict"
        parts = [(key, part) for key, part in value.items() if not _is_own_code(part)]
        return {kind: [[inner(key, "key"), inner(part, key)] for key, part in parts]}
    if isinstance(value, list):
        return [inner(part, at) for at, part in enumerate(value)]
    if isinstance(value, tuple):
        return {"tuple": [inner(part, at) for at, part in enumerate(value)]}
    if isinstance(value, (set, frozenset)):
        return {"set": [inner(part, at) for at, part in enumerate(value)]}
    allowed = (
        "dicts, lists, tuples, sets, numbers, texts, bytes, None, tensors and NumPy arrays: a checkpoint holds no code"
    )
    raise ConfigError("state", f"{name} is a {type(value).__qualname__}", allowed)


def _is_own_code(value: object) -> bool:
    """Whether it is a function of PyTorch's schedulers: OneCycleLR before 2.4 has one in its state."""
    return callable(value) and getattr(value, "__module__", None) == torch.optim.lr_scheduler.__name__


def unpack(packed: JsonValue, tensors: Mapping[str, Tensor]) -> Any:
    """Build the state again.

    Args:
        packed: JSON, as `pack` gave it.
        tensors: by name.

    Returns:
        The state: equal to the one that was packed; mappings are dicts or Counters.

    Raises:
        ValueError: if it is no such JSON.
        KeyError: if a tensor is missing.
    """
    if isinstance(packed, list):
        return [unpack(part, tensors) for part in packed]
    if not isinstance(packed, dict):
        return packed
    if len(packed) != 1:
        raise ValueError(f"a state has an object of {len(packed)} keys")
    ((kind, value),) = packed.items()
    if kind not in _BUILT:
        raise ValueError(f"a state has a part of the unknown kind {kind[:40]!r}")
    return _BUILT[kind](value, tensors)


def _pairs(value: Any, tensors: Mapping[str, Tensor]) -> dict[Any, Any]:
    return {unpack(key, tensors): unpack(part, tensors) for key, part in value}


def _every(value: Any, tensors: Mapping[str, Tensor]) -> list[Any]:
    return [unpack(part, tensors) for part in value]


_BUILT: Mapping[str, Callable[[Any, Mapping[str, Tensor]], Any]] = {
    "tensor": lambda name, tensors: tensors[name],
    "array": lambda name, tensors: tensors[name].numpy(),
    "dict": _pairs,
    "counter": lambda value, tensors: Counter(_pairs(value, tensors)),
    "tuple": lambda value, tensors: tuple(_every(value, tensors)),
    "set": lambda value, tensors: set(_every(value, tensors)),
    "float": lambda value, _: float(value),
    "bytes": lambda value, _: bytes.fromhex(value),
}


def _as_tensor(array: np.ndarray[Any, Any], name: str) -> Tensor:
    try:
        return torch.from_numpy(np.ascontiguousarray(array)).reshape(array.shape)
    except TypeError as error:
        raise ConfigError("state", f"{name} is an array of {array.dtype}", "arrays of numbers") from error


def _copy(tensor: Tensor, name: str) -> Tensor:
    """A contiguous copy on the CPU; of tensors in the same memory each has its own."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        raise ConfigError(
            "state", f"{name} is a {tensor.layout} tensor on {tensor.device}", "dense tensors with values"
        )
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
