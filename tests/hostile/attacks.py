"""What hostile members send in the place of their parameters.

Each trains and follows as an honest member does, so that it knows a good model; only what it sends is a lie, made from
that model. It also claims to count wholly. Those of one swarm collude if that helps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.rules.trial import FLOOR
from p2p_elastic.tasks import Data, Task, initial_model
from p2p_elastic.tasks.batch import Batch

EXAMPLES = 512  # on which an ascent is measured
JUST_UNDER = 0.25  # of the better loss: what a trial lets pass


class Knowledge:
    """What a liar knows beside its own model: the run's first model, its task, and some examples.

    Args:
        task: of the run.
        data: of the task.
        seed: of everything that is drawn.
    """

    def __init__(self, task: Task, data: Data, seed: int) -> None:
        self._model = initial_model(task, 0)
        self._vector, self._loss = ParameterVector(self._model), task.loss
        self.first = self._vector.snapshot(self._vector.empty())
        generator = torch.Generator().manual_seed(seed)
        direction = torch.randn(len(self.first), generator=generator)
        self.direction = direction / torch.linalg.vector_norm(direction)
        rows = torch.randperm(len(data.train), generator=generator)[:EXAMPLES]  # type: ignore[arg-type]
        inputs, labels = data.train.__getitems__(rows)  # type: ignore[attr-defined]
        self._batch: Batch = task.prepare((inputs, labels), generator)
        self.first_loss = self.loss_of(self.first)
        self._permutation = torch.randperm(self._hidden, generator=generator)

    @property
    def _hidden(self) -> int:
        return len(next(p for name, p in self._model.named_parameters() if name.endswith("bias")))

    def loss_of(self, values: Tensor) -> float:
        """The loss in nats of parameters [D]."""
        self._vector.load_(values)
        with torch.no_grad():
            return float(self._loss(self._model, self._batch).mean())

    def uphill(self, values: Tensor) -> Tensor:
        """The gradient [D] of the loss at parameters [D]."""
        self._vector.load_(values)
        self._model.zero_grad()
        self._loss(self._model, self._batch).mean().backward()
        found = torch.zeros_like(values)
        named = dict(self._model.named_parameters())
        for slot in self._vector.slots:
            gradient = named[slot.name].grad
            assert gradient is not None
            found[slot.start : slot.stop] = gradient.flatten()
        return found

    def permuted(self, values: Tensor) -> Tensor:
        """The same function of an MLP with one hidden layer first, by other parameters."""
        found = values.clone()
        weight, bias, reader = self._vector.slots[:3]  # of the hidden layer, and of what reads it
        for slot, axis in ((weight, 0), (bias, 0), (reader, 1)):
            tensor = values[slot.start : slot.stop].view(slot.tensor().shape)
            found[slot.start : slot.stop] = tensor.index_select(axis, self._permutation).flatten()
        return found


Lie = Callable[[Tensor, Knowledge], Tensor]
"""(the liar's own parameters [D], what it knows) -> what it sends [D]."""


class Attack(NamedTuple):
    """What hostile members do.

    Attributes:
        text: for the table.
        lie: makes what they send; None: they are honest.
        begins: the step from which on they lie.
        absent: whether they do not take part at all: what no defence can better.
    """

    text: str
    lie: Lie | None = None
    begins: int = 1
    absent: bool = False


def along(norms: float) -> Lie:
    """The own model, and a step in the direction that all liars share, in norms of the own model."""
    return lambda own, known: own + norms * torch.linalg.vector_norm(own) * known.direction


def ascent(own: Tensor, known: Knowledge) -> Tensor:
    """Uphill from the own model until the loss is just what a trial lets pass."""
    mine, gradient = known.loss_of(own), known.uphill(own)
    most = mine + JUST_UNDER * (mine + FLOOR * known.first_loss)
    low, high = 0.0, 1.0
    while known.loss_of(own + high * gradient) < most and high < 2.0**20:
        low, high = high, 2.0 * high
    for _ in range(8):
        middle = (low + high) / 2
        low, high = (middle, high) if known.loss_of(own + middle * gradient) < most else (low, middle)
    return own + low * gradient


ATTACKS = {
    "none": Attack("nobody lies"),
    "absent": Attack("nothing: they are not there", absent=True),
    "sign": Attack("sign flip from step 1", lambda own, _: -own),
    "sign-late": Attack("sign flip from step 100", lambda own, _: -own, 100),
    "x10": Attack("scaled x10", lambda own, _: 10.0 * own),
    "x1.5": Attack("scaled x1.5", lambda own, _: 1.5 * own),
    "direction": Attack("one direction, colluding, a norm away", along(1.0)),
    "direction-near": Attack("one direction, colluding, 0.2 norms away", along(0.2)),
    "permuted": Attack("hidden units permuted", lambda own, known: known.permuted(own)),
    "zeros": Attack("zeros", lambda own, _: torch.zeros_like(own)),
    "stale": Attack("the first model", lambda _, known: known.first),
    "ascent": Attack("loss ascent just under the trial", ascent),
}
