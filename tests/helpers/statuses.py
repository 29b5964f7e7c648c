"""Hand-made values: of `PeerStatus`, and exchanges that have ended, for what judges them."""

from __future__ import annotations

from typing import Any

from p2p_elastic.health.causes import Ended
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.status.schema import ExchangeTotals, NetworkStatus, PeerStatus, TrainingStatus


def status_of(*, training: Any = None, network: Any = None, **changes: Any) -> PeerStatus:
    """A founder that trains well, but for the changes."""
    values: dict[str, Any] = {
        "peer": "12D3A",
        "version": "0.1.0",
        "run": "digits",
        "task": "digits-mlp",
        "schema_hash": "5f",
        "rule": "elastic",
        "codec": "float32",
        "device": "cpu",
        "uptime_seconds": 100.0,
        "weight": 1.0,
        "training": TrainingStatus(**{"phase": "training", "loss": 1.0, **(training or {})}),
        "network": NetworkStatus(**{"addresses": ("/ip4/10.0.0.1/tcp/4001",), **(network or {})}),
        "exchanges": ExchangeTotals(by_outcome={Outcome.COMPLETED: 3}),
    }
    return PeerStatus(**{**values, **changes})


def met(partner: str, outcome: Outcome, age: float = 1.0, **changes: Any) -> Ended:
    values = {"seconds": 1.0, "bytes_sent": 1, "bytes_received": 1, "staleness": None}
    return Ended(**{**values, "partner": partner, "outcome": outcome, "age_seconds": age, **changes})
