"""A small language model of your own in a swarm: bytes of Python's standard library, accumulation, a schedule.

python examples/language_model.py                            # founds a run, and prints what the others need
python examples/language_model.py --initial-peer MULTIADDR   # joins it, from this machine or another one
python examples/language_model.py --output runs/mine --resume   # goes on from the newest checkpoint there

The learning rate follows the run and not this peer's own count: who joins late begins where the run is, without a
second warm-up. A codec such as `int8` sends a quarter of the bytes.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

import torch
from torch import Tensor, nn

import p2p_elastic as p2p

CONTEXT, WARMUP, ACCUMULATE = 32, 50, 2


class LanguageModel(nn.Module):
    """Predicts the next byte."""

    def __init__(self, width: int = 48, layers: int = 2) -> None:
        super().__init__()
        self.bytes, self.positions = nn.Embedding(256, width), nn.Embedding(CONTEXT, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.1, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 256, bias=False)
        self.head.weight = self.bytes.weight  # tied: it travels once
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(CONTEXT))  # -inf: it stays here

    def forward(self, text: Tensor) -> Tensor:
        """Compute logits [B, T, 256] of bytes [B, T]."""
        hidden = self.bytes(text) + self.positions.weight
        return self.head(self.layers(hidden, mask=self.mask, is_causal=True))


def rate(step: int, steps: int) -> float:
    """Rise for WARMUP steps, then fall along a cosine."""
    if step < WARMUP:
        return 3e-3 * (step + 1) / WARMUP
    return 1.5e-3 * (1 + math.cos(math.pi * min(1.0, (step - WARMUP) / max(1, steps - WARMUP))))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--initial-peer", nargs="*", default=[])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--output")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--checkpoint-every", default="1m")
    parser.add_argument("--codec", default="none")
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104  # other machines are to reach it
    asked = parser.parse_args()

    sources = sorted(Path(os.__file__).parent.glob("*.py"))[:60]
    text = torch.frombuffer(bytearray(b"".join(path.read_bytes() for path in sources)), dtype=torch.uint8).long()
    windows = text.unfold(0, CONTEXT + 1, 1)
    model = LanguageModel()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    options = {"host": asked.host, "output": asked.output, "resume": asked.resume, "codec": asked.codec}
    options |= {"checkpoint_every": asked.checkpoint_every}

    with p2p.Swarm(model, optimizer, run="bytes", initial_peers=asked.initial_peer, **options) as swarm:
        while swarm.steps < asked.steps and not swarm.should_stop:
            optimizer.param_groups[0]["lr"] = rate(swarm.start_step + swarm.steps, asked.steps)
            for _ in range(ACCUMULATE):
                batch = windows[torch.randint(len(windows), (16,))]
                loss = nn.functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
                (loss / ACCUMULATE).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            swarm.report(loss)
            if swarm.steps % 50 == 0:
                swarm.measured(perplexity=loss.detach().exp())


if __name__ == "__main__":
    main()
