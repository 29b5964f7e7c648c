#!/bin/sh
# schedulefree 1.4.1 with torch 2.14.1: adding d to the parameters between two steps moves the weights that are evaluated
# by more than d, and the steps that follow take a part of it back.
#
# Behaviour: in training mode the parameters are y = (1 - b) z + b x, with b = 0.9 by default. `eval()` computes the
# weights x from y and from z, which is in the optimizer's state. Whoever changes the parameters in place, as averaging
# with another worker, an EMA that is written back or a projection does, changes y and not z: so x moves by d / b at once.
# If z is moved by d as well, x and y move by d, and training goes on as if the problem had been moved with them.
#
# Expected by most: what is added to the parameters is added to the weights, as with every optimizer of torch.optim.
# What helps: add the same to `optimizer.state[p]["z"]`.
#
# Output seen (CPython 3.11, torch 2.14.1, schedulefree 1.4.1), for d = 1:
#   AdamWScheduleFree: y + 1: evaluated +1.111; 50 steps later +0.583; with z: +1.000; +1.000
#   SGDScheduleFree: y + 1: evaluated +1.111; 50 steps later +0.609; with z: +1.000; +1.000
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


def evaluated(optimizer, parameter):
    optimizer.eval()
    value = parameter.item()
    optimizer.train()
    return value


def run(kind, change, with_z):
    """The evaluated weight right after the change and 50 steps later, in a problem that is moved along."""
    torch.manual_seed(0)
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = kind([parameter], lr=0.01)
    optimizer.train()
    goal, found = 1.0, []
    for step in range(100):
        if step == 50 and change:
            with torch.no_grad():
                parameter.add_(change)
                if with_z:
                    optimizer.state[parameter]["z"].add_(change)
            goal += change
        if step == 50:
            found.append(evaluated(optimizer, parameter))
        optimizer.zero_grad()
        ((parameter - goal) ** 2).sum().backward()
        optimizer.step()
    return [*found, evaluated(optimizer, parameter)]


def moved(kind, with_z):
    return [after - before for after, before in zip(run(kind, 1.0, with_z), run(kind, 0.0, False))]


good = True
for kind in (schedulefree.AdamWScheduleFree, schedulefree.SGDScheduleFree):
    alone, both = moved(kind, False), moved(kind, True)
    print(f"{kind.__name__}: y + 1: evaluated {alone[0]:+.3f}; 50 steps later {alone[1]:+.3f}; with z: {both[0]:+.3f}; {both[1]:+.3f}")
    good &= abs(alone[0] - 1.0 / 0.9) < 1e-3 and abs(alone[1] - 1.0) > 1e-2
    good &= abs(both[0] - 1.0) < 1e-3 and abs(both[1] - 1.0) < 1e-3
sys.exit(0 if good else "the behaviour changed")
EOF
