"""Tasks of the user's own: where they come from, and what is said of those that are broken."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from p2p_elastic.errors import ConfigError
from p2p_elastic.tasks import TASKS, catalog, every_task, find_task, named_task
from p2p_elastic.tasks.loading import is_place, load_installed

GOOD = """
import torch
from torch import nn
from p2p_elastic.tasks import Data, Recipe, Split, Task

def data(folder):
    points = Split(torch.zeros(8, 2), torch.arange(8) % 2)
    return Data(points, points, points)

POINTS = Task("points", lambda: nn.Linear(2, 2), data, Recipe(4, 0.1))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a task file, which is the current one."""
    (tmp_path / "points.py").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return tmp_path


def test_a_task_comes_from_a_file_and_is_the_same_each_time(here: Path) -> None:
    task = find_task("./points.py:POINTS")
    assert task.name == "points"
    assert find_task(f"{here}/points.py:POINTS") is task


def test_a_task_comes_from_a_module_in_the_current_folder(here: Path) -> None:
    (here / "package_of_tasks").mkdir()
    (here / "package_of_tasks" / "inner.py").write_text(GOOD)
    assert find_task("package_of_tasks.inner:POINTS").name == "points"


def test_a_file_does_not_take_the_place_of_an_installed_module(here: Path) -> None:
    (here / "torch.py").write_text(GOOD.replace("import torch\n", "import torch\nassert torch.nn\n"))
    assert find_task("./torch.py:POINTS").name == "points"
    assert Path(str(sys.modules["torch"].__file__)).name == "__init__.py"


def test_what_stands_beside_a_file_can_be_imported_by_it(here: Path) -> None:
    (here / "beside_points.py").write_text("NAME = 'beside'\n")
    (here / "points.py").write_text(GOOD.replace('"points"', "NAME").replace("import torch\n", BESIDE, 1))
    assert find_task("./points.py:POINTS").name == "beside"


BESIDE = "import torch\nfrom beside_points import NAME\n"


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("./points.py:OTHER", GOOD, r"nothing has that name in .*points\.py; tasks there: POINTS"),
        ("./points.py:Data", GOOD, r"that is a type, not a Task"),
        ("./nowhere.py:TASK", GOOD, r"there is no file .*nowhere\.py"),
        ("no_such_module:TASK", GOOD, r"ModuleNotFoundError: No module named 'no_such_module'"),
        ("./points.py:POINTS", "x = 1\ny = 2 +\n", r"points\.py, line 2: SyntaxError"),
        ("./points.py:POINTS", "x = 1\n\nz = y\n", r"points\.py, line 3: NameError: name 'y' is not defined"),
        ("./points.py:POINTS", "import torch\nTASK = torch.tensor('a')\n", r"points\.py, line 2: "),
    ],
)
def test_what_is_broken_is_an_error_with_its_line(here: Path, text: str, code: str, said: str) -> None:
    (here / "points.py").write_text(code)
    with pytest.raises(ConfigError, match=said) as caught:
        find_task(text)
    assert (caught.value.key, caught.value.got) == ("task", text)


def test_a_file_that_was_broken_is_read_anew(here: Path) -> None:
    (here / "points.py").write_text("z = y\n")
    with pytest.raises(ConfigError):
        find_task("./points.py:POINTS")
    (here / "points.py").write_text(GOOD)
    assert find_task("./points.py:POINTS").name == "points"


@pytest.mark.usefixtures("here")
def test_a_place_that_somebody_else_names_is_never_looked_at() -> None:
    for name in ("./points.py:POINTS", "points:POINTS", "points"):
        with pytest.raises(ConfigError, match="allowed: cifar10"):
            named_task(name)
    assert "points" not in sys.modules


@pytest.mark.usefixtures("here")
def test_a_name_from_elsewhere_is_the_users_own_task_if_that_has_it() -> None:
    assert named_task("points", "./points.py:POINTS") is find_task("./points.py:POINTS")
    assert named_task("digits", "./points.py:POINTS") is TASKS["digits"]
    with pytest.raises(ConfigError, match="allowed: cifar10"):
        named_task("other", "./points.py:POINTS")


@pytest.mark.usefixtures("here")
def test_installed_packages_bring_tasks_by_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    (sys.path).append(str(Path.cwd()))
    group = "p2p_elastic.tasks"
    points = {
        "broken": EntryPoint("broken", "no_such_module:TASK", group),
        "points": EntryPoint("points", "points:POINTS", group),
    }
    monkeypatch.setattr(catalog, "installed", lambda: points)
    assert find_task("points").name == named_task("points").name == "points"
    listed = dict(every_task())
    assert listed["built in"] is list(TASKS.values())[-1]
    assert [getattr(task, "name", "?") for where, task in every_task() if where != "built in"] == ["?", "points"]
    with pytest.raises(ConfigError, match="name both alike"):
        load_installed(EntryPoint("dots", "points:POINTS", group))


def test_only_places_have_a_colon() -> None:
    assert [is_place(text) for text in ("digits", "./a.py:B", "a.b:C")] == [False, True, True]
