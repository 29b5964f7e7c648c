"""The answers and bodies that exist only over HTTP; all others are in `p2p_elastic.status` and `p2p_elastic.health`."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from p2p_elastic.health.checks import judge
from p2p_elastic.status.history import HistoryPoint
from p2p_elastic.status.schema import MemberStatus, PartnerStatus, PeerStatus, Phase, Reason, SignalStatus
from p2p_elastic.values import Frozen


class Ready(Frozen):
    """The peer trains and can be reached."""

    ready: Literal[True] = Field(default=True, description="for programs")


class NotReady(Frozen):
    """The peer does not train yet, or no longer, or cannot be reached."""

    ready: Literal[False] = Field(default=False, description="for programs")
    reason: Reason = Field(description="what is missing, and what to do")


class Problem(Frozen):
    """Why a request was not answered."""

    detail: str = Field(description="the reason, for people")


class Peers(Frozen):
    """The other peers of the run, and those with which this peer exchanged."""

    members: tuple[MemberStatus, ...] = Field(description="as this peer knows them; also those that are dead")
    partners: tuple[PartnerStatus, ...] = Field(description="the latest first; a partner may have left the run since")


class Curve(Frozen):
    """How training went since the peer started."""

    points: tuple[HistoryPoint, ...] = Field(description="the oldest first; a bounded number, however long it took")


class ProgressEvent(Frozen):
    """How far the peer is, in short: what /v1/events says once a second."""

    step: int = Field(description="optimizer steps so far")
    steps_total: int | None = Field(description="optimizer steps at which it ends")
    epoch: float = Field(description="passes over the training data so far")
    phase: Phase = Field(description="what it does now")
    loss: float | None = Field(description="mean of the last steps, in nats")
    accuracy: float | None = Field(description="share of the validation split, 0..1")
    metrics: dict[str, float | None] = Field(default={}, description="of the task on the validation split, by name")
    steps_per_second: float | None = Field(description="lately")
    weight: float = Field(description="what it counts for in exchanges, 0..1")
    drained: bool = Field(description="whether it begins and answers no exchanges")
    uptime_seconds: float = Field(description="since it started")
    members: int = Field(description="how many are alive")
    health: Literal["ok", "degraded"] = Field(description="/health says why")

    @classmethod
    def of(cls, status: PeerStatus) -> ProgressEvent:
        """Shorten a status.

        Args:
            status: of the peer.

        Returns:
            The short form.
        """
        training = status.training
        return cls(
            step=training.step,
            steps_total=training.steps_total,
            epoch=training.epoch,
            phase=training.phase,
            loss=training.loss,
            accuracy=training.validation_accuracy,
            metrics=training.metrics,
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


class InviteLine(Frozen):
    """By which somebody else joins."""

    line: str = Field(description="for `p2p-elastic join --invite`; without a peer id it is a secret until it is used")


class Standing(Frozen):
    """What this peer counts for, and why, after a change."""

    weight: float = Field(description="what it counts for in exchanges, 0..1")
    weight_override: float | None = Field(description="the weight that its operator set")
    drained: bool = Field(description="whether it begins and answers no exchanges")
    signals: tuple[SignalStatus, ...] = Field(description="what the weight follows from, the worst first")

    @classmethod
    def of(cls, status: PeerStatus) -> Standing:
        """Take the part of a status that a change concerns.

        Args:
            status: of the peer.

        Returns:
            That part.
        """
        return cls(
            weight=status.weight,
            weight_override=status.weight_override,
            drained=status.drained,
            signals=status.signals,
        )
