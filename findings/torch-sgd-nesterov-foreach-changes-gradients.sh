#!/bin/sh
# torch 2.14.1: `torch.optim.SGD` with Nesterov's momentum leaves other gradients behind, depending on `foreach`.
#
# Behaviour: on a CPU the default (`foreach=None`) takes the single-tensor way: it computes the gradient with momentum in
# a new tensor, one more copy of the largest parameter, and `p.grad` stays as backward made it. With `foreach=True`, which
# is the default on CUDA, the momentum is added into `p.grad` itself: whoever reads gradients after the step (norms to
# log, a second optimizer, an average of gradients) reads others, and which they are depends on the device. The parameters
# are the same to the bit in float32, and not in bfloat16.
#
# Expected by most: `foreach` chooses how fast a step is, and changes neither gradients nor parameters.
# What helps: read gradients before the step; choose `foreach` yourself if runs on a CPU and a GPU are compared.
#
# Output seen (CPython 3.11, torch 2.14.1):
#   foreach=None: gradients as before the step True
#   foreach=True: gradients as before the step False
#   the same parameters after 50 steps: float32 True, bfloat16 False
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


def trained(foreach, dtype):
    """The parameter after 50 steps, and whether each step left its gradient alone."""
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(64, 64, dtype=dtype))
    inputs = torch.randn(32, 64, dtype=dtype)
    optimizer = torch.optim.SGD([parameter], lr=0.01, momentum=0.9, nesterov=True, foreach=foreach)
    kept = True
    for _ in range(50):
        optimizer.zero_grad()
        (inputs @ parameter).square().mean().backward()
        before = parameter.grad.clone()
        optimizer.step()
        kept = kept and torch.equal(parameter.grad, before)
    return parameter.detach(), kept


single, single_kept = trained(None, torch.float32)
several, several_kept = trained(True, torch.float32)
print(f"foreach=None: gradients as before the step {single_kept}")
print(f"foreach=True: gradients as before the step {several_kept}")
same = torch.equal(single, several), torch.equal(trained(None, torch.bfloat16)[0], trained(True, torch.bfloat16)[0])
print(f"the same parameters after 50 steps: float32 {same[0]}, bfloat16 {same[1]}")
sys.exit((single_kept, several_kept, *same) != (True, False, True, False))
EOF
