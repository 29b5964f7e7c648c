"""The status of a peer as frozen values, the same on screen, in logs and over HTTP."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.values import Frozen, Many

FAILED_LATELY_SECONDS = 300.0  # failures in this time are trouble; older ones are only counted

Phase = Literal["starting", "waiting", "joining", "compiling", "training", "holding", "finishing", "done"]
"""`joining`: takes the parameters of members that are ahead. `compiling`: makes the first step of a compiled model.
`holding`: the centre variable, without training."""


class Way(Frozen):
    """Which way the vectors of an exchange took."""

    direct: bool = Field(default=False, description="over direct connections, not over libp2p")
    why: str | None = Field(default=None, description="why not directly; null if they were, or if none travelled")


class ExchangeRecord(Frozen):
    """One exchange, as this peer saw it."""

    id: str = Field(description="exchange id, the same at both ends")
    partner: str = Field(description="peer id of the partner")
    initiated: bool = Field(description="true if this peer asked, false if it answered")
    outcome: Outcome = Field(description="how it ended, seen from this peer")
    reason: str | None = Field(default=None, description="why it did not complete")
    step: int = Field(description="this peer's step when it ended")
    seconds: float = Field(description="from the first byte to the end")
    bytes_sent: int = Field(description="parameters and headers")
    bytes_received: int = Field(description="parameters and headers")
    distance: float | None = Field(default=None, description="L2 distance to the partner's parameters before the move")
    way: Way = Field(default=Way(), description="which the parameters took")
    staleness: int | None = Field(default=None, description="this peer's steps between snapshot and move")
    age_seconds: float = Field(description="seconds since it ended")


class FarewellStatus(Frozen):
    """How a peer left its run."""

    handed_to: str | None = Field(default=None, description="the peer that has the last parameters; null: none")
    centre_to: str | None = Field(default=None, description="the peer that took the centre variable over")
    reason: str | None = Field(default=None, description="why nothing, or not all, was handed over")
    told: int = Field(default=0, description="members that heard the goodbye from the peer itself")
    members: int = Field(default=0, description="members that seemed alive when the peer began to leave")
    withdrawn: bool = Field(default=False, description="whether the directory has the goodbye")

    def describe(self) -> str:
        """Describe it in one line, for people.

        Returns:
            What was handed over, and how many members know.
        """
        if self.members == 0:
            return "Left: nobody else was there."
        handed = (
            "Handed nothing over"
            if self.handed_to is None
            else f"Handed the last parameters to ...{self.handed_to[-8:]}"
        )
        centre = "" if self.centre_to is None else f", the centre variable to ...{self.centre_to[-8:]}"
        why = "" if self.reason is None else f" ({self.reason})"
        return f"{handed}{centre}{why}; said goodbye to {self.told} of {self.members} members."


class MemberStatus(Frozen):
    """Another peer of the same run, as this peer knows it."""

    peer: str = Field(description="peer id")
    addresses: Many[str] = Field(description="multiaddrs of its record")
    version: str | None = Field(default=None, description="of p2p-elastic, as it says; null: an earlier one")
    protocol: int | None = Field(default=None, description="version of the wire protocol, as it says")
    state: Literal["alive", "suspect", "dead"] = Field(
        description="suspect: an exchange failed, or nothing came for a while; dead: it is not chosen until it is heard"
    )
    step: int = Field(description="of its training, as its record says")
    loss: float | None = Field(description="as its record says, in nats; null: it has none yet")
    weight: float = Field(default=1.0, description="what it claims to count for, 0..1")
    drained: bool = Field(default=False, description="it asks not to be chosen")
    steps_per_second: float | None = Field(default=None, description="as it says itself")
    partners: Many[str] = Field(default=(), description="peers that it exchanged with last, the latest first")
    age_seconds: float = Field(description="seconds since its record changed, on this peer's own clock")
    heard_seconds: float | None = Field(default=None, description="seconds since anything came from it, on that clock")


class OtherModel(Frozen):
    """Another peer of the same run whose model has other names or shapes, so that no exchange is possible."""

    peer: str = Field(description="peer id")
    schema_hash: str = Field(description="of its model")
    difference: str | None = Field(description="the first one, between here and there; null: not known yet")


class SignalStatus(Frozen):
    """One signal of a peer's health. The worst one decides how much the peer counts."""

    name: str = Field(description="such as temperature; see health/signals.py and health/hardware.py")
    health: float = Field(
        ge=0.0, le=1.0, description="1: nothing speaks against this peer; 0: it copies, is not copied"
    )
    value: float | None = Field(default=None, description="what was measured or reported, in `unit`")
    unit: str = Field(default="", description="of the value")
    text: str = Field(default="", description="what it means, for people")
    source: Literal["measured", "reported"] = Field(default="measured", description="by this peer, or from outside")
    seconds_left: float | None = Field(default=None, description="reported: until it expires")


