"""A swarm in `lightning.pytorch.Trainer`.

trainer = Trainer(max_steps=1000, callbacks=[SwarmCallback(run="digits", initial_peers=[...])])
trainer.fit(module, loader)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import Unpack

from p2p_elastic.common.metrics import nameable_metrics
from p2p_elastic.node.options import Options
from p2p_elastic.parameters.choice import Exchange
from p2p_elastic.swarm import Swarm
from p2p_elastic.tasks.batch import Batch
from p2p_elastic.tasks.measures import Loss


class SwarmCallback(Callback):
    """Takes part in a run while Lightning fits: from the first step to the last, or to an error.

    Checkpoints are Lightning's own: `fit(..., ckpt_path=...)` goes on as the same peer. Several processes are one peer.

    Args:
        run: as in `Swarm`.
        initial_peers: as in `Swarm`.
        exchange: as in `Swarm`.
        loss: as in `Swarm`; the model is the LightningModule.
        examples: as in `Swarm`.
        **options: as in `Swarm`; `output` is the Trainer's `default_root_dir` plus "swarm".

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
        self._peer: dict[str, Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Join or found the run; as the peer of the checkpoint, if there is one.

        Args:
            trainer: has optimizers and folder.
            pl_module: the model.

        Raises:
            ConfigError: if the run cannot be joined.
        """
        given = {"checkpoint_every": "0", "output": Path(trainer.default_root_dir) / "swarm", **self._given}
        if trainer.world_size > 1:
            given["process_group"] = dist.group.WORLD
        if self._peer is not None:
            given["resume"] = self._peer
            given.pop("run")
        self.swarm = Swarm(pl_module, trainer.optimizers, **given).__enter__()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report the loss of the batch, and stop if somebody asked for it.

        Args:
            trainer: told to stop; Lightning divides the loss by its `accumulate_grad_batches`, which is undone.
            pl_module: not used.
            outputs: of the training step.
            batch: on which partners' parameters may be tried.
            batch_idx: not used.
        """
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if self.swarm is None:
            return
        if isinstance(loss, Tensor):
            by_hand = not pl_module.automatic_optimization
            self.swarm.report(loss.detach() * (1 if by_hand else trainer.accumulate_grad_batches), batch)
        if self.swarm.should_stop:
            trainer.should_stop = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show what the module logged.

        Args:
            trainer: has what was logged.
            pl_module: not used.
        """
        if self.swarm is not None and not self.swarm.follows and not trainer.sanity_checking:
            self.swarm.measured(**nameable_metrics(trainer.callback_metrics))

    def state_dict(self) -> dict[str, Any]:
        """Give this peer's memory to Lightning's checkpoint.

        Returns:
            What `load_state_dict` takes; it has the private key of the peer.
        """
        if self.swarm is not None and not self.swarm.follows:
            self._peer = self.swarm.peer_state()
        return {} if self._peer is None else {"peer": self._peer}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a peer's memory from Lightning's checkpoint, before training begins.

        Args:
            state_dict: as `state_dict` gave it.
        """
        self._peer = state_dict.get("peer")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand over what was learnt, say goodbye, and leave.

        Args:
            trainer: not used.
            pl_module: not used.
        """
        self._leave(None)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say goodbye and leave.

        Args:
            trainer: not used.
            pl_module: not used.
            exception: why.
        """
        self._leave(exception)

    def _leave(self, error: BaseException | None) -> None:
        if self.swarm is not None:
            self.state_dict()  # for checkpoints that are saved afterwards
            swarm, self.swarm = self.swarm, None
            swarm.__exit__(None if error is None else type(error), error, None)
