"""The text of a systemd unit that runs a peer. Pure: nothing here needs systemd."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from p2p_elastic.errors import ConfigError
from p2p_elastic.values import Frozen

Scope = Literal["user", "system"]
PREFIX = "p2p-elastic"
NAME_LENGTH_MAX = 64
SPECIAL = frozenset(" \t\"'\\;")

UNIT = """\
# Written by `p2p-elastic service install`; `systemctl edit` changes it in a file of its own.
[Unit]
Description=p2p-elastic peer {name}
Documentation=man:systemd.service(5)
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
StateDirectory={state}
StateDirectoryMode=0700
WorkingDirectory=%S/{state}
Environment=PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1
UMask=0077

# 2: what was asked for cannot be done; 3: another process has this identity. A restart would not help.
Restart=on-failure
RestartSec=10
RestartPreventExitStatus=2 3
TimeoutStartSec=15min

# SIGTERM to the peer only: it hands over, saves and ends. What is left after that is killed.
KillMode=mixed
TimeoutStopSec=5min
WatchdogSec=3min
LimitCORE=0

NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
SystemCallArchitectures=native
{hardening}
[Install]
WantedBy={target}
"""

SYSTEM = """\
# seccomp: with it the peer starts p2pd so that a signal meant for the peer does not end it.
SystemCallFilter=@system-service seccomp
SystemCallErrorNumber=EPERM
DynamicUser=yes
Environment="HOME=%S/{state}" "XDG_STATE_HOME=%S/{state}/state" "XDG_CACHE_HOME=%S/{state}/cache"
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
CapabilityBoundingSet=
DevicePolicy=closed
DeviceAllow=char-nvidia* rw
DeviceAllow=char-drm rw
DeviceAllow=char-kfd rw
"""


class Service(Frozen):
    """A peer that systemd runs.

    Attributes:
        name: of the service, as `p2p-elastic-NAME`.
        scope: `system`, or that of one user.
        python: absolute path of the interpreter that has p2p-elastic.
        options: of `join`, without those that the service sets.
    """

    name: str
    scope: Scope
    python: str
    options: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """Name of the unit."""
        return f"{PREFIX}-{self.name}.service"

    def text(self) -> str:
        """Write the unit.

        Returns:
            The text of its file.
        """
        state = f"{PREFIX}/{self.name}"
        fixed = ["-m", "p2p_elastic", "join", "--resume-or-found", "--output"]
        command = " ".join([quoted([self.python, *fixed]), "${STATE_DIRECTORY}", quoted(self.options)]).rstrip()
        return UNIT.format(
            name=self.name,
            command=command,
            state=state,
            hardening=SYSTEM.format(state=state) if self.scope == "system" else "",
            target="multi-user.target" if self.scope == "system" else "default.target",
        )


def check_name(name: str) -> str:
    """Check the name of a service.

    Args:
        name: as given.

    Returns:
        The same.

    Raises:
        ConfigError: if it would not do as part of the name of a unit and of a folder.
    """
    plain = name.replace("-", "").replace("_", "")
    if not (plain.isascii() and plain.isalnum() and len(name) <= NAME_LENGTH_MAX and name[0] != "-"):
        raise ConfigError("name", name, f"letters, digits, - and _, at most {NAME_LENGTH_MAX}")
    return name


def quoted(words: Iterable[str]) -> str:
    r"""Write a command for `ExecStart=`, so that systemd takes each word as it is.

    Args:
        words: the command.

    Returns:
        One line.

    Raises:
        ConfigError: if a word has a character that a unit cannot hold.

    Example:
        >>> print(quoted(["say", "100 %", "$HOME", 'a"b']))
        say "100 %%" $$HOME "a\"b"
    """
    return " ".join(_word(word) for word in words)


def _word(word: str) -> str:
    if not word.isprintable():
        raise ConfigError("options", word, "no line breaks or control characters in a unit")
    escaped = word.replace("%", "%%").replace("$", "$$")
    if word and not SPECIAL & set(word):
        return escaped
    inside = escaped.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{inside}"'
