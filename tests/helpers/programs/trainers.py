"""A small model in the trainer of another project, in a swarm, for tests: accumulation of 2, AdamW, and a schedule.

Takes the arguments of `p2p-elastic join` that the tests' processes are started with, and speaks JSON as that does. The
data are the same in each life, so that one that was resumed can be compared with one that was never stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

from p2p_elastic import Swarm
from p2p_elastic.screens.live import Screen, open_screen

ACCUMULATE = 2


class Asked(NamedTuple):
    """What is asked for: options of the swarm, and of this program."""

    options: dict[str, Any]
    output: Path
    steps: int
    save_steps: int
    rest: float
    resume: bool

    def tried(self, losses: Tensor) -> Tensor:
        """Say that parameters were tried, by the losses [B] of a batch."""
        self.options["screen"].say("tried", "", loss=float(losses.mean()))
        return losses


class Trained(NamedTuple):
    """What is left."""

    step: int
    model: nn.Module
    optimizer: torch.optim.Optimizer
    rates: Sequence[float]

    def say(self, screen: Screen) -> None:
        """Parameters and the optimizer's state as a digest of all bits."""
        digest = hashlib.sha256()
        state = self.optimizer.state
        for name, parameter in self.model.named_parameters():
            kept = state.get(parameter, {})
            for tensor in (parameter.detach(), *(kept[key] for key in sorted(kept))):
                digest.update(name.encode() + tensor.float().contiguous().numpy().tobytes())
        screen.say("result", "", step=self.step, bits=digest.hexdigest(), rates=list(self.rates), kept=len(state))


