from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from p2p_elastic.common.disk import LOOK_SECONDS, DiskSpace


def test_a_folder_has_the_room_of_its_disk_and_one_that_is_missing_has_none(tmp_path: Path) -> None:
    here, nowhere = DiskSpace(tmp_path), DiskSpace(tmp_path / "missing")
    here.wait()
    nowhere.wait()
    found = here()
    assert found is not None
    assert 0 <= found.free_bytes <= found.size_bytes == shutil.disk_usage(tmp_path).total
    assert nowhere() is None


def test_the_disk_is_looked_at_again_after_a_while_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, now = [7, 5], [0.0]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: (9, 0, free.pop(0)))
    space = DiskSpace(tmp_path, lambda: now[0])
    seen = []
    for now[0] in (0.0, LOOK_SECONDS - 1.0, LOOK_SECONDS, LOOK_SECONDS + 1.0):
        space()
        space.wait()
        seen.append(space())
    assert [one.free_bytes for one in seen if one] == [7, 7, 5, 5]
    assert free == []
