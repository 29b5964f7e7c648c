"""A swarm in `transformers.Trainer`.

with SwarmCallback(run="tinygpt", initial_peers=[...]) as swarm:
    Trainer(model, args, train_dataset=data, callbacks=[swarm]).train()
"""

from __future__ import annotations

import atexit
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy
from typing_extensions import Unpack

from p2p_elastic.common.files import replacing
from p2p_elastic.common.metrics import nameable_metrics
from p2p_elastic.errors import ConfigError
from p2p_elastic.node.options import Options
from p2p_elastic.parameters.choice import Exchange
from p2p_elastic.swarm import Swarm
from p2p_elastic.tasks.batch import Batch
from p2p_elastic.tasks.measures import Loss

log = logging.getLogger(__name__)

PEER_FILE = "swarm_peer.json"  # in a checkpoint of the Trainer, for its owner alone: it has the key of the peer
TIMES = ("_runtime", "_per_second", "_time")  # the ends of names of what is no metric of the model
OUTPUT = "_swarm"  # the Trainer uploads nothing whose name begins so
PUBLISHED = (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS)


class SwarmCallback(TrainerCallback):
    """Takes part in a run while the Trainer trains: from the first step to the last, or to an error.

    Checkpoints are the Trainer's own: `resume_from_checkpoint=last_checkpoint(output_dir)` goes on as the same peer.
    With several processes (DistributedDataParallel) rank 0 is the peer. The loss is that of each optimizer step,
    however many batches it has; if the model does not compute it, such as with label smoothing, it is the one that the
    Trainer logs.

    The Trainer says nothing when training fails: as a context, this leaves the run then; else when the program ends.

    Args:
        run: as in `Swarm`.
        initial_peers: as in `Swarm`.
        exchange: as in `Swarm`; by default what trains, such as the adapters of a model with LoRA.
        loss: as in `Swarm`; a batch is a dict of what the Trainer gives the model.
        examples: as in `Swarm`.
        **options: as in `Swarm`; `output` is the Trainer's `output_dir` plus "_swarm".

    Attributes:
        swarm: while it trains; None before.
    """

    def __init__(
        self,
        run: str | None = None,
        initial_peers: Sequence[str] = (),
        *,
        exchange: Exchange = "trainable",
        loss: Loss | None = None,
        examples: Sequence[Batch] = (),
        **options: Unpack[Options],
    ) -> None:
        self._given: dict[str, Any] = {"run": run, "initial_peers": initial_peers, "exchange": exchange, **options}
        self._given |= {"loss": loss, "examples": examples}
        self.swarm: Swarm | None = None
        self._losses: list[Tensor] = []
        self._are_shares = False  # of the step's loss, not losses of their own
        self._batch: dict[str, Any] | None = None  # the last one
        self._hook: Any = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Join or found the run; with the parameters of a checkpoint, if the Trainer resumed from one.

        Args:
            args: has the folder.
            state: has the step.
            control: not used.
            model: that is trained.
            optimizer: that trains it.
            **kwargs: not used.

        Raises:
            ConfigError: if the run cannot be joined.
        """
        assert model is not None, "a Trainer without a model"
        self._end()  # training that failed before
        if args.push_to_hub and args.hub_strategy in PUBLISHED:
            allowed = "every_save or end: a checkpoint has the private key of the peer"
            raise ConfigError("hub_strategy", args.hub_strategy.value, allowed)
        given = {"checkpoint_every": "0", "output": Path(args.output_dir) / OUTPUT, **self._given}
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            given["process_group"] = dist.group.WORLD
        peer = _folder(args, state) / PEER_FILE
        if state.global_step and peer.exists():
            given["resume"] = json.loads(peer.read_text())
            given.pop("run")
        elif state.global_step:
            log.warning("%s is not there: this is a new peer", peer)
        self.swarm = Swarm(model, optimizer, **given).__enter__()
        # A function, as a method would be copied with the model, and this object with it.
        self._hook = model.register_forward_hook(lambda *seen: self._hear(*seen), with_kwargs=True)
        self._batch = None
        atexit.register(self._end)

    def _hear(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        """Keep the loss that the model computed; with `num_items_in_batch` it is a share of the step's."""
        loss = output.get("loss") if hasattr(output, "get") else None
        if module.training and isinstance(loss, Tensor):
            self._losses.append(loss.detach())
            self._batch = dict(kwargs)
            self._are_shares = self._batch.pop("num_items_in_batch", None) is not None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Report the loss of the step, and stop if somebody asked for it.

        Args:
            args: says what the model's losses are shares of.
            state: not used.
            control: told to stop.
            **kwargs: not used.

        Returns:
            The control.
        """
        if self.swarm is not None and self._losses:
            device = self._losses[0].device
            losses = torch.stack([loss.float().mean().to(device) for loss in self._losses])
            self._losses.clear()
            if self._are_shares:  # of what all ranks have, or of what each GPU of this process has
                loss = losses.sum() * (
                    args.world_size if args.average_tokens_across_devices else 1 / max(1, args.n_gpu)
                )
            else:
                loss = losses.mean()
            self.swarm.report(loss, self._batch)
        if self.swarm is not None and self.swarm.should_stop:
            control.should_training_stop = True
        return control

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Report the loss that the Trainer computed, if the model computes none.

        Args:
            args: not used.
            state: not used.
            control: not used.
            logs: has the mean loss since the last one.
            **kwargs: not used.
        """
        if self.swarm is not None and self._batch is None and logs is not None and "loss" in logs:
            self.swarm.report(logs["loss"])

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show what the Trainer measured, without the times that it took.

        Args:
            args: not used.
            state: not used.
            control: not used.
            metrics: by names such as `eval_accuracy`.
            **kwargs: not used.
        """
        if self.swarm is not None and not self.swarm.follows:
            found = {name: value for name, value in (metrics or {}).items() if not name.endswith(TIMES)}
            found.pop("epoch", None)
            self.swarm.measured(**nameable_metrics(found))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save this peer's memory in the Trainer's checkpoint.

        Args:
            args: has the folder.
            state: has the step.
            control: not used.
            **kwargs: not used.
        """
        if self.swarm is None or self.swarm.follows:
            return
        with replacing(_folder(args, state) / PEER_FILE, 0o600) as file:  # a kill in the middle leaves no half of it
            file.write(json.dumps(self.swarm.peer_state()).encode())

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Hand over what was learnt, say goodbye, and leave.

        Args:
            args: not used.
            state: not used.
            control: not used.
            **kwargs: not used.
        """
        self._leave(None)

    def __enter__(self) -> SwarmCallback:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Leave also if training failed: `with SwarmCallback(...) as callback: trainer.train()`."""
        self._leave(error)

    def _end(self) -> None:
        self._leave(RuntimeError("training did not end"))

    def _leave(self, error: BaseException | None) -> None:
        if self.swarm is None:
            return
        atexit.unregister(self._end)
        self._hook.remove()
        swarm, self.swarm = self.swarm, None
        swarm.__exit__(None if error is None else type(error), error, None)


def last_checkpoint(output_dir: str | Path) -> str | None:
    """Find the newest checkpoint of a Trainer with a `SwarmCallback` that was saved to its end.

    The Trainer writes into the folder that the checkpoint keeps, so a kill leaves a part of one, and
    `resume_from_checkpoint=True` takes that (transformers 5.24). The peer's file comes last.

    Args:
        output_dir: of the Trainer.

    Returns:
        For `resume_from_checkpoint`; None if there is none, so training begins anew.
    """
    whole = [file.parent for file in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*/{PEER_FILE}")]
    steps = {int(number): folder for folder in whole if (number := folder.name.rpartition("-")[2]).isdecimal()}
    return str(steps[max(steps)]) if steps else None


def _folder(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
