"""A table of numbers in a swarm: an MLP on scikit-learn's diabetes data, whose partners are tried before they move it.

python examples/tabular.py                            # founds a run, and prints what the others need
python examples/tabular.py --initial-peer MULTIADDR   # joins it, from this machine or another one
python examples/tabular.py --output runs/mine --resume   # goes on from the newest checkpoint there, if there is one

With `loss=` and `report(loss, batch)` this peer tries a partner's parameters on its own rows: those of a peer that
learnt nothing useful count for less. What `measured` is told is on the page of this peer, and in its summary.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_diabetes
from torch import nn

import p2p_elastic as p2p


def losses(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """One for each row."""
    return (model(batch[0]).squeeze(1) - batch[1]).square()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--initial-peer", nargs="*", default=[])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--output")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--checkpoint-every", default="1m")
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104  # other machines are to reach it
    asked = parser.parse_args()

    table, target = (torch.tensor(part, dtype=torch.float32) for part in load_diabetes(return_X_y=True))
    table, target = table / table.std(dim=0), (target - target.mean()) / target.std()
    rows, test = (table[60:], target[60:]), (table[:60], target[:60])
    model = nn.Sequential(nn.Linear(10, 64), nn.LayerNorm(64), nn.GELU(), nn.Dropout(0.3), nn.Linear(64, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    options = {"host": asked.host, "output": asked.output, "resume": asked.resume}
    options |= {"checkpoint_every": asked.checkpoint_every, "loss": losses, "examples": [rows]}

    with p2p.Swarm(model, optimizer, run="diabetes", initial_peers=asked.initial_peer, **options) as swarm:
        while swarm.steps < asked.steps and not swarm.should_stop:
            chosen = torch.randint(len(rows[0]), (32,))
            batch = (rows[0][chosen], rows[1][chosen])
            loss = losses(model, batch).mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            swarm.report(loss, batch)
            if swarm.steps % 100 == 0:
                model.eval()
                with torch.no_grad():
                    swarm.measured(rmse=losses(model, test).mean().sqrt())
                model.train()


if __name__ == "__main__":
    main()
