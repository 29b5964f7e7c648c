"""A peer in the checkpoints of `accelerate.Accelerator`.

    peer = PeerState()
    accelerator.register_for_checkpointing(peer)
    if resume:
        accelerator.load_state(folder)
    with Swarm(accelerator.unwrap_model(model), optimizer, resume=peer.resumed, checkpoint_every="0", ...) as swarm:
        peer.swarm = swarm
        ...
        accelerator.save_state(folder)

`Swarm` takes the optimizer that `accelerator.prepare` gave, as it is.
"""

from __future__ import annotations

from typing import Any, Literal

from p2p_elastic.swarm import Swarm


class PeerState:
    """What a peer remembers of its run, as one of the objects that `Accelerator` saves and loads.

    Attributes:
        swarm: to be set once there is one.
        resumed: for `Swarm(resume=...)`: the peer of the checkpoint; False if none was loaded.
    """

    def __init__(self) -> None:
        self.swarm: Swarm | None = None
        self.resumed: dict[str, Any] | Literal[False] = False

    def state_dict(self) -> dict[str, Any]:
        """Give the memory of the peer.

        Returns:
            What `load_state_dict` takes; it has the private key of the peer.
        """
        if self.swarm is None:
            return self.resumed or {}
        return {} if self.swarm.follows else self.swarm.peer_state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the memory of a peer.

        Args:
            state_dict: as `state_dict` gave it.
        """
        self.resumed = state_dict or False
