"""What a live peer shows of itself, put together from what exists so far."""

from __future__ import annotations

import time

import torch

from p2p_elastic import __version__
from p2p_elastic.checkpoint.saver import Saver
from p2p_elastic.common.disk import DiskSpace
from p2p_elastic.health.operator import Condition
from p2p_elastic.peers.discovery.live_network import LiveNetwork
from p2p_elastic.peers.peer import Peer
from p2p_elastic.peers.state.views import link_of, other_models_of
from p2p_elastic.protocol.manifest import RunManifest
from p2p_elastic.protocol.messages import PROTOCOL_VERSION
from p2p_elastic.status.schema import DiskStatus, ExchangeTotals, NetworkStatus, PeerStatus, Phase, TrainingStatus
from p2p_elastic.training.meter import Meter


class StatusBoard:
    """Puts a peer's status together from what exists so far. May be called from any thread.

    Args:
        network: of the peer.
        device: that trains.
        condition: what its operator set.

    Attributes:
        phase: what it does now; the thread that trains sets it.
        manifest: of the run, once there is one.
        peer: once it is built.
        meter: of the training, once it is built.
        saver: once it is built, if there are checkpoints.
        disk: of the output folder, once there is one.
    """

    def __init__(self, network: LiveNetwork, device: torch.device, condition: Condition) -> None:
        self._network, self._device, self._started = network, device, time.monotonic()
        self._condition = condition
        self.phase: Phase = "starting"
        self.manifest: RunManifest | None = None
        self.peer: Peer | None = None
        self.meter: Meter | None = None
        self.saver: Saver | None = None
        self.disk: DiskSpace | None = None

    def __call__(self) -> PeerStatus:
        manifest, peer = self.manifest, self.peer
        return PeerStatus(
            peer=self._network.identity.peer,
            version=__version__,
            protocol=PROTOCOL_VERSION,
            run=manifest.run if manifest else "",
            task=manifest.task if manifest else "",
            schema_hash=manifest.schema_hash if manifest else "",
            rule=manifest.rule if manifest else "",
            codec=manifest.codec if manifest else "",
            device=str(self._device),
            uptime_seconds=time.monotonic() - self._started,
            weight=peer.weight if peer else 0.0,
            weight_override=self._condition.override,
            drained=self._condition.drained,
            signals=peer.signals() if peer else (),
            not_finite=peer.parts.slot.mailbox.lost.names if peer else (),
            training=self._training(),
            centre=peer.centre() if peer else None,
            leaders=peer.leaders() if peer else None,
            joining=peer.joining() if peer else None,
            partition=peer.partition() if peer else None,
            checkpoint=self.saver.status() if self.saver else None,
            disk=self._disk(),
            pace=peer.pace() if peer else None,
            link=link_of(peer.parts) if peer else None,
            exchanges=peer.exchanges() if peer else ExchangeTotals(),
            last_exchanges=peer.last_exchanges() if peer else (),
            members=peer.members() if peer else (),
            admission=self._network.access.status(),
            other_models=other_models_of(peer.parts) if peer else (),
            partners=peer.partners() if peer else (),
            network=self._network_status(),
        )

    def _training(self) -> TrainingStatus:
        status = self.meter.status() if self.meter else TrainingStatus()
        return status.model_copy(update={"phase": self.phase})

    def _disk(self) -> DiskStatus | None:
        space = self.disk() if self.disk else None
        return DiskStatus(**space._asdict()) if space else None

    def _network_status(self) -> NetworkStatus:
        return self._network.status(self.peer.streams_refused() if self.peer else {})
