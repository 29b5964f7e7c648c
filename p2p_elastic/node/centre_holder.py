"""What a peer does that holds the centre variable and does not train (`--role centre`)."""

from __future__ import annotations

import time
from collections.abc import Callable

from torch import nn

from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.peer import Peer
from p2p_elastic.screens.live import Every
from p2p_elastic.training.trainer import Trainer

ALONE_SECONDS = 30.0  # with nobody left for so long, the run is over
EVALUATION_SECONDS = 5.0
PASS_SECONDS = 0.1


def hold_centre(
    peer: Peer, model: nn.Module, trainer: Trainer, stop: Callable[[], bool], progress: Callable[[], None]
) -> None:
    """Let the others exchange with the centre variable, evaluating it now and then, until all left or `stop`."""
    trainer.meter.begin()
    vector, due = ParameterVector(model), Every(EVALUATION_SECONDS)
    due()
    seen_at: float | None = None
    while not stop():
        now = time.monotonic()
        if any(member.state == "alive" for member in peer.members()):
            seen_at = now
        elif seen_at is not None and now - seen_at > ALONE_SECONDS:
            break
        if due():
            _show(peer, vector, trainer)
        progress()
        time.sleep(PASS_SECONDS)
    _show(peer, vector, trainer)


def _show(peer: Peer, vector: ParameterVector, trainer: Trainer) -> None:
    """The model of this peer is the centre variable: load and evaluate it."""
    value = peer.centre_value()
    assert value is not None, "a centre in a run without one"
    vector.load_(value)
    trainer.validate_now()
