"""A batch: a tensor, or tuples, lists and dicts of tensors, as a `DataLoader` puts it together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

Batch: TypeAlias = Any
"""A tensor, or tuples, lists and dicts (also named tuples) that have tensors somewhere inside."""


def mapped(function: Callable[..., Any], *batches: Batch) -> Batch:
    """Apply a function to the leaves of batches that are built in the same way.

    Args:
        function: takes a leaf of each batch: a tensor, or whatever else is neither a container nor a text.
        *batches: at least one.

    Returns:
        What it gave, in the same containers.

    Example:
        >>> mapped(lambda a, b: a + b, {"x": (1, 2)}, {"x": (10, 20)})
        {'x': (11, 22)}
    """
    like = batches[0]
    if isinstance(like, Mapping):
        return {key: mapped(function, *(batch[key] for batch in batches)) for key in like}
    if isinstance(like, (tuple, list)):
        parts = [mapped(function, *same) for same in zip(*batches, strict=True)]
        return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)
    return function(*batches)


def to(batch: Batch, device: torch.device | str) -> Batch:
    """Move a batch to a device.

    Args:
        batch: what has no method `to`, such as a text, stays as it is.
        device: for its tensors.

    Returns:
        The batch there.
    """
    if hasattr(batch, "to"):  # a tensor, a packed sequence, an encoding of transformers
        return batch.to(device)
    return mapped(lambda leaf: leaf.to(device) if hasattr(leaf, "to") else leaf, batch)


def tensors(batch: Batch) -> Iterator[Tensor]:
    """List the tensors of a batch.

    Args:
        batch: any.

    Yields:
        Its tensors.
    """
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, (Mapping, tuple, list)):
        for part in batch.values() if isinstance(batch, Mapping) else batch:
            yield from tensors(part)


def first(batch: Batch, examples: int) -> Batch:
    """Take the first examples of a batch.

    Args:
        batch: if its tensors do not all have the same length, nobody knows where an example ends.
        examples: as many at most.

    Returns:
        The smaller batch; the whole one if it cannot be divided.

    Example:
        >>> first((torch.arange(5), {"y": torch.arange(5)}), 2)
        (tensor([0, 1]), {'y': tensor([0, 1])})
    """
    lengths = {len(tensor) if tensor.dim() else 0 for tensor in tensors(batch)}
    if len(lengths) != 1 or lengths <= set(range(examples + 1)):
        return batch
    return mapped(lambda leaf: leaf[:examples] if isinstance(leaf, Tensor) else leaf, batch)


def stacked(batches: Sequence[Batch]) -> Batch:
    """Stack batches of the same shapes.

    Args:
        batches: of several workers.

    Returns:
        One batch whose tensors have a first dimension more.
    """
    return mapped(lambda *leaves: torch.stack(leaves) if isinstance(leaves[0], Tensor) else leaves[0], *batches)
