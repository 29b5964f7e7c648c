#!/usr/bin/env bash
# torch 2.14.1, Python 3.10 to 3.14: an optimizer loads the compiler, though nothing is compiled.
#
# What one expects: torch.optim.SGD in an eager training loop needs no more than `import torch`.
# Behaviour: building it imports torch._dynamo and sympy, since its methods are wrapped for torch.compile. Where the
# building is made not to, its first step() does, by an `import torch._dynamo` inside the wrapper of step(). The functions
# under the wrappers (inspect.unwrap) need neither. On a small machine that is the largest part of a program's start.
# Output seen (times and sizes of a 2-core x86-64 machine; only the three lines without numbers are checked):
#   after import torch: compiler no
#   after SGD(...): compiler yes
#     1.4 s of CPU, 159 MB
#   the unwrapped methods: compiler no
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet torch==2.14.1 numpy
cat >"$work/look.py" <<'PY'
import inspect, resource, sys, time
import torch
from torch import optim

loaded = lambda: "yes" if {"torch._dynamo", "sympy"} <= set(sys.modules) else "no"
parameters = lambda: [torch.nn.Parameter(torch.ones(2))]
used = lambda: (time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
if sys.argv[1] == "plain":
    print("after import torch: compiler", loaded())
    before = used()
    optim.SGD(parameters(), lr=0.1)
    after = used()
    print("after SGD(...): compiler", loaded())
    print(f"  {after[0] - before[0]:.1f} s of CPU, {after[1] - before[1]:.0f} MB")
else:
    class SGD(optim.SGD):
        add_param_group = inspect.unwrap(optim.Optimizer.add_param_group)
        zero_grad = inspect.unwrap(optim.Optimizer.zero_grad)
        step = torch.no_grad()(inspect.unwrap(optim.SGD.step))
    made = SGD(parameters(), lr=0.1)
    made.param_groups[0]["params"][0].sum().backward()
    made.step()
    made.zero_grad()
    print("the unwrapped methods: compiler", loaded())
PY
seen=$({ "$work/venv/bin/python" "$work/look.py" plain; "$work/venv/bin/python" "$work/look.py" unwrapped; } | tee /dev/stderr | grep -v CPU)
[ "$seen" = "after import torch: compiler no
after SGD(...): compiler yes
the unwrapped methods: compiler no" ]
