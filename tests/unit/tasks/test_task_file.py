"""The example of a task file does what it says."""

from __future__ import annotations

from pathlib import Path

import torch
from helpers.trainings import Notes, never, nothing

from p2p_elastic.tasks import find_task, initial_model, load_data
from p2p_elastic.training.settings import Settings
from p2p_elastic.training.trainer import Trainer

FILE = Path(__file__).parents[3] / "examples" / "task_file.py"


def test_the_example_learns_in_seconds() -> None:
    task = find_task(f"{FILE}:TUMOURS")
    data = load_data(task, None)
    settings = Settings(60, 1, task.recipe.batch_size, task.recipe.learning_rate, 0.0, seed=1)
    trainer = Trainer(initial_model(task, 0), task, data, settings, torch.device("cpu"), lambda: 0.0)
    trainer.train(Notes(), never, nothing)
    result = trainer.test(never, 60.0)
    assert result is not None
    assert result.metrics["f1"] > 0.85
