"""Who was lost, what is a partition and what is a crash."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from p2p_elastic.peers.membership.liveness import Members, observe, suspected
from p2p_elastic.peers.membership.partition import FORGOTTEN_SECONDS, LOST_MAX, Absences, vanished_together
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.rules.base import Stake

OTHERS = "bcdef"


class Watch:
    """A peer that reads the directory once a second and does ten steps meanwhile; others announce once a second."""

    def __init__(self) -> None:
        self.absences, self.now, self.step = Absences(1.0), 0.0, 0
        self.known: Members = {}

    def pass_seconds(self, seconds: int, there: Iterable[str] = OTHERS, *, listed: Iterable[str] = ()) -> None:
        """`there` announce themselves; records of those `listed` are still in the directory, unchanged."""
        for _ in range(seconds):
            self.now, self.step = self.now + 1.0, self.step + 10
            fresh = [record(peer, int(self.now)) for peer in there]
            stale = [self.known[peer].record for peer in listed if peer in self.known and peer not in there]
            self.known = observe(self.known, [*fresh, *stale], self.now)
            self.absences.look(self.known, self.now, self.step)

    def stake(self, peer: str) -> Stake | None:
        return self.absences.stake(peer, self.now, self.step)


def record(peer: str, sequence: int) -> PeerRecord:
    return PeerRecord(peer=peer, run="run", schema_hash="0" * 32, sequence=sequence)


@pytest.mark.parametrize(
    ("gone", "alive", "said"),
    [
        ("", 5, False),
        ("b", 4, False),
        ("bc", 3, True),
        ("bc", 6, True),
        ("bc", 7, False),
        ("bcd", 2, True),
        ("bcdef", 0, True),
        ("b", 0, True),
    ],
)
def test_one_of_many_is_a_crash_several_are_a_partition(gone: str, alive: int, said: bool) -> None:
    assert vanished_together(gone, alive) == (frozenset(gone) if said else frozenset())


@pytest.mark.parametrize("listed", ["", "def"], ids=["records gone", "records stale"])
def test_half_of_the_members_silent_is_a_partition_until_half_of_them_are_back(listed: str) -> None:
    watch = Watch()
    watch.pass_seconds(10)
    assert watch.absences.partition is None
    watch.pass_seconds(5, "bc", listed=listed)
    split = watch.absences.partition
    assert split is not None
    assert (split.lost, split.before, split.away, split.left) == (frozenset("def"), 5, 3, 2)
    assert (split.silent_since, split.step) == (10.0, 100)
    watch.pass_seconds(10, "bcd", listed=listed)
    still = watch.absences.partition
    assert still is not None
    assert (still.away, still.left) == (2, 3)
    watch.pass_seconds(1, "bcde", listed=listed)
    assert watch.absences.partition is None
    watch.pass_seconds(5, "bcde")
    assert watch.absences.partition is None


def test_nobody_waits_for_those_that_would_not_be_seen_if_they_were_back() -> None:
    watch = Watch()
    watch.pass_seconds(10)
    watch.pass_seconds(5, "bc")
    watch.known = {peer: member for peer, member in watch.known.items() if peer not in "de"}
    watch.absences.forget("de")
    split = watch.absences.partition
    assert split is not None
    assert (split.lost, split.away) == (frozenset("f"), 1)
    watch.pass_seconds(1, "bc")
    assert watch.absences.partition is not None
    watch.pass_seconds(1, "bcf")
    assert watch.absences.partition is None

    watch.pass_seconds(5, "b")
    assert watch.absences.partition is not None
    watch.absences.forget("cdef")
    assert watch.absences.partition is None


def test_a_single_member_that_vanishes_is_no_partition_and_is_remembered() -> None:
    watch = Watch()
    watch.pass_seconds(10)
    watch.pass_seconds(10, "bcde")
    assert watch.absences.partition is None
    assert watch.stake("f") == Stake(100, peers=5)


def test_those_that_vanish_one_after_the_other_over_a_long_time_are_crashes() -> None:
    watch = Watch()
    watch.pass_seconds(10)
    for left in ("bcde", "bcd", "bc", "b"):
        watch.pass_seconds(20, left)
        assert watch.absences.partition is None
    watch.pass_seconds(20, "")
    assert watch.absences.partition is not None  # now there is nobody


def test_who_vanishes_a_little_later_belongs_to_the_same_partition() -> None:
    watch = Watch()
    watch.pass_seconds(10)
    watch.pass_seconds(3, "bcd")
    watch.pass_seconds(10, "bc")
    split = watch.absences.partition
    assert split is not None
    assert split.lost == frozenset("def")


def test_a_goodbye_is_no_loss_and_an_old_one_is_none() -> None:
    watch = Watch()
    watch.pass_seconds(10)
    for peer in "def":
        watch.absences.left(peer, 3)  # a replay
        watch.absences.left(peer, 11)
    watch.pass_seconds(20, "bc")
    assert watch.absences.partition is None
    assert watch.stake("d") is None
    watch.absences.left("b", 3)
    watch.pass_seconds(5, "c")
    assert watch.stake("b") is not None


def test_one_failed_exchange_is_no_absence() -> None:
    watch = Watch()
    watch.pass_seconds(10)
    watch.known = suspected(watch.known, "b")
    watch.pass_seconds(1, "cdef", listed="b")
    watch.pass_seconds(10)
    assert [watch.stake(peer) for peer in OTHERS] == [None] * 5


def test_a_suspect_is_lost_earlier() -> None:
    watch = Watch()
    watch.pass_seconds(10)
    watch.pass_seconds(3, "cdef", listed="b")
    assert watch.stake("b") is None
    watch.known = suspected(watch.known, "b")
    watch.pass_seconds(1, "cdef", listed="b")
    assert watch.stake("b") is not None


def test_what_was_done_until_a_member_was_back_stands_behind_us_until_an_exchange_with_it() -> None:
    watch = Watch()
    watch.pass_seconds(10)
    watch.pass_seconds(20, "bc")
    watch.pass_seconds(1)
    watch.pass_seconds(30)
    assert watch.stake("d") == Stake(210, peers=3, merge=True)
    assert watch.stake("b") == Stake(210, peers=3, merge=False)  # it was always there
    watch.absences.met("d", watch.now, watch.step)
    assert watch.stake("d") == Stake(210, peers=3, merge=False)
    watch.pass_seconds(200)
    assert watch.stake("d") is None
    assert watch.stake("e") == Stake(210, peers=3)  # not met yet


def test_who_is_lost_again_before_an_exchange_was_away_since_the_first_time() -> None:
    watch = Watch()
    watch.pass_seconds(10)
    watch.pass_seconds(20, "bc")
    watch.pass_seconds(1)
    watch.pass_seconds(20, "bc")
    watch.pass_seconds(1)
    assert watch.stake("d") == Stake(420, peers=3)


def test_an_exchange_is_a_sign_of_life_whatever_the_directory_says() -> None:
    watch = Watch()
    watch.pass_seconds(10)
    for _ in range(10):
        watch.pass_seconds(2, "")
        for peer in OTHERS:
            watch.absences.met(peer, watch.now, watch.step)
    assert watch.absences.partition is None
    assert watch.stake("b") is None


def test_who_slept_itself_was_apart_from_all_and_did_nothing() -> None:
    watch = Watch()
    watch.pass_seconds(10)
    watch.now += 500.0
    watch.pass_seconds(1)
    assert watch.absences.partition is None  # all are there
    stakes = [watch.stake(peer) for peer in OTHERS]
    assert {stake.steps for stake in stakes if stake is not None} == {10}


def test_who_copied_a_partner_says_what_stands_behind_that_one() -> None:
    watch = Watch()
    watch.pass_seconds(10)
    watch.pass_seconds(20, "bc")
    watch.pass_seconds(1)
    watch.absences.adopt(Stake(999, peers=7), watch.now)
    assert watch.stake("d") == Stake(999, peers=7, merge=True)
    assert watch.stake("b") == Stake(999, peers=7, merge=False)


def test_memory_is_bounded_and_a_partition_ends_after_an_hour() -> None:
    absences = Absences(1.0)
    many = [f"p{n}" for n in range(3 * LOST_MAX)]
    absences.look(observe({}, [record(peer, 1) for peer in many], 0.0), 0.0, 0)
    absences.look({}, 10.0, 100)
    assert len(absences.absent) == LOST_MAX
    assert len(absences.seen) == LOST_MAX
    assert absences.partition is not None
    absences.look({}, 11.0 + FORGOTTEN_SECONDS, 100)
    assert absences.partition is None
    assert not absences.absent
    assert not absences.seen


def test_a_peer_that_never_saw_anybody_is_not_parted() -> None:
    absences = Absences(1.0)
    for now in range(100):
        absences.look({}, float(now), now)
    assert absences.partition is None
