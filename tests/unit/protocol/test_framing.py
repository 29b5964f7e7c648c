"""Messages and vectors as bytes, and bytes of strangers that are neither."""

from __future__ import annotations

import json
import math
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p_elastic.errors import RemoteProtocolError
from p2p_elastic.protocol.framing import (
    CHUNK_ELEMENTS,
    CHUNK_HEADER,
    KINDS,
    MAGIC,
    MESSAGE_BYTES_MAX,
    MESSAGE_HEADER,
    check_chunk,
    check_chunk_length,
    chunk_header,
    chunks,
    pack,
    unpack_body,
    unpack_header,
)
from p2p_elastic.protocol.limits import LANES_MAX
from p2p_elastic.protocol.messages import (
    PROTOCOL_VERSION,
    SCHEMA_BYTES_MAX,
    Aborted,
    Accept,
    Apart,
    Committed,
    Decline,
    DeclineReason,
    Describe,
    Described,
    Direct,
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
    Stamp,
    Tell,
    Unchanged,
    Verified,
)

checked = settings(max_examples=80)

HEX = st.text("0123456789abcdef", min_size=32, max_size=32)
LETTERS = 'aZ9._- "\\/{}[]:,\x00\x1f\n\u00e9\u2028\U0001f600'  # whatever JSON treats in its own way
PEERS = st.text(LETTERS, min_size=1, max_size=128)
RUNS = st.text("aZ9._-", max_size=63).map(lambda rest: f"r{rest}")
STEPS = st.integers(0, 2**53 - 1)
LOSSES = st.none() | st.floats(allow_nan=False, allow_infinity=False)
WEIGHTS = st.floats(0.0, 1.0)
SHARES = st.floats(0.0, 2.0**20)
TEXTS = st.text(LETTERS, max_size=200)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        Offer,
        version=st.integers(1, 1000),
        id=HEX,
        peer=PEERS,
        run=RUNS,
        schema_hash=HEX,
        elements=st.integers(1, 2**40 - 1),
        codec=st.text(LETTERS, max_size=32),
        step=STEPS,
        loss=LOSSES,
        weight=WEIGHTS,
        share=SHARES,
        streams=st.integers(1, 8),
    ),
    st.builds(
        Accept,
        id=HEX,
        peer=PEERS,
        schema_hash=HEX,
        step=STEPS,
        loss=LOSSES,
        weight=WEIGHTS,
        share=SHARES,
        centre=st.none() | st.builds(Stamp, term=st.integers(0, 2**31 - 1), clock=STEPS),
        streams=st.integers(1, 8),
        waited=st.floats(0.0, 3600.0),
    ),
    st.builds(Lane, id=HEX, number=st.integers(1, 7)),
    st.builds(
        Fetch,
        id=HEX,
        peer=PEERS,
        run=RUNS,
        schema_hash=HEX,
        elements=st.integers(1, 2**40 - 1),
        codec=st.text(LETTERS, max_size=32),
        origin=PEERS,
        have=st.none() | STEPS,
    ),
    st.builds(Given, id=HEX, origin=PEERS, step=STEPS, loss=LOSSES),
    st.builds(Unchanged, id=HEX),
    st.builds(Referral, id=HEX, holders=st.lists(PEERS, min_size=1, max_size=4).map(tuple)),
    st.builds(Tell, id=HEX, peer=PEERS, run=RUNS, step=STEPS, loss=LOSSES),
    st.builds(
        Goodbye,
        id=HEX,
        peer=PEERS,
        run=RUNS,
        sequence=STEPS,
        seconds=st.floats(0.0, 60.0),
        heir=st.none() | PEERS,
        centre=st.none() | st.builds(Stamp, term=st.integers(0, 2**31 - 1), clock=STEPS),
    ),
    st.builds(Heard, id=HEX, took=st.booleans()),
    st.builds(Describe, id=HEX, peer=PEERS, run=RUNS, schema_hash=HEX),
    st.builds(Described, id=HEX, nbytes=st.integers(1, SCHEMA_BYTES_MAX)),
    st.builds(Decline, id=HEX, reason=st.sampled_from(DeclineReason), detail=TEXTS),
    st.builds(Verified, id=HEX),
    st.builds(Committed, id=HEX),
    st.builds(Aborted, id=HEX, reason=TEXTS),
    st.builds(Inquiry, id=HEX),
)

