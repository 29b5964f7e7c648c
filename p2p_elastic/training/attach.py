"""How a training loop of any kind lets a peer exchange parameters between its steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

from p2p_elastic.training.schedule_free import forget, moving_along


class Gossiping(Protocol):
    """What training needs of a peer."""

    @property
    def move_waits(self) -> bool:
        """Whether a move may be added after this step."""

    def after_step(self) -> bool:
        """Exchange if one is due, between two steps.

        Returns:
            Whether a partner's parameters took the place of the model's: they were not finite, or it is a newcomer.
        """

    def report_loss(self, loss: float) -> None:
        """Hear how well training goes, to tell partners.

        Args:
            loss: in nats.
        """

    def during_evaluation(self) -> None:
        """Serve partners while no steps are made."""


def _nothing() -> None:
    return None


@contextmanager
def attach(
    peer: Gossiping, optimizer: torch.optim.Optimizer, replaced: Callable[[], None] = _nothing
) -> Iterator[None]:
    """Let a peer exchange parameters after each `optimizer.step()`, in any training loop of your own.

    The optimizer's state (such as momentum) stays local; moves bypass it, as in EAMSGD (arXiv 1412.6651, eq. 8), but
    for the z of a schedule-free one, which moves along. If a partner's parameters took the place of the model's, which
    were not finite or a newcomer's, the state is dropped, and `replaced` is called.

        with attach(peer, optimizer):
            for inputs, labels in batches:
                ...
                optimizer.step()

    Args:
        peer: exchanges in `after_step`.
        optimizer: of the model that the peer was given.
        replaced: called after a partner's parameters replaced the model's.

    Yields:
        Nothing.
    """

    def stepped(*_: object) -> None:
        with moving_along([optimizer], waits=peer.move_waits):
            is_replaced = peer.after_step()
        if is_replaced:
            forget([optimizer])
            replaced()

    handle = optimizer.register_step_post_hook(stepped)
    try:
        yield
    finally:
        handle.remove()
