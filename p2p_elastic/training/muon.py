"""Muon for matrices, and AdamW for all else, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from p2p_elastic.errors import ConfigError

DEFAULT_LEARNING_RATE = 0.003
"""Measured with 0.001, 0.003, 0.01. mnist-small, test loss after 400 steps, mean of three seeds: 0.195, 0.180, 0.358;
SGD 0.284. stdlib-gpt, 8 examples a step, training loss of steps 51 to 60, one seed: 2.99, 2.57, 2.51; AdamW with 0.003
2.70. Digits, test accuracy after 600 steps, one seed: 0.989 and 0.981 with the first two; SGD 0.975.
"""
BETAS = (0.9, 0.95)  # of AdamW
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)  # matrices by shape, but each step changes a few rows of them


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon` for the matrices of a model, `torch.optim.AdamW` for its other parameters.

    Embeddings, the output layer, kernels of convolutions and vectors are AdamW's. The output layer is the model's last
    matrix, trained or not; a model without a hidden matrix is AdamW's alone. Steps of matrices are as long as AdamW's
    would be, so both have one learning rate. Vectors do not decay.

    Args:
        model: whose trained parameters it takes.
        lr: the learning rate.
        weight_decay: parameters shrink by it times the learning rate.

    Raises:
        ConfigError: if PyTorch is older than 2.9.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; the length of a step: Liu et al., Muon is
    Scalable for LLM Training, arXiv 2502.16982.
    """

    def __init__(self, model: nn.Module, lr: float = DEFAULT_LEARNING_RATE, weight_decay: float = 0.0) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ConfigError("optimizer", "muon", f"PyTorch 2.9 or later has it, {torch.__version__} has not")
        hidden = _hidden(model)
        trained = [p for p in model.parameters() if p.requires_grad]
        matrices = [p for p in trained if id(p) in hidden]
        others = [p for p in trained if id(p) not in hidden]
        self._parts: list[torch.optim.Optimizer] = []
        if matrices:
            muon = torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            self._parts.append(muon)
        if others:
            decaying = {"params": [p for p in others if p.dim() > 1], "weight_decay": weight_decay}
            vectors = {"params": [p for p in others if p.dim() <= 1], "weight_decay": 0.0}
            self._parts.append(torch.optim.AdamW([decaying, vectors], lr=lr, betas=BETAS))
        super().__init__([group for part in self._parts for group in part.param_groups], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step of each of the two.

        Args:
            closure: computes the loss and the gradients anew; None: the gradients are there.

        Returns:
            What the closure gave.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = iter(self.param_groups)
        for part in self._parts:  # states are loaded, and rates set, in this optimizer
            part.param_groups, part.state = [next(groups) for _ in part.param_groups], self.state
            part.step()
        return loss


def _hidden(model: nn.Module) -> set[int]:
    """The ids of the matrices between a model's input and its output."""
    modules = list(model.modules())
    looked_up = {id(p) for m in modules if isinstance(m, EMBEDDINGS) for p in m.parameters()}
    matrices = [id(p) for m in modules for p in m.parameters(recurse=False) if p.dim() == 2]  # a tied one twice
    return set(matrices) - looked_up - {*matrices[-1:]}
