"""lightning.pytorch.Trainer in a swarm: an MLP on scikit-learn's digits.

pip install 'p2p-elastic[lightning]'
python examples/lightning_classifier.py                            # founds a run, and prints what the others need
python examples/lightning_classifier.py --initial-peer MULTIADDR --output runs/second
python examples/lightning_classifier.py --resume                   # goes on from Lightning's newest checkpoint
"""

from __future__ import annotations

import argparse
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from p2p_elastic.integrations.lightning import SwarmCallback


class Classifier(pl.LightningModule):
    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.layers = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        inputs, labels = batch
        return nn.functional.cross_entropy(self.layers(inputs), labels)

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        inputs, labels = batch
        self.log("accuracy", (self.layers(inputs).argmax(1) == labels).float().mean())

    def configure_optimizers(self):  # Lightning's own type is long
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=self.steps + 1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--initial-peer", nargs="*", default=[])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--output", default="runs/lightning")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--wait-for-peers", type=int, default=0)
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104  # other machines are to reach it
    asked = parser.parse_args()

    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images, dtype=torch.float32) / 8 - 1, torch.tensor(labels))
    train, validation = random_split(data, [0.9, 0.1], torch.Generator().manual_seed(0))
    swarm = SwarmCallback(
        "digits-mlp" if not asked.initial_peer else None,
        asked.initial_peer,
        host=asked.host,
        wait_for_peers=asked.wait_for_peers,
    )
    saving = ModelCheckpoint(asked.output, save_last=True, every_n_epochs=1)
    trainer = pl.Trainer(
        max_steps=asked.steps,
        accumulate_grad_batches=2,
        callbacks=[swarm, saving],
        default_root_dir=asked.output,
        logger=False,
        enable_progress_bar=False,
    )
    last = Path(asked.output) / "last.ckpt"
    loaders = DataLoader(train, batch_size=32, shuffle=True), DataLoader(validation, batch_size=256)
    trainer.fit(Classifier(asked.steps), *loaders, ckpt_path=last if asked.resume and last.exists() else None)
    print({name: round(float(value), 4) for name, value in trainer.callback_metrics.items()})


if __name__ == "__main__":
    main()
