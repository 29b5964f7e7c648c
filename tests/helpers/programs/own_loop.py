"""A training loop of its own in a swarm, for tests: AdamW, OneCycle, clipping, dropout and data that goes on exactly.

Takes the arguments of `p2p-elastic join` that the tests' processes are started with, and speaks JSON as that does.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
import torch.distributed as dist
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
    parser.add_argument("--rank", type=int, help="of two that train one model")
    parser.add_argument("--store", help="file by which the two ranks find each other")
    options = vars(parser.parse_args())
    own = {
        name: options.pop(name)
        for name in ("join", "threads", "steps", "rest", "fail_at", "initial_peer", "rank", "store")
    }
    screen = open_screen(options.pop("log_format"))
    torch.set_num_threads(1)
    torch.manual_seed(options["seed"])
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 1))
    trained: nn.Module = model
    if own["rank"] is not None:
        dist.init_process_group("gloo", init_method=f"file://{own['store']}", rank=own["rank"], world_size=2)
        trained, options["process_group"] = nn.parallel.DistributedDataParallel(model), dist.group.WORLD
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=own["steps"] + 1)
    noise, weights = Noise(options["seed"] + 100 * (own["rank"] or 0)), torch.linspace(-1, 1, 8)
    state = {"scheduler": scheduler, "data": noise}
    with p2p.Swarm(model, optimizer, initial_peers=own["initial_peer"], state=state, screen=screen, **options) as swarm:
        moves = 0
        while scheduler.last_epoch < own["steps"] and not swarm.should_stop:
            inputs = noise()
            loss = nn.functional.mse_loss(trained(inputs), (inputs @ weights).sin()[:, None])
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            swarm.report(loss)
            moves += swarm.last.moved
            if scheduler.last_epoch == own["fail_at"]:
                raise ZeroDivisionError("on purpose")
            time.sleep(own["rest"])
    with torch.no_grad():
        total = float(torch.cat([p.double().flatten() for p in model.parameters()]).sum())
    screen.say("result", "", total=total, rate=scheduler.get_last_lr()[0], step=scheduler.last_epoch, moves=moves)
    if own["rank"] is not None:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
