"""What a peer does that only holds the centre variable and does not train (`--role centre`)."""

from __future__ import annotations

import time
from collections.abc import Callable

from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.peer import Peer
from p2p_elastic.screens.live import Every
from p2p_elastic.training.trainer import Trainer

ALONE_SECONDS = 30.0  # after that time without any other peer, the run is over
EVALUATION_SECONDS = 5.0
PASS_SECONDS = 0.5


def hold_centre(peer: Peer, trainer: Trainer, stop: Callable[[], bool], progress: Callable[[], None]) -> None:
    """Let the others exchange with the centre variable, until all left or `stop`; evaluate it as it changes.

    Args:
        peer: holds the variable, or stands by to take it over.
        trainer: its model gets the values of the variable, and is evaluated.
        stop: the user's wish to stop.
        progress: called twice a second, in the place of a step.
    """
    trainer.meter.begin()
    vector, due = trainer.vector, Every(EVALUATION_SECONDS)
    due()
    seen_at: float | None = None
    shown: object = None
    while not stop():
        now = time.monotonic()
        if any(member.state == "alive" for member in peer.members()):
            seen_at = now
        elif seen_at is not None and now - seen_at > ALONE_SECONDS:
            break
        if due() and (centre := peer.centre()) != shown:
            shown = centre
            _show(peer, vector, trainer)
        progress()
        time.sleep(PASS_SECONDS)
    _show(peer, vector, trainer)


def met(peer: Peer) -> int:
    """Count the exchanges of the centre: to a peer that only holds it, what steps are to the others.

    Args:
        peer: holds the variable, or stands by.

    Returns:
        Exchanges behind the value that is here; 0 in a run without a centre.
    """
    centre = peer.centre()
    return 0 if centre is None else centre.exchanges


def _show(peer: Peer, vector: ParameterVector, trainer: Trainer) -> None:
    """Load the centre variable into the model of this peer, and evaluate it."""
    value = peer.centre_value()
    assert value is not None, "a centre in a run without one"
    vector.load_(value)
    trainer.validate_now()
