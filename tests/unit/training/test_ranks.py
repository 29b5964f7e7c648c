"""Several processes that train one model: one peer, or none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from p2p_elastic.errors import ConfigError
from p2p_elastic.training.ranks import ranks_of


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_process_that_is_alone_has_no_ranks(alone: None) -> None:
    assert ranks_of(None) is None
    assert ranks_of(dist.group.WORLD) is None


def test_several_without_a_group_are_refused_with_what_to_give(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "get_world_size", lambda: 4)
    with pytest.raises(ConfigError, match="none, in a process of 4.*process_group=torch.distributed.group.WORLD"):
        ranks_of(None)
