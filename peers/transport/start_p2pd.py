"""Becomes p2pd, in a state in which only its peer ends it. Run as a program: CORES P2PD ARGUMENT...

A session of its own keeps Ctrl-C away, which a terminal sends to all processes of its foreground group. A signal that
goes to every process of a control group, as when systemd stops a service, has to be ignored. p2pd asks for SIGTERM by
itself, whatever it inherits, as Go programs can: so a filter in the kernel makes that one request do nothing.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
import sys

STOPPING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
# Of the kernel, by machine: the architecture's name in filters, and the numbers of rt_sigaction and seccomp.
NUMBERS = {"x86_64": (0xC000003E, 13, 317), "aarch64": (0xC00000B7, 134, 277)}
GARBAGE_PERCENT = "30"  # of what is in use, before it is collected; Go's own default is 100
PR_SET_NO_NEW_PRIVS, SET_MODE_FILTER, FLAG_SPEC_ALLOW = 38, 1, 4  # the last one: and take no other measures
LOAD, EQUAL, RETURN, ALLOW, DO_NOTHING = 0x20, 0x15, 0x06, 0x7FFF0000, 0x00050000
CALL, ARCHITECTURE, SIGNAL, ACTION = 0, 4, 16, 24  # where they are in seccomp_data


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def main() -> None:
    """Set all that is inherited, and become p2pd; does not return."""
    os.setsid()
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux" and platform.machine() in NUMBERS:
        _keep_handlers(*NUMBERS[platform.machine()])
    os.environ.setdefault("GOMAXPROCS", sys.argv[1])
    os.environ.setdefault("GOGC", GARBAGE_PERCENT)
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606  # no shell is meant


def _keep_handlers(architecture: int, rt_sigaction: int, seccomp: int) -> None:
    """From now on, asking for one of these signals succeeds and changes nothing. Without a filter it stays possible."""
    count = len(STOPPING)
    instructions = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 0, count + 5, architecture),
        (LOAD, 0, 0, CALL),
        (EQUAL, 0, count + 3, rt_sigaction),
        (LOAD, 0, 0, ACTION),
        (EQUAL, count + 1, 0, 0),  # none: it only looks
        (LOAD, 0, 0, SIGNAL),
        *((EQUAL, count - at, 0, number) for at, number in enumerate(STOPPING)),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, DO_NOTHING),
    ]
    packed = b"".join(struct.pack("=HBBI", *one) for one in instructions)
    kernel = ctypes.CDLL(None)
    kernel.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    kernel.syscall(seccomp, SET_MODE_FILTER, FLAG_SPEC_ALLOW, ctypes.byref(_Program(len(instructions), packed)))


if __name__ == "__main__":
    main()
