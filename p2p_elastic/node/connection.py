"""What a live peer opens before it knows its run: its network, and its address for HTTP."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from concurrent.futures import Future
from typing import Any

import torch

from p2p_elastic import __version__
from p2p_elastic.common.addresses import host_of, is_loopback, parse_address
from p2p_elastic.common.port_claim import PortClaim
from p2p_elastic.errors import ConfigError
from p2p_elastic.health.sensors import Sensors
from p2p_elastic.node.admission import Doorkeeper
from p2p_elastic.node.config import PORT, JoinConfig
from p2p_elastic.node.http import Window, with_preferred_port
from p2p_elastic.node.status_board import StatusBoard
from p2p_elastic.peers.direct.tcp_wire import DirectPort
from p2p_elastic.peers.discovery.live_network import LiveNetwork, NetworkThread
from p2p_elastic.peers.discovery.peer_cache import PeerCache, state_folder
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.peers.transport.ports import is_here
from p2p_elastic.screens.live import Screen

log = logging.getLogger(__name__)
HERE = "    # from this machine only"


class Connection:
    """The network of one peer and its HTTP endpoint, open from `open` to `close`.

    Args:
        config: what the user asked for.
        identity: of this peer.
        device: that trains.
        screen: shows what happens.
        join_line: of an address, what the others type to join.

    Attributes:
        device: that trains.
        thread: runs the network.
        network: listens for peers.
        window: shows the status over HTTP.
        board: the status.

    Raises:
        ConfigError: if an address is none, or is this peer's own.
    """

    def __init__(
        self, config: JoinConfig, identity: Identity, device: torch.device, screen: Screen, join_line: str
    ) -> None:
        self._config, self._screen, self._join_line = config, screen, join_line
        self.network = LiveNetwork(identity, config.initial_peer, config.announce, peer_cache())  # checks the addresses
        _check_others(config, identity.peer)
        self.device = device
        self._open = contextlib.ExitStack()

    @property
    def peer(self) -> str:
        """This peer's id."""
        return self.network.identity.peer

    def open(self) -> None:
        """Listen for peers and for HTTP; what was opened is closed again if that fails.

        Raises:
            ConfigError: if a port that was asked for is taken.
            NetworkError: if libp2p does not run here.
        """
        config = self._config
        with contextlib.ExitStack() as stack:
            claim = stack.enter_context(contextlib.closing(PortClaim()))
            self.thread = stack.enter_context(NetworkThread())
            stack.callback(lambda: self.thread.call(self.network.close()))

            def listen(port: int) -> None:
                claim.take(config.host, port)
                direct = None if config.no_direct else DirectPort(config.direct_port)
                self.thread.call(self.network.open(config.host, port, direct, relay_rate=config.relay_rate))

            preferred = 0 if any(is_here(address, PORT) for address in config.initial_peer) else PORT
            with_preferred_port(config.port, preferred, listen)
            sensors = stack.enter_context(contextlib.closing(Sensors(self.device)))
            self.window = Window(config, sensors)
            self.network.show_page(config.http_host, self.window.port)
            shown: list[Future[Any]] = []
            stack.callback(lambda: [task.cancel() for task in shown])
            stack.callback(lambda: self.window.close(self.thread))
            self.board = StatusBoard(self.network, self.device, self.window.condition)
            shown += self.window.open(self.thread, self.board, self._screen, Doorkeeper(self.network))
            self._open = stack.pop_all()

    def close(self) -> None:
        """Close all that is open; said again, nothing happens."""
        self._open.close()

    def __enter__(self) -> Connection:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def say_hello(self) -> None:
        """Tell the user which peer this is, and where to watch it."""
        url = self.window.url
        self._screen.say(
            "listening",
            f"p2p-elastic {__version__}, peer {self.peer}\n"
            f"watch it: {url}/   status: {url}/v1/status   all endpoints: {url}/docs",
            peer=self.peer,
            addresses=self.network.host.addresses,
            http=url,
        )

    def say_how_to_join(self) -> None:
        """Tell the user what the others type."""
        addresses = self.network.host.addresses
        if self.network.access.private:
            self._screen.say("joinable", "this run is private: `p2p-elastic invite` prints a line for one other")
            return
        others = "\n".join(f"    {self._join_line.format(a)}{HERE * is_loopback(host_of(a))}" for a in addresses)
        self._screen.say("joinable", f"others join with:\n{others}", addresses=addresses)


def own_seed(peer: str) -> int:
    """Choose a seed that differs from peer to peer.

    Args:
        peer: its id.

    Returns:
        0 to 2^32 - 1.
    """
    return int.from_bytes(hashlib.sha256(peer.encode()).digest()[:4], "big")


def _check_others(config: JoinConfig, peer: str) -> None:
    """Raise ConfigError if the only peer to join has this peer's identity: itself, or one with a copy of its key."""
    if config.initial_peer and all(parse_address(address).peer == peer for address in config.initial_peer):
        advice = "an address of another peer; if it is one, give each peer an identity of its own (--identity)"
        raise ConfigError("initial-peer", config.initial_peer[0], advice)


def peer_cache() -> PeerCache | None:
    """Open the folder in which peers that were met are remembered.

    Returns:
        The cache; None if this user has no folder for it.
    """
    try:
        return PeerCache(state_folder() / "peers")
    except RuntimeError as error:
        log.info("peers will not be remembered: %s", error)
        return None
