"""Who leads (LSGD), and who is not believed: pure functions and `Following`."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from p2p_elastic.peers.exchange.snapshots import Snapshot, SnapshotLosses
from p2p_elastic.peers.leader.election import (
    DISBELIEF_SECONDS,
    HEARD_MAX,
    Contender,
    Following,
    disbelief,
    leader_of,
)
from p2p_elastic.peers.membership.liveness import DOUBTED, SILENT_ANNOUNCEMENTS, Member, is_gone
from p2p_elastic.protocol.messages import PROTOCOL_VERSION
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.protocol.software import Software

ANNOUNCE = 5.0
losses = st.none() | st.floats(allow_nan=False, allow_infinity=False)
contenders = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), losses, min_size=1)


def member(peer: str, loss: float | None, *, at: float = 0.0, group: str = "", suspect: bool = False) -> Member:
    return Member(PeerRecord(peer=peer, run="r", schema_hash="0" * 32, loss=loss, group=group), at, int(suspect))


def following(group: str = "") -> Following:
    return Following("me", group, ANNOUNCE)


def snapshot(origin: str, source: str | None = None) -> Snapshot:
    return Snapshot(origin, 1, 0.5, torch.zeros(2), source)


@given(contenders, st.randoms(use_true_random=False))
def test_all_that_see_the_same_choose_the_same_and_the_best(found: dict[str, float | None], rng: object) -> None:
    listed = [Contender(*item) for item in found.items()]
    chosen = leader_of(listed)
    rng.shuffle(listed)  # type: ignore[attr-defined]
    assert leader_of(listed) == chosen
    known = {peer: loss for peer, loss in found.items() if loss is not None}
    assert (chosen is None) == (not known)
    if chosen is not None:
        assert all((known[chosen], chosen) <= (loss, peer) for peer, loss in known.items())


@pytest.mark.parametrize(
    ("claimed", "measured", "believed"),
    [
        (1.0, SnapshotLosses(1.0, 0.1, 5.0), True),
        (1.0, SnapshotLosses(1.6, 0.0, 0.1), True),
        (1.0, SnapshotLosses(1.61, 0.0, 0.1), False),
        (1.0, SnapshotLosses(1.9, 0.1, 0.1), True),  # three standard errors
        (0.001, SnapshotLosses(2.0, 0.0, 1.5), True),  # no worse than we are ourselves
        (0.001, SnapshotLosses(9.0, 0.1, 1.0), False),
        (1.0, SnapshotLosses(math.nan, math.nan, 1.0), False),
        (1.0, SnapshotLosses(math.inf, math.nan, 1.0), False),
        (1.0, SnapshotLosses(9.0, 0.1, math.nan), False),
        (-1e300, SnapshotLosses(9.0, 0.1, 1.0), False),
    ],
)
def test_a_leader_is_believed_where_its_parameters_give_what_it_claims(
    claimed: float, measured: SnapshotLosses, believed: bool
) -> None:
    reason = disbelief(claimed, measured)
    assert (reason is None) is believed
    if reason is not None:
        assert f"{claimed:.3g}" in reason


@given(claimed=st.floats(-1e6, 1e6), theirs=st.floats(0, 1e6), own=st.floats(0, 1e6))
def test_a_lower_claim_is_never_easier_to_believe(claimed: float, theirs: float, own: float) -> None:
    if disbelief(claimed, SnapshotLosses(theirs, 0.0, own)) is not None:
        assert disbelief(claimed - 1.0, SnapshotLosses(theirs, 0.0, own)) is not None


def test_the_group_and_all_groups_have_leaders_of_their_own() -> None:
    ours = following("x")
    members = {"a": member("a", 1.0, group="x"), "b": member("b", 0.5, group="y"), "c": member("c", 2.0, group="x")}
    assert ours.choose(3.0, members, 0.0, of_all=False) == "a"
    assert ours.claimed == 1.0
    assert ours.choose(3.0, members, 0.0, of_all=True) == "b"
    assert (ours.leader, ours.leader_of_all, ours.claimed) == ("a", "b", 0.5)
    assert ours.choose(0.1, members, 0.0, of_all=True) == "me"


def test_alone_in_a_group_one_leads_it() -> None:
    assert following("z").choose(9.0, {"a": member("a", 1.0)}, 0.0, of_all=False) == "me"
    assert following("z").choose(None, {"a": member("a", 1.0)}, 0.0, of_all=False) is None


def test_who_is_suspect_or_gone_does_not_lead() -> None:
    ours = following()
    late = SILENT_ANNOUNCEMENTS * ANNOUNCE + 0.1
    members = {"a": member("a", 0.1, suspect=True, at=late), "b": member("b", 0.2), "c": member("c", 0.3, at=late)}
    assert ours.choose(1.0, members, late, of_all=False) == "c"


def test_who_speaks_another_protocol_does_not_lead() -> None:
    other = member("a", 0.1)
    said = Software(version="9", protocol=PROTOCOL_VERSION + 1).told
    other = other._replace(record=other.record.model_copy(update={"addresses": (said,)}))
    assert following().choose(1.0, {"a": other, "b": member("b", 0.2)}, 0.0, of_all=False) == "b"


def test_what_was_heard_counts_until_the_next_record() -> None:
    ours = following()
    ours.hear("a", 0.5, 1.0)
    assert ours.choose(1.0, {"a": member("a", 2.0)}, 1.0, of_all=False) == "a"
    assert ours.choose(1.0, {"a": member("a", 2.0, at=1.5)}, 2.0, of_all=False) == "me"
    ours.hear("a", None, 3.0)
    assert ours.choose(1.0, {"a": member("a", 0.1, at=2.5)}, 3.0, of_all=False) == "me"


def test_what_is_heard_is_bounded() -> None:
    ours = following()
    for i in range(HEARD_MAX + 50):
        ours.hear(f"p{i}", 0.1, 1.0)
        ours.disbelieve(f"p{i}", "no", 1.0)
    assert len(ours.heard) == len(ours.disbelieved) == HEARD_MAX
    assert f"p{HEARD_MAX + 49}" in ours.heard


def test_disbelief_ends_and_grows_with_each_time() -> None:
    ours, members = following(), {"a": member("a", 0.1, at=1e9)}
    now = 0.0
    for times in range(10):
        ours.disbelieve("a", "lies", now)
        seconds = DISBELIEF_SECONDS * 2.0 ** min(times, 6)
        assert ours.doubts(now + seconds - 0.1) == {"a": "lies"}
        assert ours.choose(1.0, members, now + seconds - 0.1, of_all=False) == "me"
        now += seconds
        assert ours.doubts(now) == {}
        assert ours.choose(1.0, members, now, of_all=False) == "a"


def test_other_threads_see_whole_disbelief() -> None:
    ours = following()
    ours.disbelieve("a", "lies", 0.0)
    seen = ours.disbelieved
    ours.disbelieve("b", "lies", 0.0)
    assert set(seen) == {"a"}


def test_a_relay_cannot_bring_its_origin_into_disrepute() -> None:
    ours, relayed, own_word = following(), snapshot("a", "relay"), snapshot("a", "a")
    ours.snapshots.keep(relayed)
    ours.doubt(relayed, "is bad", 1.0)
    assert ours.doubts(1.0) == {}
    assert ours.snapshots.newest("a") is None  # neither followed nor spread
    assert ours.insists_on("a", 1.0)
    assert not ours.insists_on("a", 1.0 + DISBELIEF_SECONDS)
    assert not ours.insists_on("b", 1.0)
    ours.snapshots.keep(own_word)
    ours.doubt(relayed, "is bad", 2.0)
    assert ours.snapshots.newest("a") is own_word  # another one by now
    ours.doubt(own_word, "is bad", 3.0)
    assert ours.doubts(3.0) == {"a": "is bad"}


@pytest.mark.parametrize(
    ("suspect", "announcements"), [(False, SILENT_ANNOUNCEMENTS), (True, SILENT_ANNOUNCEMENTS * DOUBTED)]
)
def test_who_missed_announcements_is_gone(suspect: bool, announcements: float) -> None:
    someone = member("a", None, at=100.0, suspect=suspect)
    assert not is_gone(someone, 100.0 + announcements * ANNOUNCE, ANNOUNCE)
    assert is_gone(someone, 100.1 + announcements * ANNOUNCE, ANNOUNCE)
