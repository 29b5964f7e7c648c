from __future__ import annotations

import pytest

from p2p_elastic.errors import ConfigError
from p2p_elastic.service.install import check_reachable
from p2p_elastic.service.unit import Service, check_name, quoted


def lines_of(scope: str, *options: str) -> list[str]:
    python = "/opt/p2p/bin/python"
    return (
        Service.model_validate({"name": "a", "scope": scope, "python": python, "options": options}).text().split("\n")
    )


def test_the_command_goes_on_from_the_state_folder_with_the_options_escaped() -> None:
    command = "ExecStart=/opt/p2p/bin/python -m p2p_elastic join --resume-or-found --output ${STATE_DIRECTORY}"
    assert f'{command} --run "100%% $$x"' in lines_of("user", "--run", "100% $x")


@pytest.mark.parametrize(
    ("word", "written"),
    [("", '""'), ("a b", '"a b"'), ("'", '"\'"'), ("\\", '"\\\\"'), (";", '";"'), ('"', '"\\""'), ("%i", "%%i")],
)
def test_what_systemd_would_read_otherwise_is_escaped(word: str, written: str) -> None:
    assert quoted([word]) == written


def test_a_line_break_is_refused() -> None:
    with pytest.raises(ConfigError, match="line breaks"):
        quoted(["a\nExecStartPre=b"])


def test_codes_after_which_a_restart_does_not_help_prevent_it() -> None:
    assert {"Restart=on-failure", "RestartPreventExitStatus=2 3", "KillMode=mixed"} <= set(lines_of("user"))


def test_only_a_service_of_the_system_has_a_user_of_its_own() -> None:
    assert "DynamicUser=yes" in lines_of("system")
    assert "DynamicUser=yes" not in lines_of("user")


@pytest.mark.parametrize("name", ["", "-a", "a/b", "a b", "é", "a%i", "x" * 65])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        check_name(name)


def test_an_interpreter_in_a_home_is_no_use_to_a_service_of_the_system() -> None:
    with pytest.raises(ConfigError, match="home folders"):
        check_reachable(Service(name="a", scope="system", python="/home/a/bin/python"))
    check_reachable(Service(name="a", scope="user", python="/home/a/bin/python"))


def test_p2pd_may_be_started_with_a_filter_of_its_own() -> None:
    assert "SystemCallFilter=@system-service seccomp" in lines_of("system")
    assert "SystemCallErrorNumber=EPERM" in lines_of("system")
