"""The distribution as it is described: packages, links, README."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from p2p_elastic.cli.main import main
from p2p_elastic.cli.options import DATA_DIR_DEFAULT
from p2p_elastic.node.config import JoinConfig
from p2p_elastic.rules.methods import RULES
from p2p_elastic.tasks import TASKS
from p2p_elastic.tasks.folders import default_data_dir

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
README = (REPOSITORY / "README.md").read_text()
OPTIONS = (REPOSITORY / "docs/guides/options.md").read_text()


def test_every_package_is_listed() -> None:
    settings = PROJECT["tool"]["setuptools"]
    package = REPOSITORY / "p2p_elastic"
    files = [
        *package.rglob("__init__.py"),
        *(f for top in ("peers", "api") for f in (package / top).rglob("__init__.py")),
    ]
    found = {".".join(f.parent.relative_to(REPOSITORY).parts) for f in files} | {"p2p_elastic.api.static"}
    assert set(settings["packages"]) == found
    assert settings["package-dir"] == {
        "p2p_elastic": "p2p_elastic",
        "p2p_elastic.peers": "peers",
        "p2p_elastic.api": "api",
    }


@pytest.mark.parametrize("name", ["peers", "api"])
def test_the_links_for_type_checkers_point_to_the_top_level(name: str) -> None:
    link = REPOSITORY / "p2p_elastic" / name
    assert link.is_symlink()
    assert link.resolve() == REPOSITORY / name


def test_every_option_of_join_is_in_the_configuration_and_the_other_way_round() -> None:
    command = main.commands["join"]
    options = {p.name for p in command.params} - {"config_file", "verbose"}
    assert options == set(JoinConfig.model_fields)


def test_every_option_says_what_it_is_for() -> None:
    for command in (d for c in main.commands.values() for d in (c, *getattr(c, "commands", {}).values())):
        assert command.help
        for parameter in command.params:
            if isinstance(parameter, click.Argument):  # click gives arguments no help of their own
                continue
            assert parameter.help, f"{command.name} {parameter.name}"


def test_every_command_with_a_data_folder_says_where_that_is_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    helps = {c.name: p.help for c in main.commands.values() for p in c.params if p.name == "data_dir"}
    assert helps.keys() == {"demo", "doctor", "export", "join", "simulate"}
    assert all(DATA_DIR_DEFAULT in text for text in helps.values())
    monkeypatch.delenv("P2P_ELASTIC_DATA", raising=False)
    assert default_data_dir() == Path("~/.cache/p2p-elastic/data").expanduser()
    for place in ("$P2P_ELASTIC_DATA", "~/.cache/p2p-elastic/data"):
        assert place in DATA_DIR_DEFAULT
        assert f"`{place}`" in OPTIONS


def test_the_rules_are_listed_with_moving_rates_where_they_have_one_and_where_they_run() -> None:
    rows = CliRunner().invoke(main, ["rules"]).output.splitlines()
    told = {first.split()[0]: second.strip() for first, second in zip(rows[::2], rows[1::2], strict=True)}
    assert told.keys() == RULES.keys()
    assert told["elastic-gossip"] == "moving rate 0.5"
    assert told["gosgd"] == told["none"] == "no moving rate"
    assert told["easgd-sync"] == "moving rate 0.9 / p for p workers, in the simulator only"


def test_the_summaries_of_the_tasks_are_in_one_column() -> None:
    rows = CliRunner().invoke(main, ["tasks"]).output.splitlines()
    width = max(map(len, TASKS))
    assert [row[:width].strip() for row in rows[::2]] == list(TASKS)
    assert all(row[width] == " " and row[width + 1].isalnum() for row in rows)


def test_every_option_in_the_readme_exists() -> None:
    commands = [d for c in main.commands.values() for d in (c, *getattr(c, "commands", {}).values())]
    known = {o for c in commands for p in c.params for o in p.opts} | {"--help", "--version"}
    lines = [line for line in README.splitlines() if "p2p-elastic " in line]
    used = {o for line in lines for o in re.findall(r"--[a-z][a-z-]+", line.split("p2p-elastic ", 1)[1])}
    assert used
    assert used <= known


def test_every_make_target_in_the_readme_exists() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert {"demo", "test"} <= set(re.findall(r"\bmake ([a-z]+)", README)) <= targets
