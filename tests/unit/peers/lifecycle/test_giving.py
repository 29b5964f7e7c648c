"""Answering fetches: parts of our own parameters, and whole snapshots."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch
from helpers.peer_parts import GOSSIP, parts_in, record, serve, talk, train, values_of, wanted
from helpers.topologies import LSGD

from p2p_elastic.peers.exchange.snapshots import COPIES, Snapshot
from p2p_elastic.peers.gossip.admission import Admission
from p2p_elastic.peers.leader.strategy import LeaderStrategy
from p2p_elastic.peers.lifecycle.donor import Donor
from p2p_elastic.peers.lifecycle.download import digest_of
from p2p_elastic.peers.lifecycle.giving import Giving
from p2p_elastic.protocol.chunks import Vectors, bytes_of
from p2p_elastic.protocol.exchange import Fetched, fetch
from p2p_elastic.protocol.messages import Fetch
from p2p_elastic.rules.policy import Policy
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

PART = (10, 20)


async def no_look() -> None:
    return


class Holder:
    """The peer "a", which trains, knows "b", "c" and "d", and holds a snapshot of "e", all one, where one leads."""

    def __init__(self, policy: Policy = LSGD) -> None:
        self.network = SimulatedNetwork()
        self.parts = parts_in(self.network, policy)
        self.snapshot = Snapshot("e", 7, 0.1, torch.ones(72))
        strategy = self.parts.local.run.topology
        if isinstance(strategy, LeaderStrategy):
            strategy.following.snapshots.keep(self.snapshot)

    def give(self, *asked: Fetch) -> list[tuple[Fetched, torch.Tensor]]:
        """What comes of these, one after the other."""
        local, admission = self.parts.local, Admission(self.parts.local)

        async def main() -> list[tuple[Fetched, torch.Tensor]]:
            local.members.look([record(name) for name in "bcd"], 0.0)
            await serve(self.parts, Giving(local, admission, Donor(local, self.parts.limits, no_look)))
            training, found = asyncio.ensure_future(train(self.parts)), list[tuple[Fetched, torch.Tensor]]()
            for one in asked:
                start, stop = one.part or (0, 72)
                into = torch.zeros(stop - start)
                came = await talk(self.network, one.peer, "a", fetch(one), Vectors.into(into, one.codec))
                found.append((came, into))
                await asyncio.sleep(0.1)  # the holder sees the end of the stream
            training.cancel()
            return found

        return run_virtual(main())


def of_e(peer: str = "b", **said: Any) -> Fetch:
    return wanted(peer=peer, origin="e", **said)


def test_a_part_of_our_own_parameters_comes_with_its_digest() -> None:
    holder = Holder(GOSSIP)
    [(came, into)] = holder.give(wanted(part=PART))
    assert came.given is not None
    assert torch.equal(into, values_of(holder.parts)[10:20])
    assert came.given.digest == asyncio.run(digest_of(bytes_of(into)))
    assert holder.parts.local.journal.totals(0.0).bytes_sent > 40


def test_a_snapshot_that_is_held_is_given_as_it_is() -> None:
    [(came, into)] = Holder().give(of_e())
    assert came.given is not None
    assert (came.given.origin, came.given.step, came.given.loss) == ("e", 7, 0.1)
    assert torch.equal(into, torch.ones(72))


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (of_e("stranger"), "no-snapshot"),
        (wanted(origin="nobody"), "no-snapshot"),
        (wanted(origin="nobody", part=PART), "no-snapshot"),
        (of_e(run="other"), "other-run"),
    ],
    ids=["a stranger", "of somebody unknown", "a part of somebody else", "of another run"],
)
def test_what_cannot_be_given_is_declined(asked: Fetch, reason: str) -> None:
    holder = Holder()
    [(came, into)] = holder.give(asked)
    assert came == Fetched(reason=reason)
    assert not into.any()
    assert holder.parts.local.journal.declined_by_us == {reason: 1}


def test_who_has_the_newest_one_is_told_so() -> None:
    [(same, _), (older, _)] = Holder().give(of_e(have=7), of_e(have=6))
    assert same.unchanged
    assert older.given is not None


def test_after_a_few_copies_others_are_named_and_who_comes_back_gets_one() -> None:
    holder = Holder()
    *copies, (referred, _), (back, into) = holder.give(of_e("b"), of_e("c"), of_e("d"), of_e("d"))
    assert len(copies) == COPIES
    assert all(came.given is not None for came, _ in copies)
    assert set(referred.holders) == {"b", "c"}
    assert back.given is not None
    assert torch.equal(into, torch.ones(72))
    assert holder.snapshot.sending == 0
    assert sorted(holder.snapshot.holders) == ["b", "c", "d"]


def test_a_snapshot_that_is_on_its_way_to_others_is_to_be_asked_for_again() -> None:
    holder = Holder()
    holder.snapshot.sending = COPIES
    [(came, _)] = holder.give(of_e())
    assert came == Fetched(reason="busy")
