"""Tasks that can be trained by name: model, data and recipe.

>>> task = find_task("digits")
>>> data = task.load(None)
>>> inputs, labels = next(Batches(data.train, task.recipe.batch_size, seed=0))
>>> task.loss(initial_model(task, seed=0)(task.prepare(inputs, None)), labels).shape
torch.Size([])
"""

from __future__ import annotations

from p2p_elastic.tasks.base import Data, Recipe, Split, Task, initial_model
from p2p_elastic.tasks.catalog import TASKS, find_task
from p2p_elastic.tasks.evaluation import (
    Estimate,
    Evaluation,
    batchnorm_layers,
    evaluate,
    loss_at,
    losses_at,
    reestimate_batchnorm,
)
from p2p_elastic.tasks.folders import default_data_dir
from p2p_elastic.tasks.parts import Division, worker_parts
from p2p_elastic.tasks.sampling import Batches, Shard, shard_indices

__all__ = [
    "TASKS",
    "Batches",
    "Data",
    "Division",
    "Estimate",
    "Evaluation",
    "Recipe",
    "Shard",
    "Split",
    "Task",
    "batchnorm_layers",
    "default_data_dir",
    "evaluate",
    "find_task",
    "initial_model",
    "loss_at",
    "losses_at",
    "reestimate_batchnorm",
    "shard_indices",
    "worker_parts",
]
