"""transformers.Trainer with LoRA in a swarm: only the adapters travel. The base has random weights: no download.

pip install 'p2p-elastic[transformers]' peft
python examples/transformers_lora.py                            # founds a run, and prints what the others need
python examples/transformers_lora.py --initial-peer MULTIADDR --output runs/second
python examples/transformers_lora.py --resume                   # goes on from the Trainer's newest checkpoint
"""

from __future__ import annotations

import argparse

import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from p2p_elastic.integrations.transformers import SwarmCallback, last_checkpoint

TEXT = (__doc__ or "").encode() * 20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--initial-peer", nargs="*", default=[])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--save-steps", type=int, default=50)
    parser.add_argument("--output", default="runs/lora")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--wait-for-peers", type=int, default=0)
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104  # other machines are to reach it
    asked = parser.parse_args()

    torch.manual_seed(0)  # the base has to be the same everywhere
    size = {"vocab_size": 256, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2}
    base = GPT2LMHeadModel(GPT2Config(**size, bos_token_id=0, eos_token_id=0))
    lora = LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    model = get_peft_model(base, lora)
    pieces = torch.tensor(list(TEXT)).unfold(0, 32, 16)
    data = [{"input_ids": piece, "labels": piece} for piece in pieces]

    callback = SwarmCallback(
        "tiny-lora" if not asked.initial_peer else None,
        asked.initial_peer,
        host=asked.host,
        wait_for_peers=asked.wait_for_peers,
    )
    arguments = TrainingArguments(
        asked.output,
        max_steps=asked.steps,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        save_steps=asked.save_steps,
        logging_steps=50,
        report_to=[],
        disable_tqdm=True,
    )
    with callback:  # leaves the run also if training fails
        Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train(
            resume_from_checkpoint=last_checkpoint(asked.output) if asked.resume else None
        )


if __name__ == "__main__":
    main()
