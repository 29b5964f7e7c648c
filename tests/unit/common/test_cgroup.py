"""Limits of control groups, of both versions, from the text of their files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from p2p_elastic.common import machine
from p2p_elastic.common.cgroup import cpu_quota, group_paths, limit_of, memory_limits, quota_of
from p2p_elastic.errors import ConfigError

V1_UNLIMITED = "9223372036854771712\n"


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def v2(root: Path, files: dict[str, str], group: str = "") -> Path:
    own = {"proc/self/cgroup": f"0::/{group}\n"}
    return written(root, own | {f"sys/fs/cgroup/{name}": text for name, text in files.items()})


def test_the_groups_are_the_own_one_and_those_above() -> None:
    assert group_paths("0::/a/b\n", "cpu") == [(2, Path("a/b")), (2, Path("a")), (2, Path())]
    assert group_paths("4:memory:/x\n2:cpu,cpuacct:/\n", "cpu") == [(1, Path())]


@pytest.mark.parametrize(
    ("text", "cores"),
    [("max 100000\n", None), ("150000 100000\n", 1.5), ("-1\n 100000\n", None), ("50000 100000", 0.5)],
)
def test_a_quota_is_time_per_period(text: str, cores: float | None) -> None:
    assert quota_of(text) == cores


def test_a_limit_leaves_what_is_not_used_but_for_files() -> None:
    found = limit_of(
        "3000\n", "1000\n", "anon 100\ninactive_file 600\nactive_file 300\n", ("inactive_file", "active_file")
    )
    assert found is not None
    assert (found.limit, found.used, found.left) == (3000, 100, 2900)
    assert limit_of("max\n", "1000\n", "", ()) is None
    assert limit_of(V1_UNLIMITED, "1000\n", "", ()) is None


def test_the_strictest_group_counts(tmp_path: Path) -> None:
    files = {"slice/cpu.max": "100000 100000", "slice/job/cpu.max": "max 100000", "cpu.max": "400000 100000"}
    assert cpu_quota(v2(tmp_path, files, "slice/job")) == 1.0


def test_in_a_container_the_own_group_is_what_is_mounted(tmp_path: Path) -> None:
    assert cpu_quota(v2(tmp_path, {"cpu.max": "200000 100000"}, "docker/1234")) == 2.0


def test_version_1_is_read_too(tmp_path: Path) -> None:
    written(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/box\n1:cpu,cpuacct:/box\n0::/\n",
            "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": V1_UNLIMITED,
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "5000\n",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "4000\n",
            "sys/fs/cgroup/memory/box/memory.usage_in_bytes": "1500\n",
            "sys/fs/cgroup/memory/box/memory.stat": "total_inactive_file 400\ntotal_active_file 100\n",
        },
    )
    assert cpu_quota(tmp_path) == 0.5
    assert [(limit.limit, limit.left) for limit in memory_limits(tmp_path)] == [(4000, 3000)]


def test_without_files_nothing_is_limited(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    assert list(memory_limits(tmp_path)) == []
    assert cpu_quota(v2(tmp_path, {"cpu.max": "nonsense"})) is None
    assert machine.left_of_limits(tmp_path) is None


@pytest.mark.parametrize(("quota", "cores"), [("50000", 1), ("190000", 1), ("200000", 2), ("900000", 4), ("max", 4)])
def test_cores_are_those_of_affinity_and_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    assert machine.cores(v2(tmp_path, {"cpu.max": f"{quota} 100000"})) == cores


def test_free_memory_is_what_the_machine_or_the_container_leaves(tmp_path: Path) -> None:
    written(v2(tmp_path, {}), {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    4000 kB\n"})
    assert machine.free_memory(tmp_path) == 4_096_000
    v2(tmp_path, {"memory.max": "max\n"})
    assert machine.free_memory(tmp_path) == 4_096_000
    v2(tmp_path, {"memory.max": "3000\n", "memory.current": "1000\n"})
    assert machine.free_memory(tmp_path) == 2000
    v2(tmp_path, {"memory.stat": "anon 100\ninactive_file 600\nactive_file 300\n"})
    assert machine.free_memory(tmp_path) == 2900  # what was read of files goes first


def test_a_model_that_the_limit_has_no_room_for_is_refused() -> None:
    machine.check_fits(10_000_000, 8, None)
    machine.check_fits(10_000_000, 8, 80_000_000)
    with pytest.raises(ConfigError, match="raise the memory limit"):
        machine.check_fits(10_000_000, 8, 79_000_000)
