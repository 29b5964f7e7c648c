"""A hash of the parameters that do not travel: peers that train adapters need the same base."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from p2p_elastic.parameters.memory import is_wrapper

PIECE_BYTES = 1 << 24  # that are copied from a GPU, or made contiguous, at once


def hash_of(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Hash names, shapes, types and values.

    Of a tensor without memory of its own, such as one on the meta device, the values do not count.

    Args:
        tensors: by name, on any device; their order does not matter.

    Returns:
        32 hexadecimal digits; "" if there are no tensors.
    """
    ordered = sorted(tensors, key=lambda item: item[0])
    if not ordered:
        return ""
    said = hashlib.sha256()
    for name, tensor in ordered:
        said.update(json.dumps([name, list(tensor.shape), str(tensor.dtype)]).encode())
        for piece in _values(tensor.detach()):
            said.update(piece.cpu().reshape(-1).view(torch.uint8).numpy().data)
    return said.hexdigest()[:32]


def _values(tensor: Tensor) -> Iterator[Tensor]:
    if is_wrapper(tensor):
        inner = getattr(tensor, "__tensor_flatten__", None)
        for name in inner()[0] if inner is not None else ():
            yield from _values(getattr(tensor, name))
    elif tensor.is_nested:
        for part in tensor.unbind():
            yield from _pieces(part)
    elif tensor.layout != torch.strided:
        yield from _pieces(tensor.to_dense())
    elif not tensor.is_meta and tensor.numel():
        yield from _pieces(tensor)


def _pieces(tensor: Tensor) -> Iterator[Tensor]:
    """The elements in order, in contiguous pieces of bounded size."""
    if tensor.nbytes <= PIECE_BYTES or tensor.dim() == 0:
        yield tensor.resolve_conj().resolve_neg().contiguous()
        return
    rows = PIECE_BYTES * len(tensor) // tensor.nbytes
    for part in torch.split(tensor, rows) if rows else tensor.unbind():
        yield from _pieces(part)
