"""Copies between a GPU and pinned memory, beside training: on a stream of its own.

    training stream   ... step | clone the parameters | step | step | wait for the move, add it | step ...
    side stream                  \\- clone -> pinned -> network ... pinned -> move on the GPU -/

So training waits for a copy within the GPU's memory, and for the final addition. On the GPU this takes the memory of
one model while a copy is under way; where that is not there, training waits for the copies themselves.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class DeviceLane:
    """`send` and `join` belong to the training thread, `wait` and `bring` to the network thread."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # Blocking: who waits leaves its core to others.
        self._sent: torch.cuda.Event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self._brought: torch.cuda.Event = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def send(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Copy each second tensor, on the GPU, into the first one, in pinned memory. Returns before that is done."""
        training, pairs = torch.cuda.current_stream(self._device), list(pairs)
        try:
            copies = [(host, values.clone()) for host, values in pairs]
        except torch.cuda.OutOfMemoryError:
            for host, values in pairs:
                host.copy_(values)
            return
        self._stream.wait_stream(training)
        with torch.cuda.stream(self._stream):
            for host, values in copies:
                host.copy_(values, non_blocking=True)
                values.record_stream(self._stream)
            self._sent.record(self._stream)

    @property
    def has_sent(self) -> bool:
        """Whether what was sent is there."""
        return bool(self._sent.query())  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        """Until it is."""
        self._sent.synchronize()

    def bring(self, move: Tensor) -> Tensor:
        """A copy of `move`, which is in pinned memory, on the GPU, to be used after `join`; itself without memory."""
        try:
            with torch.cuda.stream(self._stream):
                brought = move.to(self._device, non_blocking=True)
                self._brought.record(self._stream)
        except torch.cuda.OutOfMemoryError:
            return move
        return brought

    def join(self, brought: Tensor) -> None:
        """Let the training stream wait for what was brought, and nothing else."""
        training = torch.cuda.current_stream(self._device)
        training.wait_event(self._brought)
        brought.record_stream(training)
