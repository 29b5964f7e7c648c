"""Messages and vectors as bytes. `README.md` beside this file is the specification.

    message   magic "PXE1" | kind: u8 | length: u32 | JSON, at most MESSAGE_BYTES_MAX
    chunk     length: u32 | crc32: u32 | bytes, at most CHUNK_BYTES

Every length is checked against a bound that is known beforehand before anything is allocated.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from pydantic import ValidationError

from p2p_elastic.errors import RemoteProtocolError
from p2p_elastic.messages import (
    Aborted,
    Accept,
    Committed,
    Decline,
    Fetch,
    Given,
    Goodbye,
    Heard,
    Inquiry,
    Message,
    Offer,
    Referral,
    Tell,
    Unchanged,
    Verified,
)

MAGIC = b"PXE1"
MESSAGE_BYTES_MAX = 4096
CHUNK_BYTES = 1 << 18  # a link of 26 kB/s still moves one chunk within the idle deadline of 10 s
MESSAGE_HEADER = struct.Struct("!4sBI")
CHUNK_HEADER = struct.Struct("!II")

KINDS: dict[int, type[Message]] = {
    1: Offer,
    2: Accept,
    3: Decline,
    4: Verified,
    5: Committed,
    6: Aborted,
    7: Inquiry,
    8: Fetch,
    9: Given,
    10: Unchanged,
    11: Referral,
    12: Tell,
    13: Goodbye,
    14: Heard,
}
_KIND_OF = {message_type: kind for kind, message_type in KINDS.items()}


class Piece(NamedTuple):
    """Where one chunk lies in the vector, in bytes."""

    start: int
    stop: int


def pack(message: Message) -> bytes:
    """A message as bytes, header included."""
    body = message.model_dump_json().encode()
    assert len(body) <= MESSAGE_BYTES_MAX, f"{type(message).__name__} of {len(body)} bytes"
    return MESSAGE_HEADER.pack(MAGIC, _KIND_OF[type(message)], len(body)) + body


def unpack_header(header: bytes) -> tuple[type[Message], int]:
    """The message's type and the length of its body. Raises RemoteProtocolError."""
    magic, kind, length = MESSAGE_HEADER.unpack(header)
    if magic != MAGIC:
        raise RemoteProtocolError(f"not a message of this protocol: starts with {magic!r}")
    if kind not in KINDS:
        raise RemoteProtocolError(f"unknown kind of message: {kind}")
    if length > MESSAGE_BYTES_MAX:
        raise RemoteProtocolError(f"message of {length} bytes; at most {MESSAGE_BYTES_MAX} are allowed")
    return KINDS[kind], length


def unpack_body(message_type: type[Message], body: bytes) -> Message:
    """The message, checked field by field. Raises RemoteProtocolError."""
    try:
        return message_type.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        # A stranger's own words end in logs and on terminals: few of them, and only what can be printed.
        where = ascii(".".join(map(str, first["loc"])))[1:-1][:60] or "body"
        raise RemoteProtocolError(f"malformed {message_type.__name__}: {where}: {first['msg']}") from error


def pieces(nbytes: int) -> Iterator[Piece]:
    """The chunks of a vector of `nbytes`, in the order in which they travel."""
    for start in range(0, nbytes, CHUNK_BYTES):
        yield Piece(start, min(start + CHUNK_BYTES, nbytes))


def chunk_header(chunk: memoryview) -> bytes:
    """The header that goes before a chunk."""
    return CHUNK_HEADER.pack(len(chunk), zlib.crc32(chunk))


def check_chunk_length(header: bytes, expected: int) -> None:
    """Raises RemoteProtocolError where a chunk announces another length than the schema gives it."""
    length, _ = CHUNK_HEADER.unpack(header)
    if length != expected:
        raise RemoteProtocolError(f"chunk of {length} bytes where {expected} are due")


def check_chunk(header: bytes, chunk: memoryview) -> None:
    """Raises RemoteProtocolError where a chunk was changed on its way."""
    _, digest = CHUNK_HEADER.unpack(header)
    if zlib.crc32(chunk) != digest:
        raise RemoteProtocolError("checksum of a chunk differs")
