"""Choices by what is measured of a link: codec, parts and streams of the vectors. Pure functions."""

from __future__ import annotations

from typing import NamedTuple

from p2p_elastic.errors import ConfigError
from p2p_elastic.parameters.vector import WIRE_DTYPE, Part
from p2p_elastic.protocol.codecs import BY_LOSS, CODECS
from p2p_elastic.protocol.limits import LANES_MAX

AUTO = "auto"
CODEC_NAMES = (AUTO, *CODECS)
UNKNOWN_LINK = "float16"  # half the bytes, and no loss of accuracy in any measurement
LINK_SHARE = 0.25  # of the time between two exchanges that an exchange may take before a smaller codec is chosen
FAR_SECONDS = 0.02  # a round trip up to which one stream is as good as several
FAST_BYTES_PER_SECOND = 4 * 2**20  # below it the link is what is slow, and each stream's chunks would be late
STREAM_BYTES_MIN = 2**20  # that it is worth opening one more for
FRAGMENT_SHARE = 0.5  # of the time between two exchanges that the transfer of an automatic fragment may take,
FRAGMENT_SECONDS_MIN = 2.0  # or this long, if that is more,
FRAGMENT_ROUND_TRIPS = 20.0  # or this many: offer, answer, last word and TCP's slow start take some of them each time
KEPT_SHARES = (0.4, 1.25)  # of that time: while a transfer takes between them, fragments keep their size
FIRST_BYTES = 2**20  # of the vector in float32, that the first exchange moves at most: the link has shown nothing
AUTO_FRAGMENTS_MAX = 256  # each has a history of distances of its own


class Link(NamedTuple):
    """What exchanges have shown of the links of a peer; None: not known yet.

    Attributes:
        seconds_per_byte: of the vectors, both ways together.
        rtt_seconds: the round trip.
    """

    seconds_per_byte: float | None = None
    rtt_seconds: float | None = None


NOTHING_SHOWN = Link()


def fragment(elements: int, fragments: int, turn: int) -> Part | None:
    """The part of a vector that is exchanged in one turn.

    Args:
        elements: D, of the whole vector.
        fragments: of how many about equal parts an exchange moves one.
        turn: grows by one from exchange to exchange of the end that asks; after the last part comes the first.

    Returns:
        Its first element and the one after its last; None: all of the vector.

    Example:
        >>> [fragment(10, 3, turn) for turn in range(4)]
        [(0, 3), (3, 6), (6, 10), (0, 3)]
    """
    count = min(fragments, elements)
    if count <= 1:
        return None
    index = turn % count
    return index * elements // count, (index + 1) * elements // count


def transfer_seconds(link: Link, period_seconds: float | None) -> float:
    """How long the transfer of an automatic fragment may take.

    Args:
        link: what is known of it.
        period_seconds: between two exchanges; None if not known yet.

    Returns:
        Seconds.

    Example:
        >>> [transfer_seconds(Link(1e-6, rtt), 10.0) for rtt in (0.02, 0.5)], transfer_seconds(Link(), None)
        ([5.0, 10.0], 2.0)
    """
    by_trips = FRAGMENT_ROUND_TRIPS * (link.rtt_seconds or 0.0)
    return max(FRAGMENT_SHARE * (period_seconds or 0.0), FRAGMENT_SECONDS_MIN, by_trips)


