"""The loop of `plain.py` with `hivemind.Optimizer`. `python with_hivemind.py STEPS HALF [MULTIADDR]`

As its quick start does it: local updates, and parameters are averaged each time the peers together saw
`target_batch_size` examples.

Other processes: 0 (whoever starts first is the first node of the DHT; the others are given its address).
"""

from __future__ import annotations

import sys
import time

import hivemind
import torch
from sklearn.datasets import load_digits
from torch import nn


def train(steps: int, half: int) -> float:
    images, labels = load_digits(return_X_y=True)
    inputs, targets = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    mine = (targets % 2 == half).nonzero().flatten()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    dht = hivemind.DHT(initial_peers=sys.argv[3:], start=True)
    print(f"address {dht.get_visible_maddrs()[0]}", flush=True)
    optimizer = hivemind.Optimizer(
        dht=dht,
        run_id="digits",
        batch_size_per_step=32,
        target_batch_size=16000,
        optimizer=optimizer,
        use_local_updates=True,
        matchmaking_time=3.0,
        averaging_timeout=10.0,
    )
    if sys.argv[3:]:
        optimizer.load_state_from_peers()
    for _ in range(steps):
        batch = mine[torch.randint(len(mine), (32,))]
        loss = nn.functional.cross_entropy(model(inputs[batch]), targets[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        time.sleep(0.005)
    optimizer.shutdown()
    dht.shutdown()
    return nn.functional.cross_entropy(model(inputs), targets).item()


if __name__ == "__main__":
    print(f"last loss {train(int(sys.argv[1]), int(sys.argv[2])):.4f}", flush=True)
