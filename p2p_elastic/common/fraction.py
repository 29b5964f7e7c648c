"""Numbers that users may write as a fraction."""

from __future__ import annotations

import re
from typing import Any

from p2p_elastic.errors import ConfigError

_FRACTION = re.compile(r"([0-9.]+) */ *([0-9]+)")


def number(key: str, given: Any) -> Any:
    """Turn a text like "1/32" into its number; give back anything else as it is.

    Args:
        key: option in the error.
        given: a text, or a value of any other type.

    Returns:
        The number, or `given`.

    Raises:
        ConfigError: if it is a fraction that is no number.

    Example:
        >>> number("probability", "1/32"), number("probability", 0.5)
        (0.03125, 0.5)
    """
    match = _FRACTION.fullmatch(given) if isinstance(given, str) else None
    if match is None:
        return given
    try:
        return float(match[1]) / int(match[2])
    except (ValueError, ZeroDivisionError) as error:
        raise ConfigError(key, given, "a number or a fraction, for example 1/32") from error
