"""Containers without an engine: an image that buildah has, run with Linux's own namespaces and control groups.

Each container has a network of its own on one bridge, a read-only root, a volume on /data, a tmpfs on /tmp, no
capabilities, and the limits of memory and CPU time that it is given. Needs root.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

BRIDGE, SUBNET = "p2pe0", "10.77.19"
CGROUPS = Path("/sys/fs/cgroup")
USER = 1000
PERIOD = 100_000
SCRIPT = """
{groups}
mount --bind {root} {root} && mount -o remount,ro,bind {root}
mount -t proc proc {root}/proc && mount --rbind /sys {root}/sys && mount --rbind /dev {root}/dev
mount -t tmpfs -o mode=1777 tmpfs {root}/tmp && mount --bind {volume} {root}/data
cd {root}
exec chroot {root} setpriv --reuid {user} --regid {user} --clear-groups --bounding-set=-all --inh-caps=-all \
    --no-new-privs \
    env -i PATH=/opt/venv/bin:/usr/bin:/bin HOME=/home/peer XDG_STATE_HOME=/data/state PYTHONUNBUFFERED=1 \
    sh -c 'cd /data && exec "$@"' sh {command}
"""


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def until(met: Callable[[], Any], seconds: float, what: str) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError, ValueError):
            if found := met():
                return found
        time.sleep(0.25)
    raise AssertionError(f"not within {seconds} s: {what}")


@contextlib.contextmanager
def image_root(image: str) -> Iterator[Path]:
    """The files of an image, which containers share."""
    name = run("buildah", "from", image)
    try:
        yield Path(run("buildah", "mount", name))
    finally:
        run("buildah", "rm", name)


@contextlib.contextmanager
def bridge() -> Iterator[None]:
    """The network of the containers, on which the machine has an address too."""
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    try:
        run("ip", "address", "add", f"{SUBNET}.1/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        yield
    finally:
        run("ip", "link", "del", BRIDGE)


class Container:
    """One peer with a volume, which outlives its processes.

    Args:
        number: from 2; its address ends with it.
        root: the files of its image.
        folder: for volume and log.
        memory: limit in bytes; None: none.
        cpus: limit of CPU time in cores; None: none.
    """

    def __init__(
        self, number: int, root: Path, folder: Path, *, memory: int | None = None, cpus: float | None = None
    ) -> None:
        self.address, self.name = f"{SUBNET}.{number}", f"p2pe-{number}"
        self._root, self._log = root, folder / f"{self.name}.log"
        self.volume = folder / self.name
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes]
        self.volume.mkdir()
        os.chown(self.volume, USER, USER)
        with ExitStack() as made:
            self._groups = _make_groups(made, self.name, memory, cpus)
            self._connect(made)
            self._made = made.pop_all()

    def _connect(self, made: ExitStack) -> None:
        run("ip", "netns", "add", self.name)
        made.callback(run, "ip", "netns", "del", self.name)
        run("ip", "link", "add", self.name, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        made.callback(run, "ip", "link", "del", self.name)  # the kernel frees a network later than it is told to
        run("ip", "link", "set", self.name, "master", BRIDGE, "up")
        self.inside("ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        self.inside("ip", "link", "set", "eth0", "up")
        self.inside("ip", "link", "set", "lo", "up")

    def inside(self, *command: str) -> str:
        """Run a command of this machine in the network of the container."""
        return run("ip", "netns", "exec", self.name, *command)

    def start(self, *command: str) -> None:
        script = SCRIPT.format(
            groups="\n".join(f"echo 0 >{group}/cgroup.procs" for group in self._groups),
            root=self._root,
            volume=self.volume,
            user=USER,
            command=shlex.join(command),
        )
        space = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", script]
        self._output = self._log.open("ab")
        self._process = subprocess.Popen(  # `ip netns exec` would mount another /sys, which has no control groups
            ["nsenter", f"--net=/run/netns/{self.name}", *space], stdout=self._output, stderr=self._output
        )

    def stop(self, number: signal.Signals) -> int:
        """Signal the first process of the container, as an engine does, and wait for its end."""
        assert self._process is not None
        os.kill(self.main(), number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end of the container, and return its exit code."""
        assert self._process is not None
        code = self._process.wait(90)
        self._process = None
        self._output.close()
        return code

    def main(self) -> int:
        """The first process of the container, as this machine counts it."""
        assert self._process is not None
        pid = self._process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def status(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://{self.address}:8870/v1/status", timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def memory_peak(self) -> int:
        """The most that the container had, with files, in bytes."""
        group = self._groups[0]
        name = "memory.peak" if (group / "memory.peak").exists() else "memory.max_usage_in_bytes"
        return int((group / name).read_text())

    def close(self) -> None:
        with self._made:
            if self._process is not None:
                if self._process.poll() is None:
                    self.stop(signal.SIGKILL)
                self._output.close()


def _make_groups(made: ExitStack, name: str, memory: int | None, cpus: float | None) -> list[Path]:
    """Make the control groups of a container: one of version 2, or two of version 1."""
    if (CGROUPS / "cgroup.controllers").exists():
        (CGROUPS / "cgroup.subtree_control").write_text("+memory +cpu")
        files = {CGROUPS / name: {"memory.max": memory, "cpu.max": cpus and f"{int(cpus * PERIOD)} {PERIOD}"}}
    else:
        files = {
            CGROUPS / "memory" / name: {"memory.limit_in_bytes": memory},
            CGROUPS / "cpu" / name: {"cpu.cfs_quota_us": cpus and int(cpus * PERIOD)},
        }
    for group, limits in files.items():
        group.mkdir()
        made.callback(_remove_group, group)
        for file, limit in limits.items():
            if limit is not None:
                (group / file).write_text(str(limit))
    return list(files)


def _remove_group(group: Path) -> None:
    until(lambda: not (group / "cgroup.procs").read_text(), 10, "an empty group")
    group.rmdir()
