"""Numbers that people may write as a fraction."""

from __future__ import annotations

import re
from typing import Any

from p2p_elastic.errors import ConfigError

_FRACTION = re.compile(r"([0-9.]+) */ *([0-9]+)")


def number(key: str, given: Any) -> Any:
    """`given`; where it is a text like "1/32", that number. `key` is the option, as it is spelled.

    >>> number("probability", "1/32"), number("probability", 0.5)
    (0.03125, 0.5)

    Raises:
        ConfigError: a fraction that is no number.
    """
    match = _FRACTION.fullmatch(given) if isinstance(given, str) else None
    if match is None:
        return given
    try:
        return float(match[1]) / int(match[2])
    except (ValueError, ZeroDivisionError) as error:
        raise ConfigError(key, given, "a number or a fraction, for example 1/32") from error
