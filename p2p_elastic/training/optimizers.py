"""Optimizers that do not load the compiler.

Each of torch's optimizers imports `torch._dynamo`, and sympy with it, when it is built and when it steps, for
`torch.compile`. That takes longer than all else at a peer's start (torch 2.14.1: 1.4 s of CPU, 160 MB). All else that
these methods do is PyTorch's, unchanged.
"""

from __future__ import annotations

import inspect

import torch


class EagerOptimizer(torch.optim.Optimizer):
    """An optimizer whose methods are not wrapped for `torch.compile`."""

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)


class SGD(EagerOptimizer, torch.optim.SGD):
    """`torch.optim.SGD`, bit for bit; not to be compiled."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))