class PartnerStatus(Frozen):
    """A peer with which this one exchanged, and what came of it."""

    peer: str = Field(description="peer id")
    weight: float | None = Field(default=None, description="what it last claimed to count for, 0..1")
    trust: float = Field(default=1.0, description="what this peer's own measurements let it count for here, 0..1")
    clip: float = Field(
        default=1.0, description="the share of the move towards it that ends at the usual distance, 0..1"
    )
    reasons: Many[str] = Field(default=(), description="why it is trusted or followed less than wholly")
    score: float | None = Field(default=None, description="raw score: weighted growth of the log-distance to it")
    excess: float | None = Field(
        default=None,
        description="its parameters' loss on this peer's examples beyond what is usual, in nats",
    )
    distance: float | None = Field(default=None, description="last L2 distance to its parameters, before the move")
    exchanges: dict[Outcome, int] = Field(default_factory=dict, description="exchanges with it: outcome -> count")
    failed_lately: int = Field(
        default=0, description=f"of those that failed, in the last {FAILED_LATELY_SECONDS:.0f} s"
    )
    last: ExchangeRecord | None = Field(default=None, description="the last exchange with it, while it is remembered")
    last_error: str | None = Field(default=None, description="of the last exchange that failed")
    left_out: Many[str] = Field(
        default=(), description="its tensors that were not finite in the last exchange; all else moved this peer"
    )
    deadline_seconds: float | None = Field(
        default=None,
        description="longest wait for its answer to an offer, by what it has shown; null: no member",
    )
    exchange_seconds: float | None = Field(
        default=None,
        description="of an exchange that this peer asks for, by what it has shown; null: not known",
    )


class BootstrapStatus(Frozen):
    """One `--initial-peer` address and what came of it."""

    address: str = Field(description="multiaddr, as given")
    problem: str | None = Field(default=None, description="why it does not work; null if it does")


Metrics = dict[str, float | None]
NO_METRICS: Metrics = {}


class TrainingStatus(Frozen):
    """How far the training on this peer is."""

    phase: Phase = Field(default="starting", description="what it does now, such as training or done")
    step: int = Field(default=0, description="optimizer steps done")
    steps_total: int | None = Field(default=None, description="at which training ends")
    epoch: float = Field(default=0.0, description="passes over its own data")
    steps_per_second: float | None = Field(default=None, description="over the last seconds")
    loss: float | None = Field(default=None, description="mean over the last steps, as partners hear of it, in nats")
    validation_accuracy: float | None = Field(default=None, description="share of the validation split, 0..1")
    test_accuracy: float | None = Field(default=None, description="share of the test split, 0..1, at the end")
    metrics: Metrics = Field(default={}, description="of the task on the validation split, by name; null: not yet")
    test_metrics: Metrics = Field(default={}, description="of the task on the test split, by name, at the end")
    seconds_since_step: float | None = Field(default=None, description="null before the first step")

    @property
    def passes(self) -> float | None:
        """Passes over its own data; None if nobody counts them, as in a loop of the user's own."""
        return self.epoch if self.epoch or self.steps_total is not None else None

    @property
    def validated(self) -> Metrics:
        """The metrics; of a peer of an older version its accuracy, if it has one."""
        return self.metrics or ({} if self.validation_accuracy is None else {"accuracy": self.validation_accuracy})

    @property
    def tested(self) -> Metrics:
        """The same of the test."""
        return self.test_metrics or ({} if self.test_accuracy is None else {"accuracy": self.test_accuracy})