def choose_fragments(elements: int, codec: str, link: Link, period_seconds: float | None, now: int = 1) -> int:
    """Into how many parts to divide a vector, so that an exchange of one takes a time that the peer can afford.

    Always a power of two, so that a part stays the same part while the link changes a little.

    Args:
        elements: D, of the whole vector.
        codec: by which both vectors travel; the smallest one, if it is chosen by the link too.
        link: what is known of it.
        period_seconds: between two exchanges; None if not known yet.
        now: the number at present, which is kept while it is about right.

    Returns:
        1 to AUTO_FRAGMENTS_MAX.

    Example:
        >>> mnist, links = 2_913_290, [Link(seconds, 0.02) for seconds in (1e-8, 1e-6, 4e-6, 16e-6)]
        >>> [choose_fragments(mnist, "int8", link, 6.0) for link in (Link(), *links)]
        [16, 1, 4, 16, 64]
    """
    if link.seconds_per_byte is None:
        return _halvings(elements * WIRE_DTYPE.itemsize / FIRST_BYTES)
    whole = 2.0 * CODECS[codec].nbytes(elements) * link.seconds_per_byte
    wanted = transfer_seconds(link, period_seconds)
    at_least, at_most = KEPT_SHARES
    if now > 1 and at_least * wanted <= whole / now <= at_most * wanted:
        return now
    return _halvings(whole / wanted)


def _halvings(ratio: float) -> int:
    """The smallest power of two that is not below a ratio, within bounds."""
    count = 1
    while count < min(ratio, AUTO_FRAGMENTS_MAX):
        count *= 2
    return count


def bytes_per_element(codec: str) -> float:
    """What an element of a long vector takes on the wire.

    Args:
        codec: its name.

    Returns:
        Bytes.

    Example:
        >>> bytes_per_element("none"), bytes_per_element("float16")
        (4.0, 2.0)
    """
    return CODECS[codec].nbytes(1000) / 1000


def choose_codec(nbytes: int, seconds_per_byte: float | None, period_seconds: float | None) -> str:
    """The codec of least error by which an exchange takes at most LINK_SHARE of the time between two of them.

    A peer that has just begun does not know that time; then it may take as long as an automatic fragment.

    Args:
        nbytes: of the vectors in float32, both ways together.
        seconds_per_byte: of the link, as measured; None if not known yet.
        period_seconds: between two exchanges; None if not known yet.

    Returns:
        Its name; if none is small enough, that of the smallest.

    Example:
        >>> [choose_codec(24_000_000, seconds, 60.0) for seconds in (1e-8, 1e-6, 2e-6)]
        ['none', 'float16', 'int8']
    """
    if seconds_per_byte is None:
        return UNKNOWN_LINK
    seconds = FRAGMENT_SECONDS_MIN if period_seconds is None else LINK_SHARE * period_seconds
    for name in BY_LOSS:
        share = bytes_per_element(name) / WIRE_DTYPE.itemsize
        if nbytes * share * seconds_per_byte <= seconds:
            return name
    return BY_LOSS[-1]


def choose_streams(nbytes: int, rtt_seconds: float | None, seconds_per_byte: float | None) -> int:
    """Over how many streams a vector should travel: several if the round trip is what holds one stream back.

    What one stream has on its way is bounded (yamux: 256 KiB at first, more later), so far away it waits for its
    partner's word most of the time; on a thin link one is enough.

    Args:
        nbytes: of the vector in float32, one way.
        rtt_seconds: the round trip; None if not known yet.
        seconds_per_byte: of the link; None if not known yet.

    Returns:
        1 to LANES_MAX.

    Example:
        >>> choose_streams(10**8, 0.001, 1e-8), choose_streams(10**8, 0.1, 1e-8), choose_streams(10**5, 0.1, 1e-8)
        (1, 24, 1)
    """
    if rtt_seconds is None or seconds_per_byte is None or rtt_seconds <= FAR_SECONDS:
        return 1
    if 1.0 / max(seconds_per_byte, 1e-12) < FAST_BYTES_PER_SECOND:
        return 1
    wanted = LANES_MAX if rtt_seconds > 2 * FAR_SECONDS else LANES_MAX // 2
    return max(1, min(wanted, nbytes // STREAM_BYTES_MIN))


def check_codec(key: str, name: str) -> str:
    """Check the name of a codec, or "auto".

    Args:
        key: the option's name, for the error.
        name: what was given.

    Returns:
        The name.

    Raises:
        ConfigError: if there is no such codec.
    """
    if name not in CODEC_NAMES:
        raise ConfigError(key, name, f"allowed: {', '.join(CODEC_NAMES)}")
    return name
