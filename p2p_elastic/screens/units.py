"""Figures for people: shares, bytes, seconds, peer ids, numbers."""

from __future__ import annotations

PLAIN_MAX = 1e7  # a loss that diverges may have hundreds of digits


def percent(share: float | None) -> str:
    """Show a share in percent.

    Args:
        share: 0 to 1; None if it is not known.

    Returns:
        A text with two decimals, or a dash.

    Example:
        >>> percent(0.9375), percent(None)
        ('93.75 %', '-')
    """
    return "-" if share is None else f"{100 * share:.2f} %"


def size(nbytes: float) -> str:
    """Show bytes for people, in decimal units.

    Args:
        nbytes: 0 or more.

    Returns:
        A text such as `12.3 MB`.

    Example:
        >>> size(999), size(12_345_678), size(999_960)
        ('999 B', '12.3 MB', '1.0 MB')
    """
    for unit in ("B", "kB", "MB"):
        if nbytes < (999.5 if unit == "B" else 999.95):  # what rounds up to 1000 has the next unit
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.2f} GB"


def short(peer: str) -> str:
    """Shorten a peer id to its end: all Ed25519 ids begin alike.

    Args:
        peer: peer id in base58.

    Returns:
        Its last 8 characters.
    """
    return peer[-8:]


def number(value: float | None, form: str) -> str:
    """Show a number for people.

    Args:
        value: None if it is not known.
        form: format such as `.4f`; if the number would be long, three digits are shown instead.

    Returns:
        A text; a dash for None.

    Example:
        >>> number(0.25, ".4f"), number(1e9, ".4f"), number(None, ".4f")
        ('0.2500', '1e+09', '-')
    """
    return "-" if value is None else format(value, form if abs(value) < PLAIN_MAX else ".3g")


def duration(seconds: float) -> str:
    """Show seconds for people.

    Args:
        seconds: 0 or more.

    Returns:
        Seconds, minutes or hours.

    Example:
        >>> duration(90), duration(600), duration(9000)
        ('90 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
