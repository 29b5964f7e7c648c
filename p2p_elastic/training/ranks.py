"""Several processes that train one model together, such as DistributedDataParallel's: one peer of the swarm.

Rank 0 exchanges. After each step it says whether its parameters moved, and if so the other ranks take them over: one
broadcast of three bytes per step, and one of the parameters per move.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from p2p_elastic.errors import ConfigError
from p2p_elastic.parameters.vector import ParameterVector


class Told(NamedTuple):
    """What rank 0 says after a step.

    Attributes:
        moved: whether its parameters moved.
        replaced: whether another peer's took their place.
        stop: whether all are to end.
    """

    moved: bool = False
    replaced: bool = False
    stop: bool = False


class Ranks:
    """The processes of a group. Every method is called by all of them, in the same order.

    Args:
        group: of torch.distributed.

    Attributes:
        leads: whether this is rank 0.
        told: what rank 0 said last.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group, self._first = group, dist.get_global_rank(group, 0)
        self.leads, self.told = dist.get_rank(group) == 0, Told()
        on_cpu = "cpu" in str(dist.get_backend_config(group)) or dist.get_backend(group) == "gloo"
        self._device = torch.device("cpu") if on_cpu else torch.device("cuda", torch.cuda.current_device())

    def tell(self, told: Told) -> Told:
        """Say it to all; what other ranks than 0 give does not count.

        Args:
            told: of rank 0.

        Returns:
            What rank 0 said.
        """
        flags = torch.tensor(told, dtype=torch.uint8, device=self._device)
        dist.broadcast(flags, self._first, self._group)
        self.told = Told(*(bool(flag) for flag in flags.tolist()))
        return self.told

    def share(self, vector: ParameterVector) -> None:
        """Take over what rank 0 has.

        Args:
            vector: of this rank's model; what travels is overwritten, other than on rank 0.
        """
        for slot in vector.slots:
            tensor = slot.tensor()
            sent: Tensor = tensor if tensor.is_contiguous() else tensor.contiguous()
            dist.broadcast(sent, self._first, self._group)
            if sent is not tensor:
                tensor.copy_(sent)


def ranks_of(group: dist.ProcessGroup | None) -> Ranks | None:
    """See whether this process is one of several that train one model.

    Args:
        group: what the user gave; None: nothing.

    Returns:
        The ranks; None if this process is alone.

    Raises:
        ConfigError: if there are several, and no group was given.
    """
    if group is not None:
        return Ranks(group) if dist.get_world_size(group) > 1 else None
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        allowed = (
            "process_group=torch.distributed.group.WORLD on every rank, if they train one model: rank 0 is the peer, "
            "and the others take its parameters over after each move"
        )
        raise ConfigError("process-group", f"none, in a process of {dist.get_world_size()}", allowed)
    return None
