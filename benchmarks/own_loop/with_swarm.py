"""The loop of `plain.py` in a swarm of p2p-elastic. `python with_swarm.py STEPS HALF [MULTIADDR]`

Other processes: 0 (whoever starts first founds the run; the others join it).
"""

from __future__ import annotations

import sys
import time

import torch
from sklearn.datasets import load_digits
from torch import nn

import p2p_elastic as p2p


def train(steps: int, half: int) -> float:
    images, labels = load_digits(return_X_y=True)
    inputs, targets = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    mine = (targets % 2 == half).nonzero().flatten()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with p2p.Swarm(
        model, optimizer, run="digits", initial_peers=sys.argv[3:], host="127.0.0.1", wait_for_peers=1
    ) as swarm:
        for _ in range(steps):
            batch = mine[torch.randint(len(mine), (32,))]
            loss = nn.functional.cross_entropy(model(inputs[batch]), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            time.sleep(0.005)
            swarm.report(loss)
    return nn.functional.cross_entropy(model(inputs), targets).item()


if __name__ == "__main__":
    print(f"last loss {train(int(sys.argv[1]), int(sys.argv[2])):.4f}", flush=True)
