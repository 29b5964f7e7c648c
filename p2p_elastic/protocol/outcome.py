"""The ways in which an exchange ends."""

from __future__ import annotations

from enum import Enum


class Outcome(str, Enum):
    """How an exchange ended."""

    COMPLETED = "completed"  # both ends moved
    DECLINED = "declined"  # the partner said no, with a reason
    UNREACHABLE = "unreachable"  # no stream
    TIMEOUT = "timeout"  # the partner went silent
    BROKEN = "broken"  # the stream was cut in the middle; neither end moved
    REFUSED = "refused"  # the partner broke the protocol or sent numbers that are not finite
    HALF = "half"  # the partner may have moved, this peer did not: the partner's last word never came