# In seconds: loopback takes 0.005, a model of 100 MB half a second, a large model over a slow link minutes.
EXCHANGE_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Durations(Frozen):
    """How long the completed exchanges took, as a histogram."""

    bounds: Many[float] = Field(default=EXCHANGE_SECONDS, description="in seconds, ascending")
    counts: Many[int] = Field(description="for each bound the exchanges that took no longer")
    count: int = Field(description="of all of them")
    seconds: float = Field(description="all of them together")


class ExchangeTotals(Frozen):
    """Counts since this peer started. `bytes_*` count parameters and headers, not libp2p's own overhead."""

    by_outcome: dict[Outcome, int] = Field(default_factory=dict, description="outcome -> count")
    failed_lately: int = Field(
        default=0, description=f"of those that failed, in the last {FAILED_LATELY_SECONDS:.0f} s"
    )
    declined_by_us: dict[str, int] = Field(default_factory=dict, description="reason -> count, as the answering side")
    declined_by_partner: dict[str, int] = Field(default_factory=dict, description="reason -> count")
    skipped: dict[str, int] = Field(default_factory=dict, description="due exchanges not begun: reason -> count")
    bytes_sent: int = Field(default=0, description="parameters and headers")
    bytes_received: int = Field(default=0, description="parameters and headers")
    durations: Durations | None = Field(default=None, description="of completed ones; null at peers of older versions")
    direct: int = Field(default=0, description="completed ones whose parameters travelled over direct connections")
    not_direct: dict[str, int] = Field(
        default_factory=dict, description="completed ones over libp2p, by why they were not direct: reason -> count"
    )
    left_out: dict[str, int] = Field(
        default_factory=dict, description="tensors that did not move, as a partner's were not finite: name -> count"
    )


class RelayStatus(Frozen):
    """What a peer that was started with `--relay` does for those that nobody can dial."""

    places: int = Field(description="peers that are reached through this one")
    circuits: int = Field(description="streams that it passes on now")
    bytes_passed_on: int = Field(description="so far, both ways together")
    max_bytes_per_second: float = Field(description="what it may pass on, on average")


class NetworkStatus(Frozen):
    """How this peer stands in the network."""

    addresses: Many[str] = Field(default=(), description="multiaddrs at which this peer listens")
    attached: bool = Field(default=False, description="at least one other peer of the DHT answers")
    bootstrap: Many[BootstrapStatus] = Field(default=(), description="the initial peers that were given")
    failure: str | None = Field(default=None, description="why this peer trains alone for good")
    members_about: int = Field(
        default=0, description="members of the run, this one too, as the directory counts them; it may show a sample"
    )
    reachable: bool | None = Field(
        default=None, description="whether other members can dial this peer; null: nobody who could tell was asked yet"
    )
    relays: Many[str] = Field(default=(), description="peers through which those reach this one that cannot dial it")
    relay: RelayStatus | None = Field(default=None, description="null: it passes on nothing for others")
    restarts: int = Field(default=0, description="times the p2pd child died and was replaced")
    records_ignored: int = Field(
        default=0, description="times that a malformed, unsigned or foreign record was ignored"
    )
    streams_refused: dict[str, int] = Field(default_factory=dict, description="reason -> count of refused streams")
    direct_port: int | None = Field(
        default=None, description="TCP port for direct connections; null: this peer has none, or does not listen"
    )
    direct_refused: dict[str, int] = Field(
        default_factory=dict, description="reason -> count of connections to that port that were turned away"
    )


class CentreStatus(Frozen):
    """The centre variable, in runs that have one (EASGD)."""

    holder: str | None = Field(description="peer id of the centre; null while its place is vacant")
    here: bool = Field(description="whether this peer is the centre")
    term: int = Field(description="how often the centre has moved, counted from 1; 0: not seen yet")
    exchanges: int = Field(description="exchanges behind the value here: at the centre all of them")


