"""Tasks that can be trained by name: model, data, loss, metrics and recipe.

>>> task = find_task("digits")
>>> data = task.load(None)
>>> batch = task.prepare(next(Batches(data.train, task.recipe.batch_size, seed=0)), None)
>>> task.loss(initial_model(task, seed=0), batch).shape
torch.Size([32])
"""

from __future__ import annotations

from p2p_elastic.tasks.base import Data, Recipe, Split, Task, initial_model, on_inputs
from p2p_elastic.tasks.catalog import TASKS, every_task, find_task, named_task
from p2p_elastic.tasks.checking import load_data
from p2p_elastic.tasks.evaluation import Evaluation, batchnorm_layers, evaluate, reestimate_batchnorm
from p2p_elastic.tasks.folders import default_data_dir
from p2p_elastic.tasks.measures import OfOutputs, accuracy, cross_entropy, no_metrics
from p2p_elastic.tasks.parts import Division, worker_parts
from p2p_elastic.tasks.sampling import Batches, Shard, Stream, shard_indices

__all__ = [
    "TASKS",
    "Batches",
    "Data",
    "Division",
    "Evaluation",
    "OfOutputs",
    "Recipe",
    "Shard",
    "Split",
    "Stream",
    "Task",
    "accuracy",
    "batchnorm_layers",
    "cross_entropy",
    "default_data_dir",
    "evaluate",
    "every_task",
    "find_task",
    "initial_model",
    "load_data",
    "named_task",
    "no_metrics",
    "on_inputs",
    "reestimate_batchnorm",
    "shard_indices",
    "worker_parts",
]
