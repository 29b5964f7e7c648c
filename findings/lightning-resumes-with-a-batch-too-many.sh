#!/usr/bin/env bash
# lightning 2.6.6, torch 2.14.1: a run with max_steps and no validation that resumes from a checkpoint of the end of an
# epoch trains one batch too many, with a batch_idx that no epoch has, and ends with other parameters.
#
# What one expects: trainer.fit(..., ckpt_path=...) from a checkpoint that ModelCheckpoint saved after an epoch begins
# the next epoch; with data in order and no dropout, it ends with the bits of a run that was not stopped.
# Behaviour: the loop of the epoch that is over is entered again. It does not count as done, since "validation is done"
# is false while restarting and no validation ever ran; so it takes one more batch, the first of the data, makes an
# optimizer step of it (whatever accumulate_grad_batches says), and all that follows is a step behind its schedule.
# With max_epochs instead of max_steps, or with a validation loop, however small, all is well: the cause is that loop.
# What helps: a val_dataloader, max_epochs, or checkpoints in the middle of an epoch with a loader that has state_dict.
# Output seen (8 batches an epoch, killed after two of three epochs; the last column is whether the bits are the same):
#   max_steps: first batches after resuming [(16, 8), (17, 0), (18, 1)], same bits: False
#   max_steps and validation: first batches after resuming [(16, 0), (17, 1), (18, 2)], same bits: True
#   max_epochs: first batches after resuming [(16, 0), (17, 1), (18, 2)], same bits: True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet lightning==2.6.6 torch==2.14.1 numpy
cat >"$work/look.py" <<'PY'
import logging
import sys
import warnings

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Line(pl.LightningModule):
    def __init__(self, fails_at):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.fails_at, self.seen = torch.nn.Linear(4, 1), fails_at, []

    def training_step(self, batch, batch_idx):
        if self.global_step == self.fails_at:
            raise InterruptedError
        self.seen.append((self.global_step, batch_idx))
        return (self.layer(batch) - 1).square().mean()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)


def fit(folder, length, validates, fails_at=None, resume=None):
    data = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))
    module = Line(fails_at)
    trainer = pl.Trainer(
        **length,
        callbacks=[ModelCheckpoint(folder, save_last=True)],
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    validation = DataLoader(data[:2], batch_size=2) if validates else None
    try:
        trainer.fit(module, DataLoader(data, batch_size=2), validation, ckpt_path=resume)
    except InterruptedError:
        pass
    return module


for name, length, validates in (
    ("max_steps", {"max_steps": 24}, False),
    ("max_steps and validation", {"max_steps": 24}, True),
    ("max_epochs", {"max_epochs": 3}, False),
):
    folder = f"{sys.argv[1]}/{name}"
    whole = fit(folder + "-whole", length, validates)
    fit(folder, length, validates, fails_at=20)
    resumed = fit(folder, length, validates, resume=folder + "/last.ckpt")
    same = torch.equal(whole.layer.weight, resumed.layer.weight)
    print(f"{name}: first batches after resuming {resumed.seen[:3]}, same bits: {same}")
PY
seen=$("$work/venv/bin/python" "$work/look.py" "$work" | tee /dev/stderr)
[ "$seen" = "max_steps: first batches after resuming [(16, 8), (17, 0), (18, 1)], same bits: False
max_steps and validation: first batches after resuming [(16, 0), (17, 1), (18, 2)], same bits: True
max_epochs: first batches after resuming [(16, 0), (17, 1), (18, 2)], same bits: True" ]
