"""A machine that systemd boots: its own processes, mounts, network and control group, no engine. Needs Linux and root.

Its root is a folder that mmdebstrap filled, below a layer in memory that ends with it. The Python of these tests and
its packages are in /opt, read-only.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from helpers.linux.container import until

PYTHON = f"/opt/python/bin/python3.{sys.version_info.minor}"
PATHS = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
SPACES = ("mount", "pid", "net", "uts", "ipc", "cgroup")
SCRIPT = """
mount --make-rprivate / && mount -t tmpfs tmpfs {memory} && mkdir {memory}/upper {memory}/work {memory}/root
mount -t overlay -o lowerdir={base},upperdir={memory}/upper,workdir={memory}/work overlay {memory}/root
cd {memory}/root
mount -t proc proc proc && mount --bind proc/sys proc/sys && mount -o remount,ro,bind proc/sys
mount -t sysfs -o ro sysfs sys && mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs run && mount -t tmpfs -o mode=1777 tmpfs tmp && mount -t tmpfs -o mode=755 tmpfs dev
for node in null zero full random urandom tty; do touch dev/$node && mount --bind /dev/$node dev/$node; done
mkdir dev/shm && chmod 1777 dev/shm && touch dev/console && ln -s /proc/self/fd dev/fd
{binds}
echo /opt/python/lib >etc/ld.so.conf.d/python.conf && chroot . /sbin/ldconfig
echo machine >etc/hostname && rm -f etc/machine-id && touch etc/machine-id
exec chroot . /usr/bin/env -i container=p2pe {paths} /lib/systemd/systemd
"""


def why_not(base: str | None) -> str | None:
    """Why no machine can be booted here; None if one can."""
    if not base:
        return "`make services` makes the root of a machine and says where it is"
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs Linux and root"
    missing = [name for name in ("unshare", "nsenter") if shutil.which(name) is None]
    return f"{', '.join(missing)} is not here" if missing else None


def packages() -> dict[str, str]:
    """Folders with the packages of this Python -> where the machine has them."""
    found = dict.fromkeys(os.path.realpath(path) for path in sys.path if path.endswith("site-packages"))
    return {path: f"/opt/packages/{i}" for i, path in enumerate(found)}


class Booted:
    """A machine, from its boot to its end.

    Args:
        base: its root, which is not changed.
        folder: empty; for its log.
        binds: folder here -> folder there, read-only.
    """

    def __init__(self, base: Path, folder: Path, binds: dict[str, str]) -> None:
        self._group = _unified() / f"p2pe-services-{os.getpid()}"
        self._group.mkdir()
        self._log: IO[bytes] = (folder / "boot.log").open("ab+")
        memory = folder / "memory"
        memory.mkdir()
        binds = {sys.base_prefix: "/opt/python", **packages(), **binds}
        script = SCRIPT.format(
            base=base.resolve(), memory=memory, binds="\n".join(map(_bind, binds, binds.values())), paths=PATHS
        )
        spaces = [f"--{space}" for space in SPACES]
        enter = f"echo 0 >{self._group}/cgroup.procs && exec unshare {' '.join(spaces)} --fork --kill-child sh -euc "
        self._process = subprocess.Popen(
            ["sh", "-euc", enter + shlex.quote(script)], stdout=self._log, stderr=self._log, stdin=subprocess.DEVNULL
        )
        until(self._is_up, 60, f"a boot: {self._log.name}")

    def _is_up(self) -> bool:
        assert self._process.poll() is None, self.booting()
        return self.inside("systemctl", "is-system-running", check=False) in ("running", "degraded")

    def booting(self) -> str:
        """What systemd said on its console."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def inside(self, *command: str, check: bool = True) -> str:
        """Run a command in the machine as root, and return what it says."""
        first = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        if not first:
            raise OSError("not begun")
        enter = ["nsenter", "--target", first[0], *(f"--{space}" for space in SPACES), "--root", "--wd"]
        done = subprocess.run(
            [*enter, "/usr/bin/env", "-i", PATHS, *command], capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, f"{shlex.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def shown(self, unit: str, key: str) -> str:
        """One property of a unit, as systemd shows it."""
        return self.inside("systemctl", "show", "--property", key, "--value", unit)

    def journal(self, unit: str) -> str:
        """All that a service said in this boot."""
        return self.inside("journalctl", "--unit", unit, "--output", "cat", "--no-pager")

    def status(self, port: int) -> dict[str, Any]:
        """The status of a peer that listens on a port of the machine."""
        ask = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{port}/v1/status').read().decode())"
        said = self.inside(PYTHON, "-c", ask, check=False)
        found: dict[str, Any] = json.loads(said)  # a ValueError if nothing answers yet
        return found

    def close(self) -> None:
        """End all of its processes; what it wrote is gone."""
        self._process.send_signal(signal.SIGKILL)  # and the kernel its first process, and so all others
        self._process.wait(30)
        self._log.close()
        until(lambda: _removed(self._group), 30, "an empty group")


@contextlib.contextmanager
def booted(base: Path, folder: Path, binds: dict[str, str]) -> Iterator[Booted]:
    machine = Booted(base, folder, binds)
    try:
        yield machine
    finally:
        machine.close()


def _bind(here: str, there: str) -> str:
    to = shlex.quote(there[1:])
    return f"mkdir -p {to} && mount --bind {shlex.quote(here)} {to} && mount -o remount,ro,bind {to}"


def _unified() -> Path:
    """Where control groups of version 2 are: alone, or beside those of version 1."""
    alone = Path("/sys/fs/cgroup")
    return alone if (alone / "cgroup.controllers").exists() else alone / "unified"


def _removed(group: Path) -> bool:
    """An OSError as long as a process of it has not ended."""
    for folder, _, _ in os.walk(group, topdown=False):
        os.rmdir(folder)
    return not group.exists()