ID = "a" * 32
WORST = "\x00"  # six bytes in JSON
LARGEST = -math.nextafter(math.inf, 0)
DIRECT = Direct(secret="a" * 64, aes=False, token=ID, port=65535, dials=False, held=(ID,) * LANES_MAX)
LONGEST: tuple[Message, ...] = (
    Offer(
        version=1000,
        id=ID,
        peer=WORST * 128,
        run="r" * 64,
        schema_hash=ID,
        elements=2**40 - 1,
        codec=WORST * 32,
        step=2**53 - 1,
        loss=LARGEST,
        weight=1 / 3,
        share=2**20 / 3,
        apart=Apart(steps=2**53 - 1, peers=2**20, merge=False),
        centre=Stamp(term=2**31 - 1, clock=2**53 - 1),
        part=(2**40 - 2, 2**40 - 1),
        streams=8,
        direct=DIRECT,
    ),
    Accept(
        id=ID,
        peer=WORST * 128,
        schema_hash=ID,
        step=2**53 - 1,
        loss=LARGEST,
        weight=1 / 3,
        share=2**20 / 3,
        centre=Stamp(term=2**31 - 1, clock=2**53 - 1),
        apart=Apart(steps=2**53 - 1, peers=2**20, merge=False),
        streams=8,
        waited=10 / 3,
        direct=DIRECT,
    ),
    Lane(id=ID, number=7),
    Route(id=ID, direct=False),
    Fetch(
        version=1000,
        id=ID,
        peer=WORST * 128,
        run="r" * 64,
        schema_hash=ID,
        elements=2**40 - 1,
        codec=WORST * 32,
        origin=WORST * 128,
        have=2**53 - 1,
        part=(2**40 - 2, 2**40 - 1),
        step=2**53 - 1,
        direct=DIRECT,
    ),
    Given(
        id=ID,
        origin=WORST * 128,
        step=2**53 - 1,
        loss=LARGEST,
        digest="f" * 64,
        centre=Stamp(term=2**31 - 1, clock=2**53 - 1),
        direct=DIRECT,
    ),
    Unchanged(id=ID),
    Referral(id=ID, holders=(WORST * 128,) * 4),
    Tell(id=ID, peer=WORST * 128, run="r" * 64, step=2**53 - 1, loss=LARGEST),
    Goodbye(
        id=ID,
        peer=WORST * 128,
        run="r" * 64,
        sequence=2**53 - 1,
        seconds=100 / 3,
        heir=WORST * 128,
        centre=Stamp(term=2**31 - 1, clock=2**53 - 1),
    ),
    Heard(id=ID, took=False),
    Describe(version=1000, id=ID, peer=WORST * 128, run="r" * 64, schema_hash=ID),
    Described(id=ID, nbytes=SCHEMA_BYTES_MAX),
    *(Decline(id=ID, reason=reason, detail=WORST * 200) for reason in DeclineReason),
    Verified(id=ID),
    Committed(id=ID),
    Aborted(id=ID, reason=WORST * 200),
    Inquiry(id=ID),
)
OFFER = {
    "version": PROTOCOL_VERSION,
    "id": ID,
    "peer": "12D3",
    "run": "digits",
    "schema_hash": ID,
    "elements": 10,
    "codec": "none",
    "step": 3,
    "loss": 0.5,
    "weight": 1.0,
}


def unpack(data: bytes) -> Message:
    message_type, length = unpack_header(data[: MESSAGE_HEADER.size])
    body = data[MESSAGE_HEADER.size :]
    assert len(body) == length
    return unpack_body(message_type, body)


def offer_bytes(**changes: object) -> bytes:
    return json.dumps({**OFFER, **changes}).encode()


# ---------------------------------------------------------------- messages


