"""The answers and bodies that exist only over HTTP; all others are in the core, most of them in `status.py`."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from p2p_elastic.health.checks import judge
from p2p_elastic.status.history import HistoryPoint
from p2p_elastic.status.schema import Frozen, MemberStatus, PartnerStatus, PeerStatus, Phase, Reason, SignalStatus


class Ready(Frozen):
    """The peer trains and can be reached."""

    ready: Literal[True] = True


class NotReady(Frozen):
    """The peer does not train yet, or no longer, or cannot be reached."""

    ready: Literal[False] = False
    reason: Reason


class Problem(Frozen):
    """Why a request was not answered."""

    detail: str


class Peers(Frozen):
    """The other peers of the run, and those with which this peer exchanged."""

    members: tuple[MemberStatus, ...]
    partners: tuple[PartnerStatus, ...] = Field(description="the latest first; a partner may have left the run since")


class Curve(Frozen):
    """How training went since the peer started."""

    points: tuple[HistoryPoint, ...] = Field(description="the oldest first; a bounded number, however long it took")


class ProgressEvent(Frozen):
    """How far the peer is, in short: what /v1/events says once a second."""

    step: int
    steps_total: int | None
    epoch: float
    phase: Phase
    loss: float | None
    accuracy: float | None = Field(description="share of the validation split, 0..1")
    steps_per_second: float | None
    weight: float
    drained: bool
    uptime_seconds: float
    members: int = Field(description="how many are alive")
    health: Literal["ok", "degraded"]

    @classmethod
    def of(cls, status: PeerStatus) -> ProgressEvent:
        """The short form of a status."""
        training = status.training
        return cls(
            step=training.step,
            steps_total=training.steps_total,
            epoch=training.epoch,
            phase=training.phase,
            loss=training.loss,
            accuracy=training.validation_accuracy,
            steps_per_second=training.steps_per_second,
            weight=status.weight,
            drained=status.drained,
            uptime_seconds=status.uptime_seconds,
            members=sum(member.state == "alive" for member in status.members),
            health=judge(status).status,
        )


class NewWeight(Frozen):
    """What this peer is to count for, whatever its signals say."""

    model_config = ConfigDict(strict=True)

    weight: float = Field(ge=0.0, le=1.0, allow_inf_nan=False, description="0: it copies, is not copied")


class Standing(Frozen):
    """What this peer counts for, and why, after a change."""

    weight: float
    weight_override: float | None
    drained: bool
    signals: tuple[SignalStatus, ...]

    @classmethod
    def of(cls, status: PeerStatus) -> Standing:
        """That part of a status."""
        return cls(
            weight=status.weight,
            weight_override=status.weight_override,
            drained=status.drained,
            signals=status.signals,
        )
