"""Messages and vectors as bytes. `README.md` beside this file is the specification.

    message   magic "PXE1" | kind: u8 | length: u32 | JSON, at most MESSAGE_BYTES_MAX
    chunk     length: u32 | xxh3: u64 | bytes: CHUNK_ELEMENTS elements of the vector, as the codec writes them

Every length is checked against a bound that is known beforehand before anything is allocated.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pydantic import ValidationError
from xxhash import xxh3_64_intdigest

from p2p_elastic.errors import RemoteProtocolError
from p2p_elastic.protocol.codecs import PIECE
from p2p_elastic.protocol.messages import (
    Aborted,
    Accept,
    Committed,
    Decline,
    Fetch,
    Given,
    Goodbye,
    Heard,
    Inquiry,
    Lane,
    Message,
    Offer,
    Referral,
    Tell,
    Unchanged,
    Verified,
)

MAGIC = b"PXE1"
MESSAGE_BYTES_MAX = 4096
CHUNK_ELEMENTS = 2 * PIECE  # 255 KiB in float32: a link of 26 kB/s still moves one within the idle deadline of 10 s
MESSAGE_HEADER = struct.Struct("!4sBI")
CHUNK_HEADER = struct.Struct("!IQ")

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
    15: Lane,
}
_KIND_OF = {message_type: kind for kind, message_type in KINDS.items()}


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


def chunks(elements: int, lane: int = 0, lanes: int = 1) -> Iterator[slice]:
    """Those chunks of a vector that travel over one of several streams, in the order in which they do."""
    for start in range(lane * CHUNK_ELEMENTS, elements, lanes * CHUNK_ELEMENTS):
        yield slice(start, min(start + CHUNK_ELEMENTS, elements))


def chunk_header(chunk: memoryview) -> bytes:
    """The header that goes before a chunk."""
    return CHUNK_HEADER.pack(len(chunk), xxh3_64_intdigest(chunk))


def check_chunk_length(header: bytes | bytearray, expected: int) -> None:
    """Raises RemoteProtocolError where a chunk announces another length than schema and codec give it."""
    length, _ = CHUNK_HEADER.unpack(header)
    if length != expected:
        raise RemoteProtocolError(f"chunk of {length} bytes; {expected} are due")


def check_chunk(header: bytes | bytearray, chunk: memoryview) -> None:
    """Raises RemoteProtocolError where a chunk was changed on its way."""
    _, digest = CHUNK_HEADER.unpack(header)
    if xxh3_64_intdigest(chunk) != digest:
        raise RemoteProtocolError("checksum of a chunk differs")
