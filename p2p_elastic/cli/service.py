"""The command `p2p-elastic service`: a peer that systemd starts, watches and restarts."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import click

from p2p_elastic.cli.errors import clean_errors
from p2p_elastic.errors import ConfigError
from p2p_elastic.service.install import install, remove, systemctl
from p2p_elastic.service.unit import Scope, Service, check_name

SET_BY_SERVICE = ("output", "resume", "resume_or_found")
ABSOLUTE = "an absolute path: a service begins in a folder of its own"
SCOPE: tuple[click.Parameter, ...] = (
    click.Option(["--user", "scope"], flag_value="user", default=None, help="Of this user; needs no root."),
    click.Option(["--system", "scope"], flag_value="system", default=None, help="Of the machine; needs root."),
    click.Option(["--name"], default="peer", show_default=True, help="Name of the service: p2p-elastic-NAME."),
)
OPTIONS = click.Argument(["options"], nargs=-1, type=click.UNPROCESSED, metavar="-- JOIN OPTIONS...")
START = click.Option(["--start/--no-start"], default=True, help="Enable and start it.")
INSTALL = """Write a systemd unit that runs `join` with these options, enable and start it.

    Identity, checkpoints and results are in a folder of the service (StateDirectory); each start goes on from there.
    Paths must be absolute.

    \b
      p2p-elastic service install --user -- --task mnist --shard 1/4
      /opt/p2p-elastic/bin/p2p-elastic service install --system --name mnist -- --task mnist
    """


def service_of(join: click.Command) -> click.Group:
    """Build the command `service`, which checks the options of `join`.

    Args:
        join: the command `join`.

    Returns:
        The command.
    """
    group = click.Group("service", help="Run a peer as a service of systemd.")
    shown = "Print the unit that `install` would write."
    removed = "Stop the service and remove its unit; what it learnt stays."
    for name, callback, params, text in (
        ("install", functools.partial(_install, join), [*SCOPE, START, OPTIONS], INSTALL),
        ("show", functools.partial(_show, join), [*SCOPE, OPTIONS], shown),
        ("uninstall", _uninstall, [*SCOPE], removed),
    ):
        group.add_command(click.Command(name, callback=callback, params=params, help=text))
    return group


def check_options(join: click.Command, options: tuple[str, ...]) -> None:
    """Check what `join` will be given, before systemd gives it.

    Args:
        join: the command `join`.
        options: for it.

    Raises:
        ConfigError: if the service sets one of them itself, or a path is relative.
        click.UsageError: if `join` would not take them.
    """
    given = join.make_context("join", list(options)).params
    for key in SET_BY_SERVICE:
        if given[key]:
            raise ConfigError(key, str(given[key]), "nothing: the service sets that itself")
    for key, value in given.items():
        if isinstance(value, Path) and not value.is_absolute():
            raise ConfigError(key, str(value), ABSOLUTE)
    if (given["task"] or "").startswith("."):
        raise ConfigError("task", given["task"], ABSOLUTE)


def _install(join: click.Command, scope: Scope | None, name: str, options: tuple[str, ...], start: bool) -> None:
    with clean_errors():
        service = _built(join, scope, name, options)
        click.echo(f"wrote {install(service)}")
        problem = systemctl(service.scope, "daemon-reload")
        if problem is None and start:
            problem = systemctl(service.scope, "enable", "--now", service.unit)
        if problem is not None or not start:
            click.echo(f"not started{f': {problem}' if problem else ''}")
            click.echo(f"start it with: systemctl --{service.scope} enable --now {service.unit}")
            return
        unit = f"--user-unit {service.unit}" if service.scope == "user" else f"--unit {service.unit}"
        click.echo(f"started; watch it with: journalctl --follow {unit}")


def _show(join: click.Command, scope: Scope | None, name: str, options: tuple[str, ...]) -> None:
    with clean_errors():
        click.echo(_built(join, scope, name, options).text(), nl=False)


def _uninstall(scope: Scope | None, name: str) -> None:
    with clean_errors():
        service = Service(name=check_name(name), scope=_needed(scope), python=sys.executable)
        systemctl(service.scope, "disable", "--now", service.unit)  # before its file is gone
        click.echo(f"removed {remove(service.unit, service.scope)}; its state folder stays")
        systemctl(service.scope, "daemon-reload")


def _built(join: click.Command, scope: Scope | None, name: str, options: tuple[str, ...]) -> Service:
    check_options(join, options)
    return Service(name=check_name(name), scope=_needed(scope), python=sys.executable, options=options)


def _needed(scope: Scope | None) -> Scope:
    if scope is None:
        raise ConfigError("service", None, "--user or --system")
    return scope