@given(message=MESSAGES)
@checked
def test_a_message_arrives_as_it_was_sent(message: Message) -> None:
    assert unpack(pack(message)) == message


def test_every_kind_of_message_has_a_number_of_its_own() -> None:
    assert len(set(KINDS.values())) == len(KINDS)
    assert {type(message) for message in LONGEST} == set(KINDS.values())


@pytest.mark.parametrize("message", LONGEST, ids=lambda message: type(message).__name__)
def test_the_longest_message_is_within_the_bound_and_arrives(message: Message) -> None:
    data = pack(message)
    assert len(data) <= MESSAGE_HEADER.size + MESSAGE_BYTES_MAX
    assert unpack(data) == message


# ---------------------------------------------------------------- headers of strangers


@pytest.mark.parametrize("header", [b"GET / HTT", b"\x00" * 9, b"\xff" * 9, b"pxe1\x01\x00\x00\x00\x02"])
def test_what_is_not_our_protocol_is_refused(header: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="not a message of this protocol"):
        unpack_header(header)


@pytest.mark.parametrize("kind", [0, 19, 255])
def test_an_unknown_kind_of_message_is_refused(kind: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"unknown kind of message: {kind}"):
        unpack_header(MESSAGE_HEADER.pack(MAGIC, kind, 2))


@pytest.mark.parametrize("length", [MESSAGE_BYTES_MAX + 1, 10**9, 2**32 - 1])
def test_an_announced_length_beyond_the_bound_is_refused_before_anything_is_allocated(length: int) -> None:
    header = MESSAGE_HEADER.pack(MAGIC, 1, length)
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError, match=f"message of {length} bytes; at most {MESSAGE_BYTES_MAX}"):
            unpack_header(header)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@given(
    header=st.binary(min_size=MESSAGE_HEADER.size, max_size=MESSAGE_HEADER.size)
    | st.binary(min_size=MESSAGE_HEADER.size - 4, max_size=MESSAGE_HEADER.size - 4).map(lambda tail: MAGIC + tail)
)
@checked
def test_any_header_is_either_bounded_or_refused(header: bytes) -> None:
    try:
        message_type, length = unpack_header(header)
    except RemoteProtocolError:
        return
    assert message_type in KINDS.values()
    assert 0 <= length <= MESSAGE_BYTES_MAX


# ---------------------------------------------------------------- bodies of strangers


@given(body=st.binary(max_size=200) | TEXTS.map(str.encode), kind=st.sampled_from(sorted(KINDS)))
@checked
def test_garbage_is_refused(body: bytes, kind: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"malformed {KINDS[kind].__name__}: "):
        unpack_body(KINDS[kind], body)


@given(message=MESSAGES, share=st.floats(0.0, 1.0, exclude_max=True))
@checked
def test_a_truncated_message_is_refused(message: Message, share: float) -> None:
    body = pack(message)[MESSAGE_HEADER.size :]
    with pytest.raises(RemoteProtocolError, match="malformed"):
        unpack_body(type(message), body[: int(share * len(body))])


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"id":[', b'"', b"9"])
def test_nesting_and_numbers_as_long_as_a_message_are_refused(opening: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="malformed Verified"):
        unpack_body(Verified, (opening * MESSAGE_BYTES_MAX)[:MESSAGE_BYTES_MAX])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 0),
        ("version", 10**30),
        ("id", "A" * 32),
        ("id", "a" * 31),
        ("id", "a" * 32 + "\n"),
        ("peer", ""),
        ("peer", "x" * 129),
        ("run", ""),
        ("run", "x" * 65),
        ("run", "../run"),
        ("run", "digits\n"),
        ("schema_hash", "0" * 33),
        ("elements", 0),
        ("elements", -1),
        ("elements", 2**40),
        ("codec", "x" * 33),
        ("step", -1),
        ("step", 2**53),
        ("step", 1.5),
        ("loss", math.nan),
        ("loss", math.inf),
        ("loss", "big"),
        ("weight", -0.1),
        ("weight", 1.1),
        ("weight", math.nan),
        ("weight", None),
        ("surprise", 1),
    ],
)
def test_a_field_out_of_bounds_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(RemoteProtocolError, match=f"malformed Offer: {field}: "):
        unpack_body(Offer, offer_bytes(**{field: value}))


