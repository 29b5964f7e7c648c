"""Programs that say in plain lines what happens, such as the examples: started, heard, and ended with the test."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

END_SECONDS = 10.0


class Talking:
    """One program.

    Args:
        command: what Python runs, and its arguments.
        folder: in which it runs.
    """

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self.child = subprocess.Popen(
            [sys.executable, *command], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._lines: list[str] = []
        self._heard = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def said(self) -> str:
        """All lines so far."""
        return "".join(self._lines)

    def hear(self, pattern: str, seconds: float) -> re.Match[str]:
        """Wait until it says that, in one line. Raises AssertionError with all that it said if it ends without it."""
        end = time.monotonic() + seconds
        with self._heard:
            while (found := re.search(pattern, self.said)) is None:
                going = self._reader.is_alive() and time.monotonic() < end
                assert going, f"never said {pattern!r}:\n{self.said}"
                self._heard.wait(0.5)
        return found

    def waits_for(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait until that holds. Raises AssertionError if it does not in time, or the program ends before."""
        end = time.monotonic() + seconds
        while not condition():
            going = self.child.poll() is None and time.monotonic() < end
            assert going, f"in vain:\n{self.said}"
            with self._heard:
                self._heard.wait(0.1)

    def ends(self, seconds: float) -> str:
        """Wait for its end, which must be a good one; all that it said."""
        self.child.wait(seconds)
        self._reader.join()
        assert self.child.returncode == 0, self.said
        return self.said

    def kill(self) -> None:
        """SIGKILL."""
        self.child.kill()
        self.child.wait()

    def close(self) -> None:
        """End it if it runs."""
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
        self._reader.join()
        assert self.child.stdout is not None
        self.child.stdout.close()

    def _read(self) -> None:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            with self._heard:
                self._lines.append(line)
                self._heard.notify_all()


class Stage:
    """The programs of a test."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.programs = folder, list[Talking]()

    def start(self, *command: str) -> Talking:
        """Start one."""
        program = Talking(command, self._folder)
        self.programs.append(program)
        return program

    @classmethod
    @contextmanager
    def of(cls, folder: Path) -> Iterator[Stage]:
        """All of them are ended with the context."""
        stage = cls(folder)
        try:
            yield stage
        finally:
            for program in stage.programs:
                program.close()
