"""A loop of one process: a small MLP on scikit-learn's digits. `python plain.py STEPS HALF`

HALF is 0 or 1: the even digits or the odd ones are all that it sees. It prints the loss on all of them, which is low
only if something of the other half came in. A step takes 5 ms at least, so that exchanges have time to happen.

Other processes: 0 (nobody is needed).
"""

from __future__ import annotations

import sys
import time

import torch
from sklearn.datasets import load_digits
from torch import nn


def train(steps: int, half: int) -> float:
    images, labels = load_digits(return_X_y=True)
    inputs, targets = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    mine = (targets % 2 == half).nonzero().flatten()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(steps):
        batch = mine[torch.randint(len(mine), (32,))]
        loss = nn.functional.cross_entropy(model(inputs[batch]), targets[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        time.sleep(0.005)
    return nn.functional.cross_entropy(model(inputs), targets).item()


if __name__ == "__main__":
    print(f"last loss {train(int(sys.argv[1]), int(sys.argv[2])):.4f}", flush=True)
