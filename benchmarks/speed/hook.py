"""What a swarm costs a training step in which nothing is exchanged: the hook, `report` and what runs beside them.

    python benchmarks/speed/hook.py                # steps of about 5 ms
    python benchmarks/speed/hook.py --width 2048   # longer ones

Two equal models take turns in blocks of steps, one of them in a run of its own with nobody else there. Printed are the
medians over the blocks, and of their ratios. On a machine with one busy core more, what runs beside them costs nothing.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from p2p_elastic import Swarm
from p2p_elastic.screens.live import JsonScreen


class Block:
    """Trains a model of its own, some steps at a time."""

    def __init__(self, width: int, steps: int) -> None:
        torch.manual_seed(1)
        self.model = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self._inputs, self._steps = torch.randn(64, width), steps

    def seconds(self, report: Callable[[Tensor], None]) -> float:
        """Of a step, on average."""
        began = time.perf_counter()
        for _ in range(self._steps):
            loss = self.model(self._inputs).square().mean()
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            report(loss)
        return (time.perf_counter() - began) / self._steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=480)
    parser.add_argument("--blocks", type=int, default=60)
    parser.add_argument("--steps", type=int, default=50, help="of a block")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    alone, hooked = Block(asked.width, asked.steps), Block(asked.width, asked.steps)
    with tempfile.TemporaryDirectory() as folder, open(f"{folder}/said", "w") as said:
        swarm = Swarm(
            hooked.model,
            hooked.optimizer,
            screen=JsonScreen(said),
            output=folder,
            checkpoint_every="0",
            host="127.0.0.1",
            port=0,
            http_port=0,
        )
        with swarm:
            pairs = []
            for block in range(asked.blocks):  # who goes first finds the caches as the other left them
                if block % 2:
                    with_swarm = hooked.seconds(swarm.report)
                    pairs.append((alone.seconds(lambda _: None), with_swarm))
                else:
                    without = alone.seconds(lambda _: None)
                    pairs.append((without, hooked.seconds(swarm.report)))
            began = time.perf_counter()
            loss = torch.tensor(0.5)
            for _ in range(2000):
                swarm.report(loss)
            report = (time.perf_counter() - began) / 2000
    without, with_swarm = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"a step alone {1e3 * without:.3f} ms, in a swarm {1e3 * with_swarm:.3f} ms, ratio {ratio:.4f}")
    print(f"report() alone {1e6 * report:.1f} us")


if __name__ == "__main__":
    main()
