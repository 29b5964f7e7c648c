"""The mailbox between the training thread and the network thread."""

from __future__ import annotations

from typing import Any

from helpers.swarm import tiny_model

from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.exchange.mailbox import Mailbox, Move, State


def test_a_move_is_there_before_the_state_says_so() -> None:
    mailbox, seen = Mailbox(ParameterVector(tiny_model(0))), list[State]()

    class Watched(Move):
        def _replace(self, **facts: Any) -> Watched:
            seen.append(mailbox.state)  # as the training thread may look in between
            return super()._replace(**facts)

    mailbox.request()
    mailbox.between_steps(1, due=False, settle=True, published=lambda _due: None)
    mailbox.deliver(Watched("id", mailbox.mine, 0.5))
    assert seen == [State.READY]
    settled = mailbox.between_steps(2, due=False, settle=True, published=lambda _due: None)
    assert settled is not None
    assert settled.exchange_id == "id"
    assert mailbox.state is State.FREE
