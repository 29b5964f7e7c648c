#!/bin/sh
# schedulefree 1.4.1 with torch 2.14.1: after `optimizer.state.clear()` AdamWScheduleFree goes on as if it had old averages.
#
# Behaviour: it counts its steps (k), and sums the weights of its average (weight_sum), in its parameter groups, not in the
# state of each parameter. Whoever clears the state, because the parameters were replaced by those of another worker or of
# an older checkpoint, has new second moments that are corrected as if they were old, and an average x that hardly follows:
# after 500 steps the first step moves z by sqrt((1 - 0.999^501) / 0.001) = 20 times the learning rate, and the parameters,
# of which z is a tenth, by 2 times.
#
# Expected by most: what torch.optim.AdamW does, whose count is in the state: the first step is as long as any first one.
# What helps: set k = 0, weight_sum = 0.0 and lr_max = -1.0 in each group as well.
#
# Output seen (CPython 3.11, torch 2.14.1, schedulefree 1.4.1), the first step in learning rates:
#   AdamW: new 1.00, after state.clear() 1.00
#   AdamWScheduleFree: new 1.00 (z 1.00), after state.clear() 2.02 (z 19.86), with its groups reset 1.00 (z 1.00)
#
# Exits with 0 while this is so, and with 1 once it is not. Needs a Python of 3.10 to 3.13 with venv, and PyPI.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 schedulefree==1.4.1
"$folder/venv/bin/python" -W ignore - <<'EOF'
import sys

import schedulefree
import torch

RATE = 0.01


def first_step(kind, steps_before, reset=False):
    """How far the parameter, and z, go in the first step after its state was cleared, in learning rates."""
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = kind([parameter], lr=RATE, weight_decay=0.0)
    getattr(optimizer, "train", lambda: None)()

    def step():
        before = parameter.item()
        parameter.grad = torch.ones(1)
        optimizer.step()
        z = optimizer.state[parameter].get("z", parameter)
        return abs(parameter.item() - before) / RATE, abs(z.item() - before) / RATE

    for _ in range(steps_before):
        step()
    optimizer.state.clear()
    if reset:
        for group in optimizer.param_groups:
            group.update(k=0, weight_sum=0.0, lr_max=-1.0)
    return step()


plain = [first_step(torch.optim.AdamW, steps)[0] for steps in (0, 500)]
kind = schedulefree.AdamWScheduleFree
new, cleared, reset = first_step(kind, 0), first_step(kind, 500), first_step(kind, 500, reset=True)
print("AdamW: new %.2f, after state.clear() %.2f" % tuple(plain))
text = "AdamWScheduleFree: new %.2f (z %.2f), after state.clear() %.2f (z %.2f), with its groups reset %.2f (z %.2f)"
print(text % (*new, *cleared, *reset))
good = all(abs(value - 1.0) < 0.01 for value in (*plain, *new, *reset)) and cleared[0] > 1.5 and cleared[1] > 10.0
sys.exit(0 if good else "the behaviour changed")
EOF
