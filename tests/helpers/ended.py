"""Exchanges that have ended, for what judges them."""

from __future__ import annotations

from typing import Any

from p2p_elastic.health.causes import Ended
from p2p_elastic.protocol.outcome import Outcome


def met(partner: str, outcome: Outcome, age: float = 1.0, **changes: Any) -> Ended:
    values = {"seconds": 1.0, "bytes_sent": 1, "bytes_received": 1, "staleness": None}
    return Ended(**{**values, "partner": partner, "outcome": outcome, "age_seconds": age, **changes})
