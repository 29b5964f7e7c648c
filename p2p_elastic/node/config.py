"""What the user asked for, checked once: command line over file over defaults.

`None` means "not asked for": then the run's manifest decides, or, for the founder of a run, the task's recipe.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from p2p_elastic.checkpoint.saver import DEFAULT_INTERVAL, Interval
from p2p_elastic.common.addresses import listening_host
from p2p_elastic.common.duration import seconds_of
from p2p_elastic.common.fraction import number
from p2p_elastic.common.toml_file import read_options
from p2p_elastic.errors import ConfigError
from p2p_elastic.peers.admission.invites import read_invite
from p2p_elastic.protocol.limits import AUTO_FRAGMENTS, LANES_MAX, OWN_LEARNING_RATE_MAX
from p2p_elastic.protocol.link_choice import AUTO, check_codec
from p2p_elastic.protocol.manifest import (
    BINDING,
    Admission,
    BatchSize,
    Fragments,
    LearningRate,
    Momentum,
    Period,
    RunManifest,
)
from p2p_elastic.protocol.messages import Group, RunName
from p2p_elastic.rate_limit import BANDWIDTH_MAX, parse_bandwidth
from p2p_elastic.rules.base import check_rate
from p2p_elastic.rules.methods import Method, Topology, find_method
from p2p_elastic.rules.policy import WeightingName, default_schedule
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.tasks import Recipe, Shard, find_task
from p2p_elastic.tasks.loading import is_place
from p2p_elastic.training.settings import OWN_LEARNING_RATES, OptimizerName
from p2p_elastic.values import Frozen

PORT = 31330  # libp2p; any free port if this one is taken and none was asked for
HTTP_PORT = 8870  # the same for HTTP
DEFAULT_RULE = "elastic-gossip"
DEFAULT_TASK = "digits"
DEFAULT_WEIGHTING: WeightingName = "dynamic"

LENGTHS = ("steps", "epochs", "duration")
EITHER_OR = (*itertools.permutations(LENGTHS, 2), ("period", "probability"), ("probability", "period"))

Port = Annotated[int, Field(ge=0, le=65535)]
Count = Annotated[int, Field(ge=1, le=2**31)]
Addresses = Annotated[tuple[str, ...], BeforeValidator(lambda given: (given,) if isinstance(given, str) else given)]
THREADS_MAX = 1024  # PyTorch starts them all at once, and the system may refuse


class JoinConfig(Frozen):
    """Options of `p2p-elastic join`; the same names, with dashes, on the command line and in the TOML file.

    Attributes:
        initial_peer: multiaddrs of peers of the run; empty founds a run.
        run: its name; None takes the only one that the initial peers know.
        admission: of a founder: `ticket` for a private run, into which it and its issuers admit others.
        invite: the line by which this peer was let into a private run; it has initial peers, run and founder.
        task: what to train; None takes the run's, a founder takes DEFAULT_TASK.
        data_dir: folder with the data sets; None is the default folder.
        device: where to train; `auto` is the best that there is.
        threads: CPU threads of PyTorch; None leaves PyTorch's default.
        rule: how peers train together; of a founder.
        moving_rate: how far two partners move towards each other, 0 to below 1; of a founder.
        period: steps between exchanges that this peer asks for; of a founder. Not with `probability`.
        probability: of an exchange after each step; of a founder. A text such as "1/8" in a file.
        global_moving_rate: lsgd: how far to the best of all groups.
        global_period: lsgd: steps between pulls to the best of all groups, a multiple of the period.
        weighting: whether peers count by health and measurements, or all the same.
        codec: how parameters travel.
        fragment: F; an exchange moves one of F equal parts of the model; "auto": as many as the link demands.
        outer, outer_lr, outer_momentum: the outer optimizer and its numbers, of a founder.
        streams: for the parameters of an exchange; None lets the round trip decide.
        group: lsgd: the group whose leader this peer follows.
        role: `centre` holds the centre variable and does not train.
        steps: optimizer steps to train for.
        epochs: passes over this peer's part of the data; None takes the task's recipe.
        duration: time to train for, in all lives of this peer, such as `90s`, `30m` or `2h`. One of the three at most.
        batch_size: examples per step.
        optimizer: of this peer alone.
        lr: learning rate.
        momentum: of this peer; AdaHessian has none.
        seed: of data order, dropout and partner choice; a founder's is also that of the first parameters.
        shard: `I/N`, the I-th of N disjoint parts of the data; None is all of it.
        max_bandwidth: what exchanges may send and receive on average, such as `4Mbit/s`; None is no limit.
        max_share: share of the time in which an exchange may be under way; None is no limit.
        wait_for_peers: members that must be there before training begins.
        host: IP address to listen on for peers.
        port: TCP port for peers; 0 is any free one, None is PORT or any.
        direct_port: TCP port for direct connections; 0 is any free one, None is the one after `port`, or any.
        no_direct: parameters go over libp2p only.
        announce: multiaddrs that other peers are told in the place of those that are found.
        relay: what this peer may pass on between members that nobody can dial, such as `5MB/s`; None: nothing.
        http_host: address that HTTP listens on.
        http_port: 0 is any free one, None is HTTP_PORT or any.
        http_allow_host: names by which HTTP may be asked, beside IP addresses and localhost.
        http_token_file: the token for changes over HTTP; None is the default file, and only on loopback.
        identity: key file; None makes a new identity.
        output: folder for the results; None makes up a name from run and peer.
        checkpoint_every: steps or a time, such as `500` or `5m`; `0` saves nothing.
        resume: output folder of the peer to go on as.
        resume_or_found: go on from the newest checkpoint in `output`, or begin without one.
        log_format: `auto` is a live panel in a terminal and plain lines elsewhere.
    """

    initial_peer: Addresses = ()
    run: RunName | None = None
    admission: Admission | None = None
    invite: str | None = Field(default=None, repr=False)
    task: str | None = None
    data_dir: Path | None = None
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    threads: Annotated[int, Field(ge=1, le=THREADS_MAX)] | None = None
    rule: str | None = None
    moving_rate: float | None = None
    period: Period | None = None
    probability: float | None = None
    global_moving_rate: float | None = None
    global_period: Period | None = None
    weighting: WeightingName | None = None
    codec: str | None = None
    fragment: Fragments | None = None
    outer: str | None = None
    outer_lr: float | None = None
    outer_momentum: float | None = None
    streams: Annotated[int, Field(ge=1, le=LANES_MAX)] | None = None
    group: Group | None = None
    role: Literal["peer", "centre"] = "peer"
    steps: Count | None = None
    epochs: Count | None = None
    duration: str | None = None
    batch_size: BatchSize | None = None
    optimizer: OptimizerName = "sgd"
    lr: LearningRate | None = None
    momentum: Momentum | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    shard: str | None = None
    max_bandwidth: str | None = None
    max_share: Annotated[float, Field(gt=0.0, le=1.0, allow_inf_nan=False)] | None = None
    wait_for_peers: Annotated[int, Field(ge=0, le=10_000)] = 0
    host: Annotated[str, AfterValidator(listening_host)] = "0.0.0.0"  # noqa: S104  # other machines are the point; HTTP below stays on loopback
    port: Port | None = None
    direct_port: Port | None = None
    no_direct: bool = False
    announce: Addresses = ()
    relay: str | None = None
    http_host: str = "127.0.0.1"
    http_port: Port | None = None
    http_allow_host: Addresses = ()
    http_token_file: Path | None = None
    identity: Path | None = None
    output: Path | None = None
    checkpoint_every: str = DEFAULT_INTERVAL
    resume: Path | None = None
    resume_or_found: bool = False
    log_format: Literal["auto", "text", "json"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _invited(cls, given: Any) -> Any:
        """An invite says where the run is, and which one it is."""
        if not isinstance(given, Mapping) or given.get("invite") is None:
            return given
        invite, named = read_invite(str(given["invite"])), given.get("run")
        if named not in (None, invite.run):
            raise ConfigError("run", named, f"the invite is to run {invite.run!r}; leave --run out")
        peers = given.get("initial_peer") or ()
        peers = (peers,) if isinstance(peers, str) else tuple(peers)
        return {**given, "run": invite.run, "initial_peer": tuple(dict.fromkeys((*peers, *invite.addresses)))}

    @field_validator("probability", mode="before")
    @classmethod
    def _fraction(cls, probability: object) -> Any:
        return number("probability", probability)

    @field_validator("data_dir", "http_token_file", "identity", "output", "resume")
    @classmethod
    def _at_home(cls, path: Path | None) -> Path | None:
        """Expand `~`: no shell reads a TOML file, and none looks into `--output=~/x`."""
        try:
            return None if path is None else path.expanduser()
        except RuntimeError as error:
            raise ValueError(f"no such home folder: {error}") from error

    @field_validator("http_allow_host")
    @classmethod
    def _host_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(_host_name, names))

    @field_validator("shard")
    @classmethod
    def _known_shard(cls, shard: str | None) -> str | None:
        if shard is not None:
            Shard.parse(shard)
        return shard

    @field_validator("max_bandwidth", "relay", mode="before")
    @classmethod
    def _known_bandwidth(cls, bandwidth: object, info: ValidationInfo) -> str | None:
        if bandwidth is None:
            return None
        assert info.field_name is not None, "of a field"
        parse_bandwidth(str(bandwidth), info.field_name.replace("_", "-"))  # in a TOML file it may be a number
        return str(bandwidth)

    @property
    def relay_rate(self) -> float | None:
        """Bytes per second that this peer may pass on for others; None: nothing."""
        return None if self.relay is None else parse_bandwidth(self.relay) or BANDWIDTH_MAX

    @field_validator("duration", mode="before")
    @classmethod
    def _known_duration(cls, duration: object) -> str | None:
        return None if duration is None else str(duration) if seconds_of(str(duration)) else None

    @field_validator("checkpoint_every", mode="before")
    @classmethod
    def _known_interval(cls, interval: object) -> str:
        Interval.parse(str(interval))  # in a TOML file it may be a number
        return str(interval)

    @model_validator(mode="after")
    def _no_contradiction(self) -> JoinConfig:
        lengths = {"steps": self.steps, "epochs": self.epochs, "for": self.duration}
        given = {key: value for key, value in lengths.items() if value is not None}
        if len(given) > 1:
            raise ConfigError("/".join(given), tuple(given.values()), "give one of them")
        if self.resume_or_found:
            self._check_goes_on()
        if self.period is not None or self.probability is not None:
            Schedule.build(self.period, self.probability)
        method = find_method(self.rule or DEFAULT_RULE)
        for key, rate in (("moving-rate", self.moving_rate), ("global-moving-rate", self.global_moving_rate)):
            if rate is not None:
                check_rate(key, rate)
        limit = OWN_LEARNING_RATE_MAX[self.optimizer]
        if self.lr is not None and self.lr > limit:
            raise ConfigError("lr", self.lr, f"above 0, at most {limit:g} with --optimizer {self.optimizer}")
        if self.codec is not None:
            check_codec("codec", self.codec)
        if self.rule is not None:
            self.check_against(method)
        return self

    def _check_goes_on(self) -> None:
        """Check what is needed to go on with the same options at each start. Raises ConfigError."""
        if self.resume is not None:
            raise ConfigError("resume", str(self.resume), "leave it out, or --resume-or-found")
        if self.output is None:
            raise ConfigError("output", None, "--resume-or-found needs --output DIR: there it looks for its checkpoint")
        if Interval.parse(self.checkpoint_every).off:
            raise ConfigError("checkpoint-every", self.checkpoint_every, "--resume-or-found goes on from checkpoints")

    def check_against(self, method: Method) -> None:
        """Refuse options that a rule does not have.

        Args:
            method: of the rule that was asked for, or of the run.

        Raises:
            ConfigError: for the first such option.
        """
        if not method.live:
            raise ConfigError("rule", self.rule, "it runs in the simulator only: p2p-elastic simulate")
        if method.topology is not Topology.LEADER:
            for key in ("global_period", "global_moving_rate", "group"):
                if getattr(self, key) is not None:
                    raise ConfigError(key.replace("_", "-"), getattr(self, key), "only rule lsgd has it")
        elif self.probability is not None:
            raise ConfigError("probability", self.probability, "rule lsgd has a period: give --period")
        if self.fragment not in (None, 1) and not method.fragments:
            raise ConfigError("fragment", self.fragment, f"rule {self.rule} exchanges whole models")
        if self.role == "centre" and method.topology is not Topology.CENTRE:
            raise ConfigError("role", self.role, "only the rules easgd and eamsgd have a centre")

    @property
    def part(self) -> Shard | None:
        """The part of the data to train on; None is all of it."""
        return None if self.shard is None else Shard.parse(self.shard)

    def learning_rate(self, of_run: float) -> float:
        """Choose the learning rate of this peer.

        Args:
            of_run: the run's, which is for SGD.

        Returns:
            The one asked for; otherwise the run's with SGD, or the optimizer's own.
        """
        return self.lr or OWN_LEARNING_RATES.get(self.optimizer, of_run)

    def binding(self) -> dict[str, Any]:
        """Collect what was asked for of the settings that all peers of a run have in common.

        Returns:
            Values by their names in the manifest; nothing for those that were not asked for.
        """
        asked = {key: getattr(self, key, None) for key in BINDING}
        task = None if self.task is None else self.task if not is_place(self.task) else find_task(self.task).name
        asked |= {"fragments": self.fragment, "task": task}
        return {key: value for key, value in asked.items() if value is not None}

    def found(
        self, run: str, founder: str, task: str, schema_hash: str, recipe: Recipe | None, *, frozen_hash: str = ""
    ) -> RunManifest:
        """Write the manifest of a new run with these options.

        Args:
            run: its name.
            founder: peer id of this peer.
            task: name of what it trains.
            schema_hash: of its model.
            recipe: of the task, for what was not asked for; None: its peers run programs of their own.
            frozen_hash: of what does not train in the model; empty if all of it does.

        Returns:
            The manifest, not signed yet.

        Raises:
            ConfigError: if options contradict each other or the rule.
        """
        rule = self.rule or DEFAULT_RULE
        method = find_method(rule)
        self.model_copy(update={"rule": rule}).check_against(method)
        period, probability = self.period, self.probability
        if period is None and probability is None:
            period, probability = default_schedule(method.topology)
        if self.global_moving_rate is not None and self.global_period is None:
            raise ConfigError("global-moving-rate", self.global_moving_rate, "it needs --global-period")
        if self.global_period is not None and (period is None or self.global_period % period):
            raise ConfigError("global-period", self.global_period, f"a multiple of the period, {period}")
        outer = method.outer_optimizer(self.outer, self.outer_lr, self.outer_momentum)
        moving_rate = method.moving_rate if self.moving_rate is None else self.moving_rate
        return RunManifest(
            run=run,
            founder=founder,
            task=task,
            schema_hash=schema_hash,
            frozen_hash=frozen_hash,
            rule=rule,
            moving_rate=moving_rate,
            period=period,
            probability=probability,
            global_moving_rate=self.global_moving_rate,
            global_period=self.global_period,
            weighting=self.weighting or DEFAULT_WEIGHTING,
            codec=self.codec or AUTO,
            fragments=self._fragments(method),
            outer=self.outer or "none",
            outer_lr=None if outer is None else outer.learning_rate,
            outer_momentum=None if outer is None else outer.momentum,
            admission=self.admission or "open",
            init_seed=self.seed or 0,
            **({} if recipe is None else self._defaults(method, recipe)),
        )

    def _fragments(self, method: Method) -> int:
        """Those asked for; else automatic ones, if the codec is automatic too and the rule allows parts."""
        if self.fragment is not None:
            return self.fragment
        return AUTO_FRAGMENTS if self.codec in (None, AUTO) and method.fragments else 1

    def _defaults(self, method: Method, recipe: Recipe) -> dict[str, Any]:
        of_method = recipe.momentum if method.momentum is None else method.momentum
        return {
            "batch_size": self.batch_size or recipe.batch_size,
            "learning_rate": (self.lr if self.optimizer == "sgd" else None) or recipe.learning_rate,
            "momentum": of_method if self.momentum is None else self.momentum,
        }


def _host_name(name: str) -> str:
    """Spell a name as browsers send it. Raises ConfigError."""
    try:
        sent = name.lower().removesuffix(".").encode("idna").decode()
    except UnicodeError:
        sent = ""
    if not re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", sent):
        raise ConfigError("http-allow-host", name, "a host name alone, without scheme, port and path: peer.example")
    return sent


def load_config(file: Path | None, given: Mapping[str, Any]) -> JoinConfig:
    """Read the options in `file`, overridden by those given on the command line.

    Args:
        file: a TOML file; None if there is none.
        given: options of the command line, with underscores for dashes.

    Returns:
        The options.

    Raises:
        ConfigError: for the first option that is unknown or out of range, or a file that is no TOML.
    """
    from_file = read_options(file)
    if "for" in from_file:  # as on the command line, where it is no word of Python
        from_file["duration"] = from_file.pop("for")
    for one, other in EITHER_OR:  # the command line wins, also over what the file says in the other way
        if given.get(one) is not None:
            from_file.pop(other, None)
    try:
        return JoinConfig(**{**from_file, **given})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part).replace("_", "-") for part in first["loc"] if isinstance(part, str)) or "options"
        if first["type"] == "extra_forbidden":
            allowed = ", ".join(sorted(name.replace("_", "-") for name in JoinConfig.model_fields))
            raise ConfigError(key, first["input"], f"no such option; there are: {allowed}") from error
        if first["type"] == "string_pattern_mismatch":
            raise ConfigError(
                key, first["input"], "letters, digits and . _ -, beginning with a letter or digit, at most 64"
            ) from error
        raise ConfigError(key, first["input"], first["msg"]) from error
