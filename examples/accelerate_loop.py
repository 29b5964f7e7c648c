"""An `accelerate` loop in a swarm: mixed precision, accumulation, and checkpoints of Accelerator's own.

pip install 'p2p-elastic[accelerate]'
python examples/accelerate_loop.py                            # founds a run, and prints what the others need
python examples/accelerate_loop.py --initial-peer MULTIADDR --output runs/second
python examples/accelerate_loop.py --resume                   # goes on from its checkpoint
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import p2p_elastic as p2p
from p2p_elastic.integrations.accelerate import PeerState

ACCUMULATE = 2


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--initial-peer", nargs="*", default=[])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--save-steps", type=int, default=100)
    parser.add_argument("--output", default="runs/accelerate")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--wait-for-peers", type=int, default=0)
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104  # other machines are to reach it
    asked = parser.parse_args()

    order = DataLoaderConfiguration(use_seedable_sampler=True)  # of each epoch its own, the same after a restart
    accelerator = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=ACCUMULATE, dataloader_config=order)
    torch.manual_seed(0)
    inputs = torch.randn(4096, 16)
    data = TensorDataset(inputs, inputs.sin().sum(1, keepdim=True))
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=asked.steps + 1)
    loader = DataLoader(data, batch_size=32, shuffle=True)
    model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
    peer, folder = PeerState(), Path(asked.output) / "accelerate"
    accelerator.register_for_checkpointing(peer)
    if asked.resume and folder.exists():
        accelerator.load_state(str(folder))

    with p2p.Swarm(
        accelerator.unwrap_model(model),
        optimizer,
        run=None if asked.initial_peer or peer.resumed else "sines",
        initial_peers=asked.initial_peer,
        resume=peer.resumed,
        checkpoint_every="0",  # Accelerator saves
        output=asked.output,
        host=asked.host,
        wait_for_peers=asked.wait_for_peers,
    ) as swarm:
        peer.swarm = swarm
        while swarm.steps < asked.steps and not swarm.should_stop:
            epoch, done = divmod(swarm.steps * ACCUMULATE, len(loader))
            loader.set_epoch(epoch)
            for batch, targets in accelerator.skip_first_batches(loader, done):
                with accelerator.accumulate(model):
                    loss = nn.functional.mse_loss(model(batch), targets)
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    schedule.step()
                    optimizer.zero_grad()
                swarm.report(loss)
                if accelerator.sync_gradients and swarm.steps % asked.save_steps == 0:
                    accelerator.save_state(str(folder))
                if swarm.steps == asked.steps:
                    break


if __name__ == "__main__":
    main()
