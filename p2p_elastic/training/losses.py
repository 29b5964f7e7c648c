"""Losses as a training loop reports them, read without waiting for the device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

READ_SECONDS = 1.0  # between two copies from the device, which training does not wait for
PENDING_MAX = 64


class LossReader:
    """Reads reported losses: numbers and tensors on the CPU at once, tensors on a GPU a moment later.

    Those on a GPU are copied once a second, and read once the copy is complete: no step waits for one.

    Args:
        seen: called with each loss, in order.
        clock: monotonic seconds.
    """

    def __init__(self, seen: Callable[[float], None], clock: Callable[[], float]) -> None:
        self._seen, self._clock = seen, clock
        self._pending: list[Tensor] = []
        self._copied: tuple[Tensor, torch.cuda.Event] | None = None
        self._copied_at = clock()

    def take(self, loss: Tensor | float) -> None:
        """Take in a loss.

        Args:
            loss: a number, or a tensor whose mean is the loss.
        """
        if not isinstance(loss, Tensor):
            self._seen(float(loss))
            return
        loss = loss.detach().mean() if loss.numel() != 1 else loss
        if not loss.is_cuda:
            self._seen(loss.item())
            return
        loss = loss.detach().reshape(())
        self._pending = [*self._pending[1 - PENDING_MAX :], loss]
        self._read()

    def _read(self) -> None:
        if self._copied is not None:
            values, event = self._copied
            if not event.query():  # type: ignore[no-untyped-call]
                return
            self._copied = None
            for value in values.tolist():
                self._seen(value)
        now = self._clock()
        if now - self._copied_at < READ_SECONDS:
            return
        self._copied_at = now
        stacked = torch.stack([loss.float() for loss in self._pending])
        values = torch.empty(len(self._pending), pin_memory=True).copy_(stacked, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(stacked.device))
        self._pending, self._copied = [], (values, event)

    def forget(self) -> None:
        """Drop what was not read yet: the model that it belongs to was replaced."""
        self._pending, self._copied = [], None