class LeaderStatus(Frozen):
    """The leaders that this peer follows (Leader SGD)."""

    group: str = Field(description="of this peer")
    leader: str | None = Field(description="of the group; this peer itself if it leads")
    leader_of_all: str | None = Field(description="the best of all groups")
    snapshots_published: int = Field(description="of this peer's parameters, while it led")
    disbelieved: dict[str, str] = Field(description="peer -> why it does not lead this peer at present")


class JoiningStatus(Frozen):
    """How a peer that joined a run caught up with it, and since when it counts."""

    caught_up: bool = Field(default=False, description="it began with the parameters of others")
    reason: str | None = Field(default=None, description="why it began with its own instead")
    seconds: float | None = Field(default=None, description="from its start until it could begin to train")
    parts: int = Field(default=0, description="of the model that arrived, of `parts_all`")
    parts_all: int = Field(default=0, description="of the model")
    bytes_received: int = Field(default=0, description="from donors")
    donors: Many[str] = Field(default=(), description="peers whose parameters it took")
    donors_step: int | None = Field(default=None, description="of the one that was the furthest; a centre's exchanges")
    loss: float | None = Field(default=None, description="of what it took, on its own examples, in nats")
    untrained_loss: float | None = Field(default=None, description="of parameters before any training, in nats")
    useful_seconds: float | None = Field(default=None, description="from its start until it counted for others")
    useful_steps: int | None = Field(default=None, description="of its own from copying until it counted for others")


class PartitionStatus(Frozen):
    """Members that vanished together without a goodbye: they crashed, or the network is split."""

    lost: int = Field(description="members that vanished together")
    before: int = Field(description="other members that were there until then")
    away: int = Field(description="of those lost, the number still away; it ends when half of them are back")
    left: int = Field(description="other members that are there now")
    seconds: float = Field(description="since the last sign of life of the first that was lost")
    steps: int = Field(description="this peer's steps since then")


class PaceStatus(Frozen):
    """The budget that a peer was given for its exchanges, and what it makes of the run's period."""

    max_bytes_per_second: float | None = Field(default=None, description="sent and received together, on average")
    bytes_per_second: float | None = Field(default=None, description="the mean of about the last five minutes")
    max_share: float | None = Field(default=None, description="of time with an exchange under way, 0..1")
    share: float | None = Field(default=None, description="the mean of about the last five minutes")
    wait_seconds: float = Field(default=0.0, description="until the next exchange may begin; 0: it may now")
    exchange_seconds: float = Field(default=0.0, description="how long the budget pays for one exchange; 0: not known")
    period: float | None = Field(default=None, description="of the run, in steps between exchanges that it asks for")
    effective_period: float | None = Field(
        default=None, description="the same, or the steps between two exchanges that the budget allows: the longer one"
    )


class CheckpointStatus(Frozen):
    """What was saved on disk, to resume from."""

    step: int | None = Field(description="of the last checkpoint of this process; null before the first")
    age_seconds: float | None = Field(description="since it was written")
    interval_seconds: float | None = Field(default=None, description="after which one is due; null: by steps")
    failures: int = Field(description="checkpoints that could not be written")
    skipped: int = Field(
        description="checkpoints left out: the one before was still being written, or the model was not finite"
    )
    problem: str | None = Field(description="why the last one could not be written; null if it was")


class DiskStatus(Frozen):
    """The disk with this peer's results and checkpoints."""

    free_bytes: int = Field(description="that this peer may still write")
    size_bytes: int = Field(description="of the whole disk")


class AdmittedStatus(Frozen):
    """A peer that showed a ticket of a private run."""

    peer: str = Field(description="peer id")
    role: str = Field(description="observer, trainer, centre or issuer; each may do what those before it may")
    by: str = Field(description="peer id of who admitted it")
    serial: str = Field(description="of its ticket, by which that can be revoked")
    seconds_left: float = Field(description="until its ticket ends, unless it is renewed")
    problem: str | None = Field(default=None, description="why it is not admitted any more; null: it is")


