"""LSGD: what a peer says and does as it follows one leader after the other."""

from __future__ import annotations

from helpers.peer_parts import parts_in, record, step
from helpers.topologies import LSGD

from p2p_elastic.peers.exchange.slot import IDLE
from p2p_elastic.peers.leader.strategy import LeaderStrategy
from p2p_elastic.peers.state.topology import Errand
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

MEMBERS = [record("b", loss=0.5, group="attic"), record("c", loss=0.1, group="cellar")]


def followed(*errands: Errand) -> tuple[LeaderStrategy, list[str]]:
    """After these pulls in the group "attic", where nobody answers; and what was said of leaders."""
    parts = parts_in(SimulatedNetwork(), LSGD, group="attic")
    strategy = LeaderStrategy(parts)
    parts.local.own.report_loss(1.0)

    async def main() -> None:
        for errand in errands:
            parts.local.members.forget()
            parts.local.members.look(MEMBERS, 0.0)
            strategy.told("b", 0.5, 0.0)
            step(parts, due=True)
            await strategy.run_due(errand)
            assert parts.local.slot.state == IDLE

    run_virtual(main())
    return strategy, [event.text for event in parts.local.events.since(0) if event.kind == "leader"]


def test_a_pull_of_all_groups_looks_beyond_the_own_one() -> None:
    in_group, _ = followed("exchange")
    of_all, _ = followed("global")
    assert in_group.following.leader_of_all is None
    assert of_all.following.leader is None
    shown = of_all.status(0.0).leader
    assert shown is not None
    assert shown.group == "attic"


def test_who_follows_nobody_else_leads_itself_which_is_said_once() -> None:
    strategy, said = followed("exchange", "exchange")
    assert strategy.following.leader == "a"
    assert said == ["this peer follows a"]
