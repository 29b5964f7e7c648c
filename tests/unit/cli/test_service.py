from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from p2p_elastic.cli.main import main


def test_show_prints_the_unit() -> None:
    done = CliRunner().invoke(main, ["service", "show", "--user", "--name", "a", "--", "--task", "digits"])
    assert done.exit_code == 0, done.output
    assert "--output ${STATE_DIRECTORY} --task digits\n" in done.output


@pytest.mark.parametrize(
    "words",
    [
        ["--", "--task", "digits"],
        ["--user", "--", "--output", "/a"],
        ["--user", "--", "--data-dir", "relative"],
        ["--user", "--", "--task", "./file.py:TASK"],
        ["--user", "--", "--no-such-option"],
        ["--user", "--name", "a/b"],
    ],
)
def test_what_a_service_could_not_do_is_refused_before(words: list[str]) -> None:
    assert CliRunner().invoke(main, ["service", "show", *words]).exit_code == 2


def test_a_unit_is_installed_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr("p2p_elastic.service.install.RUNS", tmp_path / "no-systemd")
    path = tmp_path / "systemd" / "user" / "p2p-elastic-a.service"
    done = CliRunner().invoke(main, ["service", "install", "--user", "--name", "a"])
    assert "not started: systemd does not run here" in done.output
    assert CliRunner().invoke(main, ["service", "uninstall", "--user", "--name", "a"]).exit_code == 0
    assert not path.exists()
    assert CliRunner().invoke(main, ["service", "uninstall", "--user", "--name", "a"]).exit_code == 2
