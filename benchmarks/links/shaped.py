"""A shaped link between two network namespaces: a rate and a queue each way (`tbf`), and a delay on packets.

    peer 0 -- tbf -- [middle: delays each packet] -- tbf -- peer 1          (Linux, root, iproute2)

The kernel here may lack `netem`, so a process in the middle takes packets off one interface and puts them on the other
later. Packets are delayed, not bytes of a connection: TCP sees the round trip.
"""

from __future__ import annotations

import collections
import multiprocessing
import os
import re
import secrets
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from live_chaos.launch import enter_namespace

QUEUE_MS = 100
BURST_BYTES = 3000  # two packets: what comes at once never exceeds the rate by more
FRAME_BYTES_MAX = 1 << 17
SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 263, 15, 23
ETH_P_ALL = 3


class ShapedLink:
    """Two namespaces with one link between them. A context manager, which removes all it made.

    Args:
        bits_per_second: the rate each way.
        rtt_seconds: the delay of both ways together, apart from the queues.
    """

    def __init__(self, bits_per_second: float, rtt_seconds: float) -> None:
        self._rate, self._rtt = bits_per_second, rtt_seconds
        tag = f"lk{secrets.token_hex(2)}"
        self.names = (f"{tag}-0", f"{tag}-1")
        self.addresses = ("10.97.0.1", "10.97.0.2")
        self._middle = f"{tag}-m"

    def __enter__(self) -> ShapedLink:
        try:
            for name in (self._middle, *self.names):
                _run("ip", "netns", "add", name)
                _run("ip", "-n", name, "link", "set", "lo", "up")
            for at, name in enumerate(self.names):
                self._plug_in(at, name)
            self._delay = multiprocessing.get_context("spawn").Process(
                target=_delay, args=(self._middle, self._rtt / 2), daemon=True
            )
            self._delay.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "_delay"):
            self._delay.terminate()
            self._delay.join()
        for name in (self._middle, *self.names):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)

    def sent(self, at: int) -> tuple[int, int, int]:
        """Read the counters of one end.

        Args:
            at: 0 or 1.

        Returns:
            Bytes and packets that left through the shaper, and packets that it dropped.
        """
        text = _run("tc", "-n", self.names[at], "-s", "qdisc", "show", "dev", "e0")
        found = re.search(r"Sent (\d+) bytes (\d+) pkt \(dropped (\d+)", text)
        assert found is not None, text
        nbytes, packets, dropped = map(int, found.groups())
        return nbytes, packets, dropped

    def _plug_in(self, at: int, name: str) -> None:
        _run("ip", "-n", self._middle, "link", "add", f"m{at}", "type", "veth", "peer", "name", "e0", "netns", name)
        _run("ip", "-n", self._middle, "link", "set", f"m{at}", "up")
        _run("ip", "-n", name, "address", "add", f"{self.addresses[at]}/24", "dev", "e0")
        _run("ip", "-n", name, "link", "set", "e0", "up")
        self._shape(name, "add", self._rate)

    def shape(self, bits_per_second: float) -> None:
        """Change the rate.

        Args:
            bits_per_second: the new one, each way.
        """
        for name in self.names:
            self._shape(name, "change", bits_per_second)

    def _shape(self, name: str, how: str, bits_per_second: float) -> None:
        shaper = ("tbf", "rate", f"{bits_per_second:.0f}bit", "burst", f"{BURST_BYTES}b", "latency", f"{QUEUE_MS}ms")
        _run("tc", "-n", name, "qdisc", how, "dev", "e0", "root", *shaper)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _delay(namespace: str, seconds: float) -> None:
    """Carry packets between the two interfaces of a namespace, each later by `seconds`."""
    parent = os.getppid()
    os.nice(-5)
    enter_namespace(namespace)
    ends = [_packets(f"m{at}") for at in (0, 1)]
    held: collections.deque[tuple[float, socket.socket, bytes]] = collections.deque()
    while os.getppid() == parent:
        wait = min(1.0, max(0.0, held[0][0] - time.monotonic())) if held else 1.0
        for end in select.select(ends, [], [], wait)[0]:
            frame = end.recv(FRAME_BYTES_MAX)
            held.append((time.monotonic() + seconds, ends[1 - ends.index(end)], frame))
        while held and held[0][0] <= time.monotonic():
            _, out, frame = held.popleft()
            try:
                out.send(frame)
            except OSError:  # the interface goes away
                return


def _packets(interface: str) -> socket.socket:
    """Open a raw socket that also keeps what the kernel left to the hardware: checksums and segments."""
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    end.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    end.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    end.bind((interface, 0))
    return end