@pytest.mark.parametrize("field", sorted(OFFER.keys() - {"version"}))
def test_a_missing_field_is_refused_by_name(field: str) -> None:
    body = json.dumps({key: value for key, value in OFFER.items() if key != field}).encode()
    with pytest.raises(RemoteProtocolError, match=f"malformed Offer: {field}: "):
        unpack_body(Offer, body)


@pytest.mark.parametrize(
    "body",
    [
        {"id": ID, "reason": "no-such-reason"},
        {"id": ID, "reason": "busy", "detail": "x" * 201},
    ],
)
def test_a_decline_out_of_bounds_is_refused(body: dict[str, object]) -> None:
    with pytest.raises(RemoteProtocolError, match="malformed Decline"):
        unpack_body(Decline, json.dumps(body).encode())


def test_the_text_of_an_abort_is_bounded() -> None:
    with pytest.raises(RemoteProtocolError, match="malformed Aborted: reason"):
        unpack_body(Aborted, json.dumps({"id": ID, "reason": "x" * 201}).encode())


# ---------------------------------------------------------------- chunks


@given(
    elements=st.integers(0, 20 * CHUNK_ELEMENTS)
    | st.sampled_from([0, 1, CHUNK_ELEMENTS, CHUNK_ELEMENTS + 1, 2 * CHUNK_ELEMENTS]),
    lanes=st.integers(1, 8),
)
@checked
def test_the_chunks_of_a_vector_cover_it_once_over_all_streams_together(elements: int, lanes: int) -> None:
    of_each = [list(chunks(elements, lane, lanes)) for lane in range(lanes)]
    found = sorted((c.start, c.stop) for of_one in of_each for c in of_one)
    assert [start for start, _ in found] == [0, *(stop for _, stop in found)][: len(found)]
    assert sum(stop - start for start, stop in found) == elements
    assert all(0 < stop - start <= CHUNK_ELEMENTS for start, stop in found)
    assert all(of_one == sorted(of_one, key=lambda c: c.start) for of_one in of_each)
    assert max(map(len, of_each)) - min(map(len, of_each)) <= 1


@given(data=st.binary(min_size=1, max_size=100), position=st.integers(0, 99), bit=st.integers(0, 7))
@checked
def test_a_chunk_with_one_bit_changed_is_noticed(data: bytes, position: int, bit: int) -> None:
    header = chunk_header(memoryview(data))
    check_chunk_length(header, len(data))
    check_chunk(header, memoryview(data))
    changed = bytearray(data)
    changed[position % len(data)] ^= 1 << bit
    with pytest.raises(RemoteProtocolError, match="checksum of a chunk differs"):
        check_chunk(header, memoryview(changed))


@pytest.mark.parametrize("announced", [0, 39, 41, 2**32 - 1])
def test_a_chunk_of_another_length_than_is_due_is_refused_by_its_header(announced: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"chunk of {announced} bytes; 40 are due"):
        check_chunk_length(CHUNK_HEADER.pack(announced, 0), 40)


def test_an_empty_chunk_is_whole() -> None:
    check_chunk(chunk_header(memoryview(b"")), memoryview(b""))


def test_of_another_version_what_is_known_is_read_so_that_it_can_be_declined() -> None:
    later = {**OFFER, "version": PROTOCOL_VERSION + 1, "colour": "blue", "direct": None}
    found = unpack_body(Offer, json.dumps(later).encode())
    assert isinstance(found, Offer)
    assert found.version == PROTOCOL_VERSION + 1
    for broken in ({**later, "version": PROTOCOL_VERSION}, {**later, "id": "no id"}, {**later, "version": "blue"}):
        with pytest.raises(RemoteProtocolError, match="malformed Offer"):
            unpack_body(Offer, json.dumps(broken).encode())
