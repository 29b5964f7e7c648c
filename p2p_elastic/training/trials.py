"""Trials: what other parameters achieve in a model, on the latest batches of whoever trains it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from p2p_elastic.parameters.slots import shell_of
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.rules.trial import Estimate, Trial
from p2p_elastic.tasks.batch import Batch, first
from p2p_elastic.tasks.evaluation import modes_kept
from p2p_elastic.tasks.measures import Loss

FEW = 8  # examples whose mean loss is one observation of a standard error,
GROUPS_MIN = 4  # or fewer examples, so that there are this many observations
TRIAL_EXAMPLES = 32  # on which a partner's parameters are tried
RECENT_BATCHES = 4  # kept to try a leader's parameters on


class Trials:
    """Tries parameters in a model. `remember` and `loss_at` are for the thread that trains.

    Args:
        model: whose parameters are tried, on its device.
        vector: of the model.
        loss: of model and batch, the losses [B] of the examples, in nats.
    """

    def __init__(self, model: nn.Module, vector: ParameterVector, loss: Loss) -> None:
        self._model, self._vector, self._loss = model, vector, loss
        self._recent: deque[Batch] = deque(maxlen=RECENT_BATCHES)

    def remember(self, batch: Batch) -> None:
        """Keep a batch to try parameters on.

        Args:
            batch: as the loss takes it, on the model's device.
        """
        self._recent.append(batch)

    def loss_at(self, values: Mapping[str, Tensor]) -> Estimate:
        """Try other parameters on the latest batches, in eval mode; the model is left as it was found.

        Args:
            values: tensors by name, as `ParameterVector.views` gives them.

        Returns:
            The mean loss in nats, and its standard error; not numbers if there are fewer than two observations.
        """
        with modes_kept(self._model):
            self._model.eval()
            return mean_loss(self._model, self._loss, values, self._recent)

    def loss_on(self, batches: Iterable[Batch], values: Tensor) -> Estimate:
        """Try parameters on other batches, in a model of their own; for any thread.

        Args:
            batches: as the loss takes them, on the model's device.
            values: [D].

        Returns:
            The mean loss in nats, and its standard error.
        """
        model = shell_of(self._model, self._vector.slots).eval()
        return mean_loss(model, self._loss, self._vector.views(values), batches)

    def examiner(self, unseen: Batch | None = None) -> Callable[[Tensor, Tensor], Trial | None]:
        """Build what tries parameters against others, by a model of its own.

        Args:
            unseen: a batch to try them on before the first one is remembered.

        Returns:
            A function of (their parameters [D], this peer's [D]) that any thread may call; its trial is on the latest
            batch, and None if there is none.
        """
        model, lock = shell_of(self._model, self._vector.slots).eval(), threading.Lock()

        def examine(theirs: Tensor, mine: Tensor) -> Trial | None:
            recent = list(self._recent)
            latest = recent[-1] if recent else unseen  # the centre's own peer may not train
            if latest is None:
                return None
            batch = first(latest, TRIAL_EXAMPLES)
            with lock:  # `functional_call` puts tensors into the model for a while
                both = [losses_at(model, self._loss, self._vector.views(v), batch) for v in (theirs, mine)]
            return Trial.of(*both)

        return examine


class LossOf(nn.Module):
    """A loss as a module around the model, so that `torch.func.functional_call` puts tensors into it.

    Args:
        model: whose tensors are to be others for one call.
        loss: of model and batch.
    """

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self._loss = model, loss

    def forward(self, batch: Batch) -> Tensor:
        """Compute the losses.

        Args:
            batch: as the loss takes it.

        Returns:
            What the loss gives, in nats.
        """
        return self._loss(self.model, batch)

    def at(self, values: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Compute the losses of other tensors; the model is left as it was found.

        Args:
            values: the model's tensors by name; those that are not there are the model's own.
            batch: as the loss takes it.

        Returns:
            [B], in nats.
        """
        inside = {f"model.{name}": value for name, value in with_ties(self.model, values).items()}
        losses: Tensor = torch.func.functional_call(self, inside, (batch,), tie_weights=False)
        return losses


def with_ties(model: nn.Module, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name each place in a model once that is to hold one of these values.

    `functional_call` does so by itself (`tie_weights`), but names a layer that stands at several places once for each,
    and then leaves the values in it: PyTorch 2.3 to 2.14, github.com/pytorch/pytorch/issues/164759.

    Args:
        model: of these tensors.
        values: by name.

    Returns:
        The values, also under the names of further places of the same tensor.
    """
    wanted = {id(_held(model, name)): value for name, value in values.items()}
    places = {
        f"{path}.{attribute}" if path else attribute: wanted.get(id(tensor))
        for path, module in model.named_modules()  # each once
        for attribute, tensor in (*module._parameters.items(), *module._buffers.items())
    }
    return {name: value for name, value in places.items() if value is not None}


def _held(model: nn.Module, name: str) -> object:
    path, _, attribute = name.rpartition(".")
    return getattr(model.get_submodule(path), attribute)


def mean_loss(model: nn.Module, loss: Loss, values: Mapping[str, Tensor], batches: Iterable[Batch]) -> Estimate:
    """Measure the loss of other parameters and buffers in a model, which is left as it was found.

    Args:
        model: in eval mode, on the batches' device.
        loss: of model and batch.
        values: the model's tensors by name.
        batches: as the loss takes them.

    Returns:
        The loss in nats; not a number if there are fewer than two observations.
    """
    losses = [losses_at(model, loss, values, batch) for batch in batches]
    each = torch.cat(losses).cpu().double() if losses else torch.empty(0)  # Apple's GPUs have no float64
    if len(each) < 2:
        return Estimate(float("nan"), float("nan"))
    return Estimate(float(each.mean()), float(each.std()) / len(each) ** 0.5)


def losses_at(model: nn.Module, loss: Loss, values: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """Measure the losses of other parameters on each few examples of a batch; the model is left as it was found.

    Args:
        model: in eval mode.
        loss: of model and batch.
        values: the model's tensors by name.
        batch: as the loss takes it.

    Returns:
        Mean losses [n] in nats, each over FEW examples or fewer.
    """
    with torch.no_grad():
        losses = LossOf(model, loss).at(values, batch)
        few = max(1, min(FEW, len(losses) // GROUPS_MIN))
        return torch.stack([group.mean() for group in torch.split(losses, few)])
