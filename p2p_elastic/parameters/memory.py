"""Which elements in memory a tensor has, and which of them it has in common with others."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy


def is_wrapper(tensor: Tensor) -> bool:
    """Say whether a subclass does the arithmetic, such as a DTensor or a quantized weight: it is no piece of memory.

    Args:
        tensor: of any class.

    Returns:
        True if its class dispatches operations by itself.
    """
    return type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__


def is_piece(tensor: Tensor) -> bool:
    """Say whether a tensor is elements in memory, at places that can be compared with others.

    Args:
        tensor: of any kind.

    Returns:
        False for one without elements, without memory, or with a layout or an arithmetic of its own.
    """
    if is_lazy(tensor) or is_wrapper(tensor) or tensor.is_nested or tensor.layout != torch.strided or tensor.is_meta:
        return False
    return tensor.numel() > 0 and tensor.untyped_storage().nbytes() > 0


def region(tensor: Tensor) -> object:
    """Say which elements in memory a tensor has, to compare it with others.

    Args:
        tensor: in any shape.

    Returns:
        Equal for two tensors if they have the same elements in memory, in any shape; None if there are no elements.
    """
    if not tensor.numel():
        return None
    # A dense tensor has every element of its memory, so that first element and count say which.
    layout = None if reach_of(tensor) == tensor.numel() else (tensor.shape, tensor.stride())
    return tensor.device, place(tensor), tensor.dtype, tensor.is_neg(), tensor.numel(), layout


def place(tensor: Tensor) -> tuple[int, int]:
    """Say where a tensor begins. Only within a storage do addresses say what is beside what.

    Args:
        tensor: a piece of memory.

    Returns:
        The address of its storage, and its offset there, in bytes.
    """
    return tensor.untyped_storage().data_ptr(), int(tensor.storage_offset()) * tensor.itemsize


def reach_of(tensor: Tensor) -> int:
    """Measure a tensor from its first element in memory up to and with the last one.

    Args:
        tensor: with at least one element.

    Returns:
        Elements.
    """
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _offsets(tensor: Tensor) -> Tensor:
    """The offsets of all elements, in elements from the first one in memory."""
    return torch.arange(reach_of(tensor)).as_strided(tensor.shape, tensor.stride()).flatten()


def overlaps_itself(tensor: Tensor) -> bool:
    """Say whether two elements of a tensor share memory, as those of an expanded one do.

    Args:
        tensor: a piece of memory.

    Returns:
        True if they do.
    """
    if tensor.is_contiguous():
        return False
    dimensions = sorted((stride, size) for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1)
    if dimensions[0][0] == 0:
        return True
    reach = 0
    for stride, size in dimensions:
        if stride <= reach:  # the elements of one row lie between those of another, or on them
            return len(set(_offsets(tensor).tolist())) < tensor.numel()
        reach += stride * (size - 1)
    return False


def overlap(before: Tensor, after: Tensor) -> bool:
    """Say whether two tensors have an element in common.

    Args:
        before: the one that begins first.
        after: of the same storage, beginning within the reach of `before`.

    Returns:
        True if they do.
    """
    if reach_of(before) == before.numel() or before.dtype != after.dtype:
        return True
    distance = after.storage_offset() - before.storage_offset()
    return bool(torch.isin(_offsets(after) + distance, _offsets(before)).any())
