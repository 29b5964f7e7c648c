#!/bin/sh
# PyTorch 2.14.1: the second derivative through an autograd function whose backward is `once_differentiable` is an error
# from `.backward()`, and zero, without a word, from `torch.autograd.functional.hessian` and `torch.autograd.grad`.
#
# Behaviour: such a backward returns its gradients as outputs of a node that raises. The inputs of that node are fresh
# leaves, not what the gradients were made of. `.backward()` runs every node down to all leaves, and so the raising one.
# `torch.autograd.grad(gradient, inputs)` runs only the nodes that lead to `inputs`: the raising node does not, is left
# out, and the input counts as unused (None with `allow_unused=True`). `hessian` fills unused inputs with zeros.
#
# Expected by most: "trying to differentiate twice a function that was marked with @once_differentiable", always: that
# is what the decorator is for. A method that takes Hessian-vector products by `grad` (AdaHessian, influence functions,
# Newton-CG) instead trains on with a curvature of zero for every parameter before such a function.
# What helps: look for such functions in the graph of the loss; `hessian(..., strict=True)`, `allow_unused=False`.
#
# Output seen (CPython 3.11), of f(x) = x^4 as the square of such a square, at x = 3, where f'' = 108:
#   backward: RuntimeError: trying to differentiate twice a function that was marked with @once_differentiable
#   grad, allow_unused=True: None
#   functional.hessian: 0.0
#   functional.hessian without once_differentiable: 108.0
#
# Exits with 0 while this is so, and with 1 once it is not. Needs a Python of 3.10 to 3.14 with venv, PyPI, and 6 GB.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1
"$folder/venv/bin/python" -W ignore - <<'EOF'
import sys

import torch
from torch.autograd.function import once_differentiable
from torch.autograd.functional import hessian


def square(decorator):
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            ctx.save_for_backward(value)
            return value * value

        @staticmethod
        @decorator
        def backward(ctx, gradient):
            (value,) = ctx.saved_tensors
            return 2 * value * gradient

    return lambda value: Square.apply(value) ** 2


def first(function):
    x = torch.tensor(3.0, requires_grad=True)
    return x, *torch.autograd.grad(function(x), x, create_graph=True)


once, twice = square(once_differentiable), square(lambda backward: backward)
x, gradient = first(once)
try:
    gradient.backward()
    raised = ""
except RuntimeError as error:
    raised = str(error)
print(f"backward: RuntimeError: {raised}" if raised else "backward: no error")
x, gradient = first(once)
(unused,) = torch.autograd.grad(gradient, x, allow_unused=True)
print(f"grad, allow_unused=True: {unused}")
silent, right = (float(hessian(function, torch.tensor(3.0))) for function in (once, twice))
print(f"functional.hessian: {silent}")
print(f"functional.hessian without once_differentiable: {right}")
same = "once_differentiable" in raised and unused is None and silent == 0.0 and right == 108.0
sys.exit(0 if same else 1)
EOF
