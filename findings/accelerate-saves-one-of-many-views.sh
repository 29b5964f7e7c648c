#!/usr/bin/env bash
# accelerate 1.15.0, torch 2.14.1, safetensors 0.8.0: save_state() and save_model() leave parameters out of the file, and
# say "This should be OK", if the parameters are views of one storage that do not overlap.
#
# What one expects: such parameters, as flattened ones of an optimizer or an exchange are,
# are as different as any. torch.save writes all of them; safetensors' own save_model raises rather than lose one.
# Behaviour: clean_state_dict_for_safetensors takes what has the same storage for tied weights, without a look at offsets
# and shapes, and keeps one name of them. A warning is logged; the values of all others are in no file. Loading fails
# much later, when the process that had them is gone.
# What helps: parameters with storages of their own; a storage may be made for a part of memory without a copy, such as
# by torch.from_dlpack(view). Or save_state(safe_serialization=False).
# Output seen:
#   tied to the same storage: 4 parameters that do not overlap
#   in the file of save_state: ['0.weight']
#   in the file of save_model: ['0.weight']
#   load_state: RuntimeError
#   safetensors.torch.save_model: RuntimeError
#   by way of from_dlpack, in the file of save_state: ['0.bias', '0.weight', '1.bias', '1.weight']
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet accelerate==1.15.0 torch==2.14.1 safetensors==0.8.0 numpy
cat >"$work/look.py" <<'PY'
import sys

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_model


def flattened(own):
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2))
    flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    place = 0
    for parameter in model.parameters():
        view = flat[place : place + parameter.numel()].view(parameter.shape)
        parameter.data = torch.from_dlpack(view) if own else view
        place += parameter.numel()
    return model


def outcome(call, *arguments):
    try:
        call(*arguments)
    except RuntimeError as error:
        return type(error).__name__
    return "no error"


folder, accelerator = sys.argv[1], Accelerator(cpu=True)
model = accelerator.prepare(flattened(own=False))
storages = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
print("tied to the same storage:" if len(storages) == 1 else "apart:", len(list(model.parameters())), "parameters that do not overlap")
accelerator.save_state(f"{folder}/state")
print("in the file of save_state:", sorted(load_file(f"{folder}/state/model.safetensors")))
accelerator.save_model(model, f"{folder}/model")
print("in the file of save_model:", sorted(load_file(f"{folder}/model/model.safetensors")))
print("load_state:", outcome(accelerator.load_state, f"{folder}/state"))
print("safetensors.torch.save_model:", outcome(save_model, model, f"{folder}/other.safetensors"))
accelerator = Accelerator(cpu=True)
accelerator._models.clear()
accelerator.prepare(flattened(own=True))
accelerator.save_state(f"{folder}/own")
print("by way of from_dlpack, in the file of save_state:", sorted(load_file(f"{folder}/own/model.safetensors")))
PY
seen=$("$work/venv/bin/python" "$work/look.py" "$work" | tee /dev/stderr)
[ "$seen" = "tied to the same storage: 4 parameters that do not overlap
in the file of save_state: ['0.weight']
in the file of save_model: ['0.weight']
load_state: RuntimeError
safetensors.torch.save_model: RuntimeError
by way of from_dlpack, in the file of save_state: ['0.bias', '0.weight', '1.bias', '1.weight']" ]
