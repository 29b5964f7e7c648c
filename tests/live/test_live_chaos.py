"""A swarm of real processes that are killed, stopped and cut off; `python -m tests.live_chaos` does more of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from live_chaos import disk, namespaces
from live_chaos.plan import Fault
from live_chaos.run import Settings, live_through

UNDISTURBED = 0.975  # test accuracy of a peer of an undisturbed swarm; 0.9722 to 0.9833 were seen


def test_a_swarm_lives_through_kills_stops_leaves_guests_and_bad_links(tmp_path: Path) -> None:
    plan = [
        Fault(0.0, "hole", victim=1, other=2, seconds=2.0),
        Fault(0.5, "kill", victim=0, other=0, seconds=0.5),
        Fault(2.5, "corrupt", victim=1, other=2, seconds=2.0),
        Fault(3.0, "kill-daemon", victim=2, other=0, seconds=0.0),
        Fault(5.0, "cut", victim=1, other=2, seconds=1.0),
        Fault(7.0, "stop", victim=1, other=0, seconds=2.0),
        Fault(10.0, "leave", victim=2, other=0, seconds=0.5),
        Fault(11.0, "delay", victim=0, other=1, seconds=2.0),
        Fault(12.0, "burst", victim=0, other=0, seconds=0.0),
        Fault(14.0, "part", victim=0, other=0, seconds=2.0),
        Fault(17.0, "stop-daemon", victim=1, other=0, seconds=2.0),
    ]
    report = live_through(Settings(tmp_path, peers=3, burst=1), plan, UNDISTURBED)
    assert report.wrong == []
    assert sum(report.injected.values()) - report.injected["guests"] + sum(report.passed_over.values()) == len(plan)


@pytest.mark.skipif(disk.why_not() is not None, reason=str(disk.why_not()))
@pytest.mark.skipif(namespaces.why_not() is not None, reason=str(namespaces.why_not()))
def test_a_swarm_lives_through_unplugged_cables_a_partition_and_a_full_disk(tmp_path: Path) -> None:
    plan = [
        Fault(0.0, "unplug", victim=1, other=0, seconds=3.0),
        Fault(1.0, "full-disk", victim=2, other=0, seconds=3.0),
        Fault(5.0, "part", victim=0, other=0, seconds=5.0),
    ]
    report = live_through(Settings(tmp_path, peers=3, namespaces=True, small_disk=True), plan, UNDISTURBED)
    assert report.wrong == []
    assert sum(report.injected.values()) == len(plan)
