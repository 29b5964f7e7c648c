"""Tensors as a file in the safetensors format, written piece by piece."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from p2p_elastic.checkpoint.disk import CHUNK_BYTES
from p2p_elastic.errors import ConfigError

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.uint16: "U16",
    torch.uint32: "U32",
    torch.uint64: "U64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
}


def safetensors_chunks(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] = MappingProxyType({})
) -> Iterator[bytes | memoryview]:
    """Write tensors in the safetensors format, piece by piece: no copy of the whole is made.

    Source: https://github.com/huggingface/safetensors, "Format".

    Args:
        tensors: contiguous, on the CPU, by name.
        metadata: texts for the header.

    Yields:
        The bytes of the file in their order; tensors as views of their memory.

    Raises:
        ConfigError: if a tensor has a type that the format has no name for.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))  # so that all are aligned
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, tensor in ordered:
        if tensor.dtype not in DTYPES:
            raise ConfigError(name, tensor.dtype, f"a file can hold {', '.join(DTYPES.values())}")
        end = at + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for _, tensor in ordered:
        data = tensor.reshape(-1).view(torch.uint8).numpy().data
        for start in range(0, len(data), CHUNK_BYTES):
            yield data[start : start + CHUNK_BYTES]
