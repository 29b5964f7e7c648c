#!/bin/sh
# torch 2.14.1: `torch.func.functional_call` leaves the values of the call in a layer that stands at two places of a
# model: the model is not as it was afterwards.
#
# Behaviour: by default (`tie_weights=True`) it names a tensor under all its names before it swaps the values in. A layer
# that is registered twice, as in `nn.Sequential(layer, layer)`, has one slot with two names: the second swap remembers
# the value of the call as the original, and puts it back at the end. The layer then has a plain tensor where its
# parameter was: an optimizer goes on with the parameter that the layer does not use any more, and nothing says so. With
# one parameter in two layers (tied weights) all is well. It is the same in 2.3.0. Reported as pytorch issue 164759.
#
# Expected by most: "functional" means that the model is as before. Whoever evaluates other parameters in a model that
# trains (trials, meta-learning, moving averages) loses what was trained.
# What helps: `tie_weights=False`, and to name further places of a tensor oneself, each once.
#
# Output seen (CPython 3.11, torch 2.14.1):
#   a layer twice: unchanged False, still the parameter False
#   tied weights: unchanged True, still the parameter True
#   a layer twice, tie_weights=False: unchanged True, still the parameter True
#
# Exits with 0 while this is so, and with 1 once it is not. Needs a Python of 3.10 to 3.13 with venv, and PyPI.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1
"$folder/venv/bin/python" -W ignore - <<'EOF'
import sys

import torch
from torch import nn


def try_out(name, model, layer, tie_weights=True):
    parameter, before = layer.weight, layer.weight.detach().clone()
    values = {"0.weight": torch.zeros(2, 2), "0.bias": torch.zeros(2)}
    torch.func.functional_call(model, values, (torch.ones(1, 2),), tie_weights=tie_weights)
    found = torch.equal(layer.weight, before), layer.weight is parameter
    print(f"{name}: unchanged {found[0]}, still the parameter {found[1]}")
    return found


layer = nn.Linear(2, 2)
seen = [try_out("a layer twice", nn.Sequential(layer, layer), layer)]
one, other = nn.Linear(2, 2), nn.Linear(2, 2)
other.weight = one.weight
seen.append(try_out("tied weights", nn.Sequential(one, other), other))
layer = nn.Linear(2, 2)
seen.append(try_out("a layer twice, tie_weights=False", nn.Sequential(layer, layer), layer, tie_weights=False))
sys.exit(seen != [(False, False), (True, True), (True, True)])
EOF
