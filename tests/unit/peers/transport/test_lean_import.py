"""Importing a part of a large package without the rest of it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2p_elastic.peers.transport.lean_import import import_lazily

NAME = "large_package_of_the_test"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package whose `__init__` imports all of it; the file `broken` beside it makes that fail."""
    folder = tmp_path / NAME
    folder.mkdir()
    (folder / "__init__.py").write_text(
        f"import pathlib\nif pathlib.Path({str(tmp_path / 'broken')!r}).exists(): raise OSError('broken')\n"
        f"from {NAME}.heavy import answer\n"
    )
    (folder / "heavy.py").write_text("answer = 42\n")
    (folder / "small.py").write_text("one = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == NAME]:
        del sys.modules[name]


def test_a_submodule_is_imported_without_the_rest(package: Path) -> None:
    import_lazily(NAME)
    assert importlib.import_module(f"{NAME}.small").one == 1
    assert f"{NAME}.heavy" not in sys.modules


def test_the_rest_comes_as_soon_as_something_of_the_package_is_asked_for(package: Path) -> None:
    import_lazily(NAME)
    assert importlib.import_module(NAME).answer == 42
    assert f"{NAME}.heavy" in sys.modules
    with pytest.raises(AttributeError):
        _ = importlib.import_module(NAME).nothing


def test_what_every_module_is_asked_for_imports_nothing(package: Path) -> None:
    import_lazily(NAME)
    assert not hasattr(importlib.import_module(NAME), "__wrapped__")
    assert f"{NAME}.heavy" not in sys.modules


def test_a_package_that_is_there_stays_as_it_is_and_one_that_is_nowhere_is_no_error(package: Path) -> None:
    before = importlib.import_module(NAME)
    import_lazily(NAME)
    assert sys.modules[NAME] is before
    import_lazily("no_such_package_of_the_test")
    assert "no_such_package_of_the_test" not in sys.modules


def test_a_package_that_cannot_be_imported_says_so_each_time_until_it_can(package: Path) -> None:
    (package / "broken").touch()
    import_lazily(NAME)
    for _ in range(2):
        with pytest.raises(OSError, match="broken"):
            _ = importlib.import_module(NAME).answer
    (package / "broken").unlink()
    assert importlib.import_module(NAME).answer == 42
