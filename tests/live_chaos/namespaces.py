"""Network namespaces, one per peer, on switches that can be parted and joined (Linux, root, iproute2).

Some may be behind a router of their own that translates addresses, as at home (nftables). All switches live in a
namespace of their own, so that deleting the namespaces removes everything.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Collection, Sequence
from typing import Any

from live_chaos.launch import enter_namespace

ASK_SECONDS = 10.0
HOME, ROUTER = "192.168.1.2", "192.168.1.1"  # in every home the same
NAT = """
table ip home {
  chain out {
    type nat hook postrouting priority srcnat
    oifname "e0" masquerade
  }
  chain in {
    type filter hook input priority filter
    iifname "e0" ct state new drop
  }
}
"""


def why_not(nat: bool = False) -> str | None:
    """Why there can be no namespaces here, or none behind routers; None where there can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need iproute2"
    name = f"px-{secrets.token_hex(3)}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode != 0:
        return "this machine allows no network namespaces"
    made = subprocess.run(["ip", "-n", name, "link", "add", "s", "type", "bridge"], capture_output=True).returncode == 0
    try:
        if nat:
            _translate(name)
    except OSError as error:
        return f"no address translation: {error}"
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return None if made else "this machine has no network bridges"


def _translate(name: str) -> None:
    """Make a router of a namespace: what comes from behind it leaves with its address; nothing else comes in."""
    inside = ("ip", "netns", "exec", name)
    forward = subprocess.run([*inside, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"], capture_output=True)
    done = subprocess.run([*inside, "nft", "-f", "-"], input=NAT, capture_output=True, text=True)
    if forward.returncode != 0 or done.returncode != 0:
        raise OSError(done.stderr.strip() or forward.stderr.decode().strip())


class Namespaces:
    """So many namespaces, all on one switch at first, some of them each behind a router. Leaving the context removes
    them, whatever happened."""

    def __init__(self, count: int, homes: Collection[int] = ()) -> None:
        self._count, self._homes, self._tag = count, homes, f"px{secrets.token_hex(2)}"
        self._made: list[str] = []
        self._switches = 0

    def __enter__(self) -> Namespaces:
        try:
            self._namespace(self._switch_room)
            self._switch()
            for i in range(self._count):
                self._plug_in(i)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._made:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        self._made.clear()

    @property
    def _switch_room(self) -> str:
        return f"{self._tag}-switch"

    def name(self, i: int) -> str:
        """The namespace of peer i (0, 1, ...)."""
        return f"{self._tag}-{i}"

    def address(self, i: int) -> str:
        """Of peer i, or of the router before it."""
        return f"10.83.0.{i + 1}"

    def part(self, sides: Sequence[Sequence[int]]) -> None:
        """Only those of one side reach each other. Connections across stay open and silent."""
        while self._switches < len(sides):
            self._switch()
        for switch, side in enumerate(sides):
            for i in side:
                self._ip("-n", self._switch_room, "link", "set", f"p{i}", "master", f"s{switch}")

    def heal(self) -> None:
        """Everybody reaches everybody."""
        self.part([range(self._count)])

    def unplug(self, i: int, plugged: bool = False) -> None:
        """Peer i reaches nobody; or everybody of its side again where `plugged`."""
        self._ip("-n", self._switch_room, "link", "set", f"p{i}", "up" if plugged else "down")

    def ask(self, i: int, url: str) -> dict[str, Any] | None:
        """What a peer's window says to somebody inside its namespace; None where it does not answer."""
        found: list[dict[str, Any]] = []

        def inside() -> None:  # a thread of its own: the namespace is a property of the thread
            enter_namespace(self.name(i))
            try:
                with urllib.request.urlopen(url, timeout=ASK_SECONDS) as answer:
                    found.append(json.load(answer))
            except OSError:
                return

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        return found[0] if found else None

    def _ip(self, *arguments: str) -> None:
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
        if done.returncode != 0:
            raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")

    def _namespace(self, name: str) -> None:
        self._ip("netns", "add", name)
        self._made.append(name)
        self._ip("-n", name, "link", "set", "lo", "up")

    def _switch(self) -> None:
        switch = f"s{self._switches}"
        self._ip("-n", self._switch_room, "link", "add", switch, "type", "bridge")
        self._ip("-n", self._switch_room, "link", "set", switch, "up")
        self._switches += 1

    def _plug_in(self, i: int) -> None:
        name = outer = self.name(i)
        self._namespace(name)
        if i in self._homes:
            outer = f"{name}-home"
            self._namespace(outer)
            self._cable(outer, "h0", name, "e0")
            self._ip("-n", outer, "addr", "add", f"{ROUTER}/24", "dev", "h0")
            self._ip("-n", name, "addr", "add", f"{HOME}/24", "dev", "e0")
            self._ip("-n", name, "route", "add", "default", "via", ROUTER)
            _translate(outer)
        self._cable(self._switch_room, f"p{i}", outer, "e0")
        self._ip("-n", self._switch_room, "link", "set", f"p{i}", "master", "s0")
        self._ip("-n", outer, "addr", "add", f"{self.address(i)}/24", "dev", "e0")

    def _cable(self, one: str, port: str, other: str, there: str) -> None:
        self._ip("-n", one, "link", "add", port, "type", "veth", "peer", "name", there, "netns", other)
        self._ip("-n", one, "link", "set", port, "up")
        self._ip("-n", other, "link", "set", there, "up")
