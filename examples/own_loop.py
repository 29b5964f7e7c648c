"""A training loop of your own, in a swarm: a small CNN on scikit-learn's digits, AdamW, OneCycle and clipping.

python examples/own_loop.py                            # founds a run, and prints what the others need
python examples/own_loop.py --initial-peer MULTIADDR   # joins it, from this machine or another one
python examples/own_loop.py --output runs/mine --resume   # goes on from the newest checkpoint there, if there is one
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

import p2p_elastic as p2p


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--initial-peer", nargs="*", default=[])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--output")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--checkpoint-every", default="1m")
    parser.add_argument("--wait-for-peers", type=int, default=0)
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104  # other machines are to reach it
    asked = parser.parse_args()

    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1, torch.tensor(labels))
    loader = DataLoader(data, batch_size=32, shuffle=True, drop_last=True)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = OneCycleLR(optimizer, max_lr=1e-2, total_steps=asked.steps + 1)
    options = {
        "host": asked.host,
        "wait_for_peers": asked.wait_for_peers,
        "output": asked.output,
        "resume": asked.resume,
        "checkpoint_every": asked.checkpoint_every,
        "state": {"scheduler": scheduler},
    }

    with p2p.Swarm(model, optimizer, run="digits-cnn", initial_peers=asked.initial_peer, **options) as swarm:
        while scheduler.last_epoch < asked.steps and not swarm.should_stop:
            for inputs, targets in loader:
                loss = nn.functional.cross_entropy(model(inputs), targets)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()
                swarm.report(loss)
                if scheduler.last_epoch >= asked.steps:
                    break

    model.eval()
    right = (model(data.tensors[0]).argmax(1) == data.tensors[1]).float().mean()
    print(f"{100 * right:.2f} % right after {scheduler.last_epoch} steps")


if __name__ == "__main__":
    main()
