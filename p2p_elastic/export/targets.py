"""What an exported model becomes: that of a task, which can be evaluated, or tensors by their names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from torch import Tensor

from p2p_elastic.common.machine import free_memory
from p2p_elastic.doctor.task import has_data
from p2p_elastic.errors import ConfigError
from p2p_elastic.node.results import save_model, save_tensors
from p2p_elastic.parameters.schema import Schema
from p2p_elastic.tasks import Data, Evaluation, Task, evaluate, initial_model, load_data, reestimate_batchnorm

RESERVED = "__metadata__"  # in the header of a safetensors file
BYTES_PER_ELEMENT = 12  # a download in float32, and the sum in float64


class Target(Protocol):
    """Takes values, measures and writes them.

    Attributes:
        elements: D, how many there are.
        has_data: whether they can be measured.
    """

    elements: int
    has_data: bool

    def evaluate(self, values: Tensor, *, anew: bool) -> Evaluation | None:
        """Take values and measure them.

        Args:
            values: float32 [D].
            anew: whether statistics of BatchNorm are to be estimated for them.

        Returns:
            What the test split says; None without one.
        """

    def write(self, output: Path) -> None:
        """Write the values that were taken last.

        Args:
            output: the file.

        Raises:
            ConfigError: if it cannot be written.
        """


class TaskModel:
    """The model of a task.

    Args:
        task: that the run trains.
        data_dir: folder with its data; nothing is downloaded.
        stop: the user's wish to stop.
        say: shows a line to the user.
    """

    def __init__(self, task: Task, data_dir: Path | None, stop: Callable[[], bool], say: Callable[[str], None]) -> None:
        self._task, self._stop, self._model = task, stop, initial_model(task, 0)
        self._vector = task.vector(self._model)
        self.schema, self.elements = self._vector.schema, self._vector.elements
        self._data: Data | None = None
        if has_data(task, data_dir):
            self._data = load_data(task, data_dir)
        else:
            say(f"The data of task {task.name} is not here: nothing is evaluated (--data-dir DIR)")
        self.has_data = self._data is not None

    def evaluate(self, values: Tensor, *, anew: bool) -> Evaluation | None:
        self._vector.load_(values)
        if self._data is None:
            return None
        if anew:
            reestimate_batchnorm(self._model, self._task, self._data.train, "cpu")
        test = self._data.test
        return None if test is None else evaluate(self._model, self._task, test, "cpu", stop=self._stop)

    def write(self, output: Path) -> None:
        save_model(self._model, output.parent, output.name)


class RawTensors:
    """What travels in a run, by names and shapes that a member told: no code of the model is needed.

    Args:
        schema: of the run.

    Raises:
        ConfigError: if there is not enough memory for so many elements, or a file cannot have these names.
    """

    has_data = False

    def __init__(self, schema: Schema) -> None:
        self._schema, self.elements = schema, schema.elements
        names = [name for name, _ in schema.tensors]
        if len(set(names)) < len(names) or RESERVED in names:
            raise ConfigError("raw", "names that occur twice or are reserved", "a run whose tensors a file can name")
        free = free_memory()
        if free is not None and self.elements * BYTES_PER_ELEMENT > free:
            needed = self.elements * BYTES_PER_ELEMENT
            raise ConfigError(
                "memory", f"{free / 1e9:.1f} GB", f"at least the {needed / 1e9:.1f} GB that the model takes"
            )

    def evaluate(self, values: Tensor, *, anew: bool) -> None:
        self._values = values.clone()

    def write(self, output: Path) -> None:
        save_tensors(self._schema.named(self._values), output.parent, output.name)
