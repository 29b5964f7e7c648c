"""The loop of `plain.py` with torchft's LocalSGD. `torchrun --nproc_per_node 1 with_torchft.py STEPS HALF`

TORCHFT_LIGHTHOUSE names the lighthouse. Parameters are averaged every 50 steps by all replica groups of the quorum.

Other processes: 1 (torchft_lighthouse, which tells the replica groups who is in the quorum).
"""

from __future__ import annotations

import sys
import time

import torch
from sklearn.datasets import load_digits
from torch import nn
from torchft import Manager, ProcessGroupGloo
from torchft.local_sgd import LocalSGD


def train(steps: int, half: int) -> float:
    images, labels = load_digits(return_X_y=True)
    inputs, targets = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    mine = (targets % 2 == half).nonzero().flatten()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    manager = Manager(
        pg=ProcessGroupGloo(),
        min_replica_size=2,
        use_async_quorum=False,
        state_dict=lambda: {"model": model.state_dict(), "optimizer": optimizer.state_dict()},
        load_state_dict=lambda state: (
            model.load_state_dict(state["model"]),
            optimizer.load_state_dict(state["optimizer"]),
        ),
    )
    with LocalSGD(manager, model, optimizer, sync_every=50):
        for _ in range(steps):
            batch = mine[torch.randint(len(mine), (32,))]
            loss = nn.functional.cross_entropy(model(inputs[batch]), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            time.sleep(0.005)
    manager.shutdown()
    return nn.functional.cross_entropy(model(inputs), targets).item()


if __name__ == "__main__":
    print(f"last loss {train(int(sys.argv[1]), int(sys.argv[2])):.4f}", flush=True)
