"""Lengths in time, as people write them."""

from __future__ import annotations

import re

from p2p_elastic.errors import ConfigError


def seconds_of(text: str) -> float:
    """Read a length in time.

    Args:
        text: such as "90s", "30m" or "2h".

    Returns:
        Seconds, above 0.

    Raises:
        ConfigError: for any other text.

    Example:
        >>> seconds_of("2h")
        7200.0
    """
    match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)([smhd])", text)
    if match is None or float(match[1]) == 0.0:
        raise ConfigError("for", text, "a time such as 90s, 30m, 2h or 1d")
    return float(match[1]) * {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}[match[2]]
