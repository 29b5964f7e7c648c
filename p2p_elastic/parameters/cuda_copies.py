"""Copies between a GPU and pinned memory on a stream of their own, beside training.

    training stream   ... step | clone the parameters | step | step | wait for the move, add it | step ...
    side stream                  \\- clone -> pinned -> network ... pinned -> move on the GPU -/

So training waits for a copy within the GPU's memory, and for the final addition. On the GPU this takes the memory of
one model while a copy is under way; if the GPU lacks that memory, training waits for the copies themselves.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class DeviceLane:
    """Copies from and to one GPU, on a stream of its own.

    `send` and `join` belong to the training thread, `wait` and `bring` to the network thread.

    Args:
        device: the GPU that the model is on.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # Blocking: a thread that waits leaves its core to others.
        self._sent: torch.cuda.Event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self._brought: torch.cuda.Event = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def send(self, pieces: Iterable[tuple[Tensor, Tensor, Tensor | None]]) -> None:
        """Begin to copy tensors from the GPU to pinned memory. Returns before that is done.

        Args:
            pieces: each a tensor in pinned memory, the one on the GPU that is copied into it, and perhaps one to add.
        """
        training, pieces = torch.cuda.current_stream(self._device), list(pieces)
        try:
            copies = [(host, mine.clone() if rest is None else rest + mine) for host, mine, rest in pieces]
        except torch.cuda.OutOfMemoryError:
            for host, mine, rest in pieces:
                host.copy_(mine)
                if rest is not None:
                    host.add_(rest.cpu())
            return
        self._stream.wait_stream(training)
        with torch.cuda.stream(self._stream):
            for host, values in copies:
                host.copy_(values, non_blocking=True)
                values.record_stream(self._stream)
            self._sent.record(self._stream)

    @property
    def has_sent(self) -> bool:
        """Whether all that was sent is in pinned memory."""
        return bool(self._sent.query())  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        """Wait until all that was sent is in pinned memory."""
        self._sent.synchronize()

    def bring(self, move: Tensor) -> Tensor:
        """Begin to copy a move to the GPU.

        Args:
            move: in pinned memory.

        Returns:
            The copy, to be used after `join`; `move` itself if the GPU has no memory for it.
        """
        try:
            with torch.cuda.stream(self._stream):
                brought = move.to(self._device, non_blocking=True)
                self._brought.record(self._stream)
        except torch.cuda.OutOfMemoryError:
            return move
        return brought

    def join(self, brought: Tensor) -> None:
        """Let the training stream wait for what was brought, and nothing else.

        Args:
            brought: what `bring` returned, if it is on the GPU.
        """
        training = torch.cuda.current_stream(self._device)
        training.wait_event(self._brought)
        brought.record_stream(training)