def transformers(asked: Asked) -> Trained:
    """LoRA on a random base, with dropout: the Trainer keeps the random numbers."""
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

    from p2p_elastic.integrations.transformers import SwarmCallback, last_checkpoint

    class Rest(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            time.sleep(asked.rest)

    size = {"vocab_size": 64, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
    base = GPT2LMHeadModel(GPT2Config(**size, bos_token_id=0, eos_token_id=0))
    lora = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, lora_dropout=0.1, task_type="CAUSAL_LM")
    model = get_peft_model(base, lora)
    text = torch.arange(256 * 16).remainder(61).view(256, 16)
    arguments = TrainingArguments(
        str(asked.output),
        max_steps=asked.steps,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=ACCUMULATE,
        learning_rate=1e-2,
        lr_scheduler_type="cosine",
        save_steps=asked.save_steps,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )

    def loss_of(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        logits = model(input_ids=batch["input_ids"]).logits[:, :-1]
        losses = nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="none")
        return asked.tried(losses.view(len(logits), -1).mean(1))

    swarm = SwarmCallback(loss=loss_of, **asked.options)
    data = [{"input_ids": row, "labels": row} for row in text]
    trainer = Trainer(model, arguments, train_dataset=data, callbacks=[swarm, Rest()])
    with swarm:
        trainer.train(resume_from_checkpoint=last_checkpoint(asked.output) if asked.resume else None)
    optimizer = trainer.optimizer.optimizer
    return Trained(trainer.state.global_step, model, optimizer, trainer.lr_scheduler.get_last_lr())


def lightning(asked: Asked) -> Trained:
    """Checkpoints at the end of epochs, and data in order: Lightning does not keep the random numbers.

    There is a validation: without one, and with `max_steps`, Lightning 2.6 resumes with a batch too many.
    """
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import ModelCheckpoint

    from p2p_elastic.integrations.lightning import SwarmCallback

    class Line(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layers = layers(dropout=0.0)

        def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
            time.sleep(asked.rest / ACCUMULATE)
            return nn.functional.mse_loss(self.layers(batch[0]), batch[1])

        def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
            self.layers(batch[0])

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
            schedule = OneCycleLR(optimizer, 1e-2, total_steps=asked.steps + 1)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def loss_of(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
        assert isinstance(model, Line)
        return asked.tried((model.layers(batch[0]) - batch[1]).square().mean(1))

    inputs = torch.randn(8 * ACCUMULATE * asked.save_steps, 8, generator=torch.Generator().manual_seed(3))
    module = Line()
    trainer = pl.Trainer(
        max_steps=asked.steps,
        accumulate_grad_batches=ACCUMULATE,
        callbacks=[SwarmCallback(loss=loss_of, **asked.options), ModelCheckpoint(asked.output, save_last=True)],
        default_root_dir=asked.output,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(TensorDataset(inputs, inputs.sin().sum(1, keepdim=True)), batch_size=8)
    last = asked.output / "last.ckpt" if asked.resume else None
    trainer.fit(module, loader, DataLoader(TensorDataset(inputs[:8]), batch_size=8), ckpt_path=last)
    rates = trainer.lr_scheduler_configs[0].scheduler.get_last_lr()
    return Trained(trainer.global_step, module, trainer.optimizers[0], rates)


def accelerate(asked: Asked) -> Trained:
    """With dropout: accelerate keeps the random numbers. The place in the data is kept beside them."""
    from accelerate import Accelerator

    from p2p_elastic.integrations.accelerate import PeerState

    accelerator, folder = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATE), asked.output / "state"
    model = layers(dropout=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = OneCycleLR(optimizer, 1e-2, total_steps=asked.steps + 1)
    noise, peer = Noise(), PeerState()
    model, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)
    accelerator.register_for_checkpointing(noise, peer)
    if asked.resume:
        accelerator.load_state(str(folder))
    if peer.resumed:
        asked.options.pop("run")

    def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
        return asked.tried((model(batch) - batch.sin().sum(1, keepdim=True)).square().mean(1))

    plain, options = accelerator.unwrap_model(model), {"loss": loss_of, "checkpoint_every": "0", **asked.options}
    with Swarm(plain, optimizer, resume=peer.resumed, **options) as swarm:
        peer.swarm, step = swarm, swarm.status().training.step
        while step < asked.steps and not swarm.should_stop:
            for batch in (next(noise) for _ in range(ACCUMULATE)):
                with accelerator.accumulate(model):
                    loss = nn.functional.mse_loss(model(batch), batch.sin().sum(1, keepdim=True))
                    accelerator.backward(loss)
                    optimizer.step()
                    schedule.step()
                    optimizer.zero_grad()
                swarm.report(loss, batch)
            step += 1
            if step % asked.save_steps == 0:
                accelerator.save_state(str(folder))
            time.sleep(asked.rest)
    return Trained(step, plain, optimizer.optimizer, schedule.get_last_lr())


def layers(dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 1))


class Noise(Iterator[Tensor]):
    """Random inputs, and the place in them."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(3)

    def __next__(self) -> Tensor:
        return torch.randn(8, 8, generator=self._generator)

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._generator.set_state(state["generator"])


TRAINERS = {"transformers": transformers, "lightning": lightning, "accelerate": accelerate}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("join")
    for name in ("host", "run", "log-format"):
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS)
    for name in ("port", "http-port", "period", "wait-for-peers"):
        parser.add_argument(f"--{name}", type=int, default=argparse.SUPPRESS)
    parser.add_argument("--initial-peers", nargs="*", default=[])
    parser.add_argument("--trainer", choices=TRAINERS, required=True)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--save-steps", type=int, default=50)
    parser.add_argument("--rest", type=float, default=0.0)
    parser.add_argument("--resume", action="store_true")
    options = vars(parser.parse_args())
    names = ("steps", "save_steps", "rest", "resume")
    own = {name: options.pop(name) for name in ("join", "trainer", "threads", "log_format", *names)}
    screen = open_screen(own["log_format"])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    options = {**options, "screen": screen, "run": options.get("run"), "output": options["output"] / "peer"}
    asked = Asked(options, options["output"].parent, **{name: own[name] for name in names})
    TRAINERS[own["trainer"]](asked).say(screen)


if __name__ == "__main__":
    main()
