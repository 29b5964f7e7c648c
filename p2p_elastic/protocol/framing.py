"""Messages and vectors as bytes. `docs/protocol/messages.md` is the specification.

    message   magic "PXE1" | kind: u8 | length: u32 | JSON, at most MESSAGE_BYTES_MAX
    chunk     length: u32 | xxh3: u64 | bytes: CHUNK_ELEMENTS elements of the vector, as the codec writes them; over a
              direct connection the bytes alone: their number is known, and each chunk is sealed

Every length is checked against a bound that is known beforehand before anything is allocated.
"""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Iterator

from pydantic import ValidationError
from xxhash import xxh3_64_intdigest

from p2p_elastic.errors import RemoteProtocolError
from p2p_elastic.protocol.blocks import PIECE
from p2p_elastic.protocol.messages import (
    PROTOCOL_VERSION,
    Aborted,
    Accept,
    Committed,
    Decline,
    Describe,
    Described,
    Fetch,
    Given,
    Goodbye,
    Heard,
    Inquiry,
    Lane,
    Message,
    Offer,
    Referral,
    Route,
    Tell,
    Unchanged,
    Verified,
)

MAGIC = b"PXE1"
MESSAGE_BYTES_MAX = 4096
CHUNK_ELEMENTS = 2 * PIECE  # 255 KiB in float32: 8 s at 256 kbit/s, so a chunk's deadline grows with its bytes
CHUNK_BYTES_MAX = 4 * CHUNK_ELEMENTS
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
    16: Describe,
    17: Described,
    18: Route,
}
_KIND_OF = {message_type: kind for kind, message_type in KINDS.items()}


def pack(message: Message) -> bytes:
    """Write a message as bytes.

    Args:
        message: of one of KINDS.

    Returns:
        Header and JSON; the JSON has at most MESSAGE_BYTES_MAX bytes.
    """
    silent = {"direct"} if getattr(message, "direct", "") is None else None  # nearly all small messages: it is left out
    body = message.model_dump_json(exclude=silent).encode()
    assert len(body) <= MESSAGE_BYTES_MAX, f"{type(message).__name__} of {len(body)} bytes"
    return MESSAGE_HEADER.pack(MAGIC, _KIND_OF[type(message)], len(body)) + body


def unpack_header(header: bytes) -> tuple[type[Message], int]:
    """Read the header of a message.

    Args:
        header: MESSAGE_HEADER.size bytes.

    Returns:
        The message's type, and the length of its body in bytes.

    Raises:
        RemoteProtocolError: if it is no message of this protocol, of no known kind, or longer than MESSAGE_BYTES_MAX.

    Example:
        >>> packed = pack(Committed(id="0" * 32))
        >>> unpack_header(packed[: MESSAGE_HEADER.size])
        (<class 'p2p_elastic.protocol.messages.Committed'>, 41)
    """
    magic, kind, length = MESSAGE_HEADER.unpack(header)
    if magic != MAGIC:
        raise RemoteProtocolError(f"not a message of this protocol: starts with {magic!r}")
    if kind not in KINDS:
        raise RemoteProtocolError(f"unknown kind of message: {kind}")
    if length > MESSAGE_BYTES_MAX:
        raise RemoteProtocolError(f"message of {length} bytes; at most {MESSAGE_BYTES_MAX} are allowed")
    return KINDS[kind], length


def unpack_body(message_type: type[Message], body: bytes) -> Message:
    """Read the body of a message, checked field by field.

    Args:
        message_type: as the header says.
        body: JSON.

    Returns:
        The message.

    Raises:
        RemoteProtocolError: if a field is missing, unknown or out of its bounds; names the first such field.
    """
    try:
        return message_type.model_validate_json(body)
    except ValidationError as error:
        with contextlib.suppress(ValidationError, ValueError, RecursionError):
            return _of_another_version(message_type, body)
        first = error.errors()[0]
        # A stranger's own words end in logs and on terminals: few of them, and only what can be printed.
        where = ascii(".".join(map(str, first["loc"])))[1:-1][:60] or "body"
        raise RemoteProtocolError(f"malformed {message_type.__name__}: {where}: {first['msg']}") from error


def _of_another_version(message_type: type[Message], body: bytes) -> Message:
    """What is known here of a message of another version, so that it can be declined. Raises ValueError for others."""
    fields = json.loads(body)
    if not isinstance(fields, dict) or fields.get("version") in (None, PROTOCOL_VERSION):
        raise ValueError("this version, or none")
    known = message_type.model_fields
    return message_type.model_validate({name: value for name, value in fields.items() if name in known})


def chunks(elements: int, lane: int = 0, lanes: int = 1) -> Iterator[slice]:
    """Cut a vector into the chunks that travel over one of several streams.

    Args:
        elements: the length of the vector.
        lane: the number of the stream, from 0.
        lanes: how many streams there are.

    Returns:
        The places of the chunks in the vector, in the order in which they travel.

    Example:
        >>> [(c.start // CHUNK_ELEMENTS, c.stop - c.start) for c in chunks(2 * CHUNK_ELEMENTS + 5, lane=0, lanes=2)]
        [(0, 65280), (2, 5)]
    """
    for start in range(lane * CHUNK_ELEMENTS, elements, lanes * CHUNK_ELEMENTS):
        yield slice(start, min(start + CHUNK_ELEMENTS, elements))


def chunk_header(chunk: memoryview) -> bytes:
    """Write the header that goes before a chunk.

    Args:
        chunk: its bytes, as the codec wrote them.

    Returns:
        CHUNK_HEADER.size bytes: length and checksum.
    """
    return CHUNK_HEADER.pack(len(chunk), xxh3_64_intdigest(chunk))


def check_chunk_length(header: bytes | bytearray, expected: int) -> None:
    """Check the length that a chunk announces, before it is received.

    Args:
        header: of the chunk.
        expected: the length in bytes by schema and codec.

    Raises:
        RemoteProtocolError: if it announces another length.
    """
    length, _ = CHUNK_HEADER.unpack(header)
    if length != expected:
        raise RemoteProtocolError(f"chunk of {length} bytes; {expected} are due")


def check_chunk(header: bytes | bytearray, chunk: memoryview) -> None:
    """Check the bytes of a chunk by its header's checksum.

    Args:
        header: of the chunk.
        chunk: its bytes.

    Raises:
        RemoteProtocolError: if the chunk was changed on its way.
    """
    _, digest = CHUNK_HEADER.unpack(header)
    if xxh3_64_intdigest(chunk) != digest:
        raise RemoteProtocolError("checksum of a chunk differs")