class AdmissionStatus(Frozen):
    """Who may take part in a private run, as far as this peer knows."""

    founder: str = Field(description="peer id of the founder, which admits first")
    role: str = Field(description="of this peer; `not admitted` if its ticket ended or was revoked")
    seconds_left: float | None = Field(description="until this peer's ticket ends, unless renewed; null: the founder")
    admitted: Many[AdmittedStatus] = Field(default=(), description="peers that showed a ticket, by peer id")
    revoked: int = Field(description="tickets and peers that were revoked")
    refused: dict[str, int] = Field(default={}, description="why -> tickets that were refused")


class LinkStatus(Frozen):
    """What exchanges have shown of this peer's links, and what was chosen by it."""

    bytes_per_second: float = Field(description="of parameters, both ways together")
    rtt_seconds: float | None = Field(description="the round trip; null if not known yet")
    codec: str = Field(description="by which the last exchange that this peer asked for went")
    fragments: int = Field(description="into how many parts the parameters were divided; it moved one of them")
    exchange_seconds: float = Field(description="that the transfer of such a part takes, by that codec")
    whole_seconds: float = Field(description="that the transfer of all parameters would take, in float32")
    limits: bool = Field(description="whether a faster link would let an exchange move more, or lose less")


class PeerStatus(Frozen):
    """All that a peer says about itself at one moment."""

    peer: str = Field(description="peer id")
    version: str = Field(description="of p2p-elastic")
    protocol: int | None = Field(default=None, description="version of the wire protocol; null: an earlier p2p-elastic")
    run: str = Field(description="name of the run")
    task: str = Field(description="name of the task")
    schema_hash: str = Field(description="of the model: names and shapes")
    rule: str = Field(description="name of the way to train together")
    codec: str = Field(description="how parameters travel")
    device: str = Field(description="on which it trains")
    uptime_seconds: float = Field(description="since the peer started")
    weight: float = Field(description="what it counts for in exchanges, 0 (it copies, is not copied) to 1")
    weight_override: float | None = Field(default=None, description="set by its operator")
    drained: bool = Field(default=False, description="begins and answers no exchanges until it is resumed")
    signals: Many[SignalStatus] = Field(default=(), description="of its health, the worst first")
    not_finite: Many[str] = Field(
        default=(), description="its tensors that are not finite; a partner's take their place, all else goes on"
    )
    training: TrainingStatus = Field(description="how far it is")
    centre: CentreStatus | None = Field(default=None, description="in runs that have a centre variable")
    leaders: LeaderStatus | None = Field(default=None, description="in runs that follow a leader")
    joining: JoiningStatus | None = Field(default=None, description="null at the founder of a run")
    partition: PartitionStatus | None = Field(default=None, description="while several members are gone at once")
    checkpoint: CheckpointStatus | None = Field(default=None, description="null if none are written")
    disk: DiskStatus | None = Field(default=None, description="of the output folder; null: not known, or none yet")
    pace: PaceStatus | None = Field(default=None, description="null if no budget was given")
    link: LinkStatus | None = Field(default=None, description="null until an exchange or a copy has shown it")
    exchanges: ExchangeTotals = Field(description="counts since the peer started")
    last_exchanges: Many[ExchangeRecord] = Field(default=(), description="those that ended last")
    members: Many[MemberStatus] = Field(default=(), description="other peers of the run")
    admission: AdmissionStatus | None = Field(
        default=None, description="in private runs; null: everybody may take part"
    )
    other_models: Many[OtherModel] = Field(default=(), description="peers of the run that train another model")
    partners: Many[PartnerStatus] = Field(default=(), description="the latest first; one may have left since")
    network: NetworkStatus = Field(description="how it stands in the network")


class Reason(Frozen):
    """Why a peer is not well: a code for programs, a sentence for people."""

    code: str = Field(description="for programs")
    text: str = Field(description="a sentence for people, with what to do")


class Health(Frozen):
    """ok, or degraded with every reason."""

    status: Literal["ok", "degraded"] = Field(description="degraded if there is any reason")
    reasons: Many[Reason] = Field(default=(), description="all that is wrong; empty if ok")
