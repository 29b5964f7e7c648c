#!/usr/bin/env bash
# transformers 5.24.0, torch 2.14.1: a Trainer that was killed while it saved does not resume by itself, and one whose
# save ended before the optimizer's file goes on without the optimizer's memory, without a word.
#
# What one expects: resume_from_checkpoint=True goes on from the newest checkpoint that is whole; a checkpoint appears
# under its name once it is, or is checked before it is used.
# Behaviour: files are written one after the other into checkpoint-N itself, trainer_state.json last, and the newest
# folder is taken by its number. Without trainer_state.json that is a FileNotFoundError, though an older checkpoint is
# whole. Without optimizer.pt (and scheduler.pt) nothing is said: Adam begins with empty moments, at a later step.
# What helps: have a callback write a file of its own in on_save, which is called after all others were written, and
# resume from the newest folder that has it.
# Output seen (saved after steps 2 and 4 of 6; what is missing of the later one; Adam's count of steps at the end):
#   nothing: went on to step 6, Adam counted 6
#   optimizer.pt: went on to step 6, Adam counted 2
#   trainer_state.json: FileNotFoundError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet transformers==5.24.0 torch==2.14.1 accelerate==1.15.0
cat >"$work/look.py" <<'PY'
import logging
import os
import shutil
import sys

import torch
import transformers
from torch import nn
from transformers import Trainer, TrainingArguments

transformers.utils.logging.set_verbosity_error()
logging.disable(logging.WARNING)


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, inputs, labels):
        return {"loss": (self.layer(inputs) - labels).square().mean()}


def trainer(folder, steps):
    torch.manual_seed(0)
    data = [{"inputs": torch.randn(4), "labels": torch.randn(1)} for _ in range(32)]
    quiet = {"report_to": [], "disable_tqdm": True, "logging_strategy": "no", "use_cpu": True}
    return Trainer(Line(), TrainingArguments(folder, max_steps=steps, save_steps=2, **quiet), train_dataset=data)


first = sys.argv[1] + "/first"
trainer(first, 4).train()
for missing in ("nothing", "optimizer.pt", "trainer_state.json"):
    folder = f"{sys.argv[1]}/{missing}"
    shutil.copytree(first, folder)
    if missing != "nothing":
        os.unlink(f"{folder}/checkpoint-4/{missing}")
    resumed = trainer(folder, 6)
    try:
        resumed.train(resume_from_checkpoint=True)
    except Exception as error:
        print(f"{missing}: {type(error).__name__}")
        continue
    inner = getattr(resumed.optimizer, "optimizer", resumed.optimizer)
    counted = int(inner.state[inner.param_groups[0]["params"][0]]["step"])
    print(f"{missing}: went on to step {resumed.state.global_step}, Adam counted {counted}")
PY
seen=$("$work/venv/bin/python" "$work/look.py" "$work" | grep -E '^(nothing|optimizer.pt|trainer_state.json): ' | tee /dev/stderr)
[ "$seen" = "nothing: went on to step 6, Adam counted 6
optimizer.pt: went on to step 6, Adam counted 2
trainer_state.json: FileNotFoundError" ]
