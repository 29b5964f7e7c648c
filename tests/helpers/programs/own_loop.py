"""A training loop of its own in a swarm, for tests: AdamW, OneCycle, clipping, dropout and data that goes on exactly.

Takes the arguments of `p2p-elastic join` that the tests' processes are started with, and speaks JSON as that does.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from torch import Tensor, nn

import p2p_elastic as p2p
from p2p_elastic.screens.live import open_screen


class Noise:
    """Random inputs, and the place in them."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self) -> Tensor:
        return torch.randn(16, 8, generator=self._generator)

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._generator.set_state(state["generator"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("join")
    for name in ("host", "http-host", "output", "identity", "checkpoint-every", "log-format"):
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS)
    for name in ("port", "http-port", "wait-for-peers", "period"):
        parser.add_argument(f"--{name}", type=int, default=argparse.SUPPRESS)
    parser.add_argument("--initial-peer", nargs="*", default=[])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rest", type=float, default=0.0)
    parser.add_argument("--fail-at", type=int)
    parser.add_argument("--resume", action="store_true")
    options = vars(parser.parse_args())
    own = {name: options.pop(name) for name in ("join", "threads", "steps", "rest", "fail_at", "initial_peer")}
    screen = open_screen(options.pop("log_format"))
    torch.set_num_threads(1)
    torch.manual_seed(options["seed"])
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=own["steps"] + 1)
    noise, weights = Noise(options["seed"]), torch.linspace(-1, 1, 8)
    state = {"scheduler": scheduler, "data": noise}
    with p2p.Swarm(model, optimizer, initial_peers=own["initial_peer"], state=state, screen=screen, **options) as swarm:
        while scheduler.last_epoch < own["steps"] and not swarm.should_stop:
            inputs = noise()
            loss = nn.functional.mse_loss(model(inputs), (inputs @ weights).sin()[:, None])
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            swarm.report(loss)
            if scheduler.last_epoch == own["fail_at"]:
                raise ZeroDivisionError("on purpose")
            time.sleep(own["rest"])
    with torch.no_grad():
        total = float(torch.cat([p.double().flatten() for p in model.parameters()]).sum())
    screen.say("result", "", total=total, rate=scheduler.get_last_lr()[0], step=scheduler.last_epoch)


if __name__ == "__main__":
    main()
