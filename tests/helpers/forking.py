"""Starts Python programs by forking a process that has imported PyTorch and `p2p-elastic` already (Linux).

An interpreter that begins anew computes for three seconds before a peer does anything. `launch` is used as
`subprocess.Popen` is. The fork server is a process of its own with a single thread: no event loop, no tensor work.
Each child gets what `exec` would give it: arguments, environment, folder, standard files, a session, fresh random
numbers. What a child shares with its siblings is what was read when modules were loaded, such as the seed of `hash`.
So whatever is about exec, the order of imports or the time before them is tested with `subprocess.Popen`.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import random
import runpy
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

PARTS = [
    *(
        "p2p_elastic.cli.main",
        "p2p_elastic.node.config",
        "p2p_elastic.screens.live",
        "p2p_elastic.node.join",
        "p2p_elastic.tasks",
    ),
    *("p2p_elastic.peers.discovery.signed_dht", "hivemind.p2p", "uvicorn"),
]
AT_ONCE = 64  # bytes of a message on a child's socket: its process id, later its exit code
HEADER = 8


@dataclass
class Request:
    """What to run: `words` are what follows `python` on a command line."""

    words: list[str]
    environment: dict[str, str]
    folder: str
    session: bool

    def obey(self) -> None:
        """Run it in this process, as the interpreter would."""
        as_module = self.words[0] == "-m"
        program = self.words[1] if as_module else self.words[0]
        sys.argv = [program, *self.words[1 + as_module :]]
        sys.path[0] = self.folder if as_module else str(Path(program).parent)
        if as_module:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(program, run_name="__main__")


# -- the test's side ---------------------------------------------------------------------------------------------------


class Forked:
    """A child of the fork server, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, status: socket.socket, stdout: IO[str] | None) -> None:
        self._status, self.stdout = status, stdout
        self.returncode: int | None = None
        self.pid = self._read()

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._status, selectors.EVENT_READ)
                if not selector.select(timeout):
                    raise subprocess.TimeoutExpired(f"forked {self.pid}", timeout or 0.0)
            self.returncode = self._read()
            self._status.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _read(self) -> int:
        message = self._status.recv(AT_ONCE)
        if not message:
            raise ChildProcessError("the fork server has ended")
        return int(message)


class ForkServer:
    """The server, seen from the process that started it. It ends when its socket does, and its children with it."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # NumPy's would start a thread when it is loaded
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        atexit.register(self.close)

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self, request: Request, files: Sequence[int]) -> socket.socket:
        """The socket on which a child says its process id and the server its exit code."""
        status, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        body = json.dumps(vars(request)).encode()
        with theirs:
            socket.send_fds(self._control, [len(body).to_bytes(HEADER, "big")], [*files, theirs.fileno()])
            self._control.sendall(body)
        return status

    def close(self) -> None:
        """Its time and that of its children count as ours once it was waited for."""
        self._control.close()
        self._process.wait()


@functools.cache
def server() -> ForkServer:
    """The server of this process."""
    return ForkServer()


def launch(
    command: Sequence[str], *, stdout: int, stderr: IO[bytes], text: bool, start_new_session: bool
) -> subprocess.Popen[str]:
    """As `subprocess.Popen` for `command`, which is `[sys.executable, ...]`; and it, where this is not Linux."""
    if sys.platform != "linux":
        return subprocess.Popen(command, stdout=stdout, stderr=stderr, text=text, start_new_session=start_new_session)
    assert command[0] == sys.executable, command
    assert stdout == subprocess.PIPE, stdout
    request = Request(list(command[1:]), dict(os.environ), os.getcwd(), start_new_session)
    out, theirs = os.pipe()
    try:
        status = server().start(request, [theirs, stderr.fileno()])
    finally:
        os.close(theirs)
    child: Any = Forked(status, os.fdopen(out))
    return child


# -- the server's side -------------------------------------------------------------------------------------------------


class Children:
    """What the server keeps of each child: a descriptor that is readable once it has ended, and whom to tell."""

    def __init__(self, control: socket.socket) -> None:
        self._selector = selectors.DefaultSelector()
        self._control = control
        self._living: dict[int, tuple[int, socket.socket]] = {}  # process id -> descriptor, socket
        self._selector.register(control, selectors.EVENT_READ)

    def serve(self) -> Request | None:
        """Fork for each request; returns it in the child, and None in the server once its starter has ended."""
        while True:
            for key, _ in self._selector.select():
                if key.data is not None:
                    self._ended(key.data)
                    continue
                header, files, _, _ = socket.recv_fds(self._control, HEADER, 3)
                if not header:
                    self._end_all()
                    return None
                if (request := self._fork(int.from_bytes(header, "big"), files)) is not None:
                    return request

    def _fork(self, size: int, files: list[int]) -> Request | None:
        request = Request(**json.loads(self._control.recv(size, socket.MSG_WAITALL)))
        out, errors, told = files
        status = socket.socket(fileno=told)
        pid = os.fork()
        if pid == 0:
            self._close()
            become(request, out, errors)
            status.send(str(os.getpid()).encode())
            status.close()
            return request
        os.close(out)
        os.close(errors)
        descriptor = os.pidfd_open(pid)
        self._living[pid] = descriptor, status
        self._selector.register(descriptor, selectors.EVENT_READ, pid)
        return None

    def _ended(self, pid: int) -> None:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        descriptor, status = self._living.pop(pid)
        self._selector.unregister(descriptor)
        os.close(descriptor)
        with status, contextlib.suppress(OSError):  # nobody waits for it any more
            status.send(str(code).encode())

    def _end_all(self) -> None:
        for pid in list(self._living):
            os.kill(pid, signal.SIGKILL)
            self._ended(pid)

    def _close(self) -> None:
        """In a child: it has none of the server's descriptors."""
        self._selector.close()
        self._control.close()
        for descriptor, status in self._living.values():
            os.close(descriptor)
            status.close()


def become(request: Request, out: int, errors: int) -> None:
    """Give this child of the server what exec would give it."""
    if request.session:
        os.setsid()
    for theirs, ours in ((out, 1), (errors, 2)):
        os.dup2(theirs, ours)
        os.close(theirs)
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.folder)
    random.seed()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
    sys.modules["torch"].seed()


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    for part in PARTS:
        importlib.import_module(part)
    threads = os.listdir("/proc/self/task")
    assert len(threads) == 1, f"{len(threads)} threads: a fork would have the locks of the others"
    gc.collect()
    gc.freeze()  # a collection in a child need not touch, and copy, all that
    request = Children(control).serve()
    if request is not None:
        request.obey()


if __name__ == "__main__":
    main()
