"""Results of simulations, made up."""

from __future__ import annotations

from typing import Any

from p2p_elastic.simulator.config import Point, SimulationConfig, SimulationResult
from p2p_elastic.simulator.options import build


def made_up(config: SimulationConfig | None = None, *, points: int = 3, **changes: Any) -> SimulationResult:
    """A result with a point every 10 steps; `changes` are made to every point."""
    config = config or build({"workers": 2})
    curve = [
        Point(
            **{
                "step": 10 * i,
                "epoch": float(i),
                "bytes_per_worker": 1e6 * i,
                "exchanges": 4 * i,
                "training_loss": 1.0 / i,
                "accuracies": tuple(0.5 + 0.1 * i - 0.01 * worker for worker in range(config.workers)),
                "average_accuracy": 0.5 + 0.1 * i,
                "consensus_distance": 0.25,
                **changes,
            }
        )
        for i in range(1, points + 1)
    ]
    return SimulationResult(
        version="0", config=config, device="cpu", parameters=10, steps=10 * points, seconds=1.5, points=tuple(curve)
    )
