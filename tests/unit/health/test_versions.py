"""Which members run what, in a sentence of bounded length."""

from __future__ import annotations

from helpers.statuses import status_of

from p2p_elastic.health.versions import Runs, differing, protocols_differ, versions_differ
from p2p_elastic.status.schema import MemberStatus

OURS = Runs("0.2.0", 3)


def member(peer: str, version: str | None = "0.2.0", protocol: int | None = 3, state: str = "alive") -> MemberStatus:
    return MemberStatus(
        peer=peer, addresses=(), version=version, protocol=protocol, state=state, step=1, loss=None, age_seconds=0.0
    )  # type: ignore[arg-type]


def test_members_that_all_run_the_same_differ_in_nothing() -> None:
    assert differing(OURS, {}) is None
    assert differing(OURS, {"a": OURS, "b": OURS}) is None


def test_few_versions_and_few_peers_of_each_are_named() -> None:
    others = {f"p{i:02}": Runs(f"0.{i % 8}.1", 3) for i in range(80)}
    text = differing(OURS, others)
    assert text is not None
    assert "0.0.1 (protocol 3) at p00, p08, p16 and 7 more" in text
    assert "and 5 more versions" in text
    assert len(text) < 400


def test_the_dead_do_not_count_and_who_says_nothing_runs_an_earlier_version() -> None:
    status = status_of(version="0.2.0", protocol=3, members=(member("a"), member("dead", "0.1.0", 2, "dead")))
    assert versions_differ(status) is None
    assert not protocols_differ(status)
    status = status_of(version="0.2.0", protocol=3, members=(member("a"), member("old", None, None, "suspect")))
    assert "an earlier version at old" in str(versions_differ(status))
    assert not protocols_differ(status)
