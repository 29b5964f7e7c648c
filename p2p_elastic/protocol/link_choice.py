"""Choices by what is measured of a link: codec, parts and streams of the vectors. Pure functions."""

from __future__ import annotations

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


def choose_codec(nbytes: int, seconds_per_byte: float | None, period_seconds: float | None) -> str:
    """The codec of least error by which an exchange takes at most LINK_SHARE of the time between two of them.

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
    if period_seconds is None:
        return BY_LOSS[0]
    for name in BY_LOSS:
        share = CODECS[name].nbytes(1000) / (1000 * WIRE_DTYPE.itemsize)
        if nbytes * share * seconds_per_byte <= LINK_SHARE * period_seconds:
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
