"""The answers of peers, read with distrust: sizes have bounds, values are checked, texts lose control characters."""

from __future__ import annotations

import json
import math
import unicodedata
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from p2p_elastic import __version__
from p2p_elastic.errors import P2PElasticError
from p2p_elastic.status.schema import PeerStatus
from p2p_elastic.values import Frozen

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

# A directory has room for some 17,000 members, of 23 values and usually less than 900 bytes each: more is no honest
# answer. A value takes up to 200 bytes once it is read.
ANSWER_BYTES_MAX = 16 * 2**20
VALUES_MAX = 500_000
KEYS_MAX = 2000  # of one object, and each may be an error; a peer that disbelieves the most others has 1,000
ERRORS_MAX = 1000  # that are looked at
ROUNDS_MAX = 5  # of leaving out what is unknown: a list shows only that of its first item that has any
TEXT_MAX = 2000
NUMBER_MAX = 2**63
UNKNOWN_FIELDS_NAMED = 5
UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # control, format (also right-to-left), surrogates, breaks

Kind = Literal["refused", "timed_out", "unreachable", "not_a_peer", "other_version", "failing"]
Json = Any
Place = tuple[str, ...]  # the names on the way to a field; which item of a list it is in does not matter
M = TypeVar("M", bound=BaseModel)


class Problem(Frozen):
    """Why a peer could not be shown.

    Attributes:
        kind: for programs.
        text: for people: what is wrong, and perhaps what to do.
    """

    kind: Kind
    text: str


class AskError(P2PElasticError):
    """The peer could not be asked, or what it answered is no status.

    Args:
        kind: for programs.
        text: for people.
    """

    def __init__(self, kind: Kind, text: str) -> None:
        self.problem = Problem(kind=kind, text=text)
        super().__init__(text)


def read_status(body: bytes) -> tuple[PeerStatus, tuple[str, ...]]:
    """Read the body of `/v1/status`.

    Args:
        body: as it came.

    Returns:
        The status, and notes for people: another version, and what of it cannot be shown.

    Raises:
        AskError: if it is no status, or one that this version cannot read.
    """
    status, unknown = validated(PeerStatus, body)
    if status.version == __version__:
        return status, ()
    note = f"runs p2p-elastic {status.version}, this is {__version__}"
    if unknown:
        more = f" and {len(unknown) - UNKNOWN_FIELDS_NAMED} more" if len(unknown) > UNKNOWN_FIELDS_NAMED else ""
        note += f"; not shown: {', '.join(unknown[:UNKNOWN_FIELDS_NAMED])}{more}"
    return status, (note,)


def validated(model: type[M], body: bytes) -> tuple[M, list[str]]:
    """Read a JSON body as a value of a model. Fields that this version does not know are left out.

    Args:
        model: what it should be.
        body: as it came.

    Returns:
        The value, and the names of the fields that were left out, such as `training.speed`.

    Raises:
        AskError: if it is no JSON of that kind.
    """
    try:
        content = parsed(body)
    except (ValueError, RecursionError) as error:
        raise AskError("not_a_peer", "not a p2p-elastic peer: what it answers is no JSON of the kind") from error
    unknown: set[Place] = set()
    rounds = 0
    while True:
        try:
            # Not model_validate_json: there pydantic keeps 4 KB for each small object.
            return model.model_validate(content), sorted(map(_dotted, unknown))
        except ValidationError as error:
            new = _unknown(error)
            if not new or rounds == ROUNDS_MAX:
                raise _unreadable(content, error) from error
        content = _without(content, new)
        unknown |= new
        rounds += 1


def parsed(body: bytes) -> Json:
    """Parse JSON, and tame it.

    Args:
        body: as it came.

    Returns:
        The value.

    Raises:
        ValueError: if it is no JSON, or has too many values.
        RecursionError: if it is nested too deeply.
    """
    # Each value but the first comes after one of these; counting them costs no memory, reading the values does.
    if sum(map(body.count, (b",", b"[", b"{"))) > VALUES_MAX:
        raise ValueError("too many values")
    return tame(json.loads(body))


def _unknown(error: ValidationError) -> set[Place]:
    return {_place(e["loc"]) for e in _errors(error) if e["type"] == "extra_forbidden"}


def _errors(error: ValidationError) -> list[ErrorDetails]:
    """What is wrong; empty if that is too much to be told."""
    if error.error_count() > ERRORS_MAX:
        return []
    return error.errors(include_url=False, include_context=False, include_input=False)  # the input may be all of it


def _unreadable(content: Json, error: ValidationError) -> AskError:
    errors = _errors(error)
    first = next((e for e in errors if e["type"] != "extra_forbidden"), errors[0] if errors else None)
    where = f"{error.error_count()} of its values are not as they should be"
    if first is not None:
        where = f"{_dotted(_place(first['loc'])) or 'the whole'}: {tame_text(first['msg'][:200])}"
    theirs = content.get("version") if isinstance(content, dict) else None
    if not isinstance(theirs, str) or "peer" not in content:
        return AskError("not_a_peer", f"not a p2p-elastic peer: its JSON is another ({where})")
    advice = "update the older of the two" if theirs != __version__ else "is that really a p2p-elastic peer?"
    return AskError("other_version", f"runs p2p-elastic {theirs}, this is {__version__}: {where}; {advice}")


def _place(location: tuple[int | str, ...]) -> Place:
    return tuple(part for part in location if isinstance(part, str))


def _dotted(place: Place) -> str:
    return ".".join(place)[:100]


def _without(value: Json, places: set[Place], here: Place = ()) -> Json:
    """`value` without the fields at `places`, in every item of a list."""
    if isinstance(value, dict):
        inner = {key: (*here, key) for key in value}
        return {key: _without(value[key], places, place) for key, place in inner.items() if place not in places}
    if isinstance(value, list):
        return [_without(item, places, here) for item in value]
    return value


def tame(value: Json) -> Json:
    r"""Bound a JSON value: short tame_text texts, whole numbers of 64 bits, objects of few keys.

    Args:
        value: as `json.loads` gives it.

    Returns:
        The value, with texts shortened and numbers that are not finite replaced by None.

    Raises:
        ValueError: if a whole number or an object is too large.

    Example:
        >>> tame({"loss": float("nan"), "rule": "easgd\u200b"})
        {'loss': None, 'rule': 'easgd�'}
    """
    if isinstance(value, str):
        return tame_text(value[:TEXT_MAX])
    if isinstance(value, dict):
        if len(value) > KEYS_MAX:
            raise ValueError("too many keys")
        return {tame(key): tame(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [tame(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int) and abs(value) >= NUMBER_MAX:  # a loss may be as large as floats are
        raise ValueError("a number out of range")
    return value


def tame_text(text: str) -> str:
    """Replace every character that could move the cursor, colour or reorder the line.

    Args:
        text: from a peer.

    Returns:
        The text, as long as before.
    """
    return "".join("\ufffd" if unicodedata.category(c) in UNPRINTABLE else c for c in text)
