"""Makes `helpers` importable from every folder of tests, and keeps what peers remember out of the user's home."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))
settings.register_profile("same every time", deadline=None, derandomize=True, database=None)  # and on a busy machine
settings.load_profile("same every time")
torch.set_num_threads(1)  # tiny models: a second thread costs more than it brings
gc.disable()  # until all tests are collected: what is imported for them does not become garbage


def pytest_collection_finish() -> None:
    gc.freeze()  # it need not be looked through again and again
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def state_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield
