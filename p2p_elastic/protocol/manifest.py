"""The run manifest: what a run trains and how, published by its founder and taken over by peers that join."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from p2p_elastic.errors import ConfigError
from p2p_elastic.protocol.limits import (
    AUTO_FRAGMENTS,
    BATCH_SIZE_MAX,
    FRAGMENTS_MAX,
    LEARNING_RATE_MAX,
    MOMENTUM_MAX,
    PERIOD_MAX,
)
from p2p_elastic.protocol.link_choice import AUTO, CODEC_NAMES
from p2p_elastic.protocol.messages import PeerId, RunName, SchemaHash
from p2p_elastic.rules.methods import RULES, find_method
from p2p_elastic.rules.outer import OUTER, RATE_MAX, find_outer
from p2p_elastic.rules.policy import Policy, WeightingName, rule_of
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.values import Frozen

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
Period = Annotated[int, Field(ge=1, le=PERIOD_MAX)]
Fragments = Annotated[
    int, BeforeValidator(lambda value: AUTO_FRAGMENTS if value == AUTO else value), Field(ge=0, le=FRAGMENTS_MAX)
]
"""The number of fragments; AUTO_FRAGMENTS, which people write as "auto": each peer chooses by its links."""
BatchSize = Annotated[int, Field(ge=1, le=BATCH_SIZE_MAX)]
LearningRate = Annotated[float, Field(gt=0.0, le=LEARNING_RATE_MAX)]
Momentum = Annotated[float, Field(ge=0.0, le=MOMENTUM_MAX)]
OuterRate = Annotated[float, Field(gt=0.0, le=RATE_MAX)]
OuterMomentum = Annotated[float, Field(ge=0.0, lt=1.0)]
Admission = Literal["open", "ticket"]
OUTER_FIELDS = ("outer", "outer_lr", "outer_momentum")
OWN_LOOP = "own-loop"
"""The task of a run whose members each run a program of their own (`p2p_elastic.Swarm`): no task can be found by it."""
FrozenHash = Annotated[str, Field(pattern=r"^([0-9a-f]{32})?$")]
SHOWN_MAX = 80  # characters of a value that is refused

BINDING = (
    "task",
    "rule",
    "moving_rate",
    "period",
    "probability",
    "global_moving_rate",
    "global_period",
    "weighting",
    "codec",
    "fragments",
    "outer",
    "outer_lr",
    "outer_momentum",
    "admission",
)
"""What all peers of a run must have in common. The rest are defaults that a peer may override for itself."""


class Defaults(NamedTuple):
    """How the peers of a run train their task, unless told otherwise.

    Attributes:
        batch_size: examples per step.
        learning_rate: of SGD.
        momentum: of SGD.
    """

    batch_size: int
    learning_rate: float
    momentum: float


class RunManifest(Frozen):
    """What a run trains and how: names and numbers only.

    A task is run by its name, if it is installed here. Nothing executable is ever taken.
    """

    run: RunName = Field(description="its name")
    founder: PeerId = Field(description="peer id of its founder")
    task: Name = Field(description="name of the task")
    schema_hash: SchemaHash = Field(description="of the task's model")
    frozen_hash: FrozenHash = Field(default="", description="of what the model has that does not train; empty: nothing")
    rule: Name = Field(description="name of the way to train together")
    moving_rate: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(description="alpha or lambda of the rule")
    period: Period | None = Field(description="steps between two exchanges; None if `probability` is given")
    probability: Annotated[float, Field(ge=0.0, le=1.0)] | None = Field(
        description="of an exchange after each step; None if `period` is given"
    )
    global_moving_rate: Annotated[float, Field(ge=0.0, lt=1.0)] | None = Field(
        default=None, description="lsgd: pull towards the best of all groups"
    )
    global_period: Period | None = Field(
        default=None, description="lsgd: steps between two pulls towards the best of all groups; None without groups"
    )
    weighting: WeightingName = Field(
        default="dynamic", description="dynamic: peers count by their health and by what others measure of them"
    )
    codec: Name = Field(default="none", description="how parameters travel; auto: each exchange by its link")
    fragments: Fragments = Field(
        default=1, description="of how many parts of the vector an exchange moves one; 0: by its link"
    )
    outer: Name = Field(
        default="none", description="outer optimizer; if there is none, this and its numbers are absent"
    )
    outer_lr: OuterRate | None = Field(default=None, validate_default=True, description="b of the outer optimizer")
    outer_momentum: OuterMomentum | None = Field(
        default=None, validate_default=True, description="a of the outer optimizer"
    )
    batch_size: BatchSize | None = Field(default=None, validate_default=True, description="examples per step")
    learning_rate: LearningRate | None = Field(default=None, validate_default=True, description="of SGD")
    momentum: Momentum | None = Field(default=None, validate_default=True, description="of SGD")
    admission: Admission = Field(
        default="open", description="ticket: only peers that its founder or an issuer of it admitted take part"
    )
    init_seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(description="all peers start from the same parameters")

    @model_validator(mode="after")
    def _one_schedule(self) -> RunManifest:
        if (self.period is None) == (self.probability is None):
            raise ValueError("one of period and probability")
        return self

    @field_validator("outer_lr", "outer_momentum")
    @classmethod
    def _with_outer(cls, value: float | None, info: ValidationInfo) -> float | None:
        if (value is None) != (info.data.get("outer") == "none"):
            raise ValueError("a number with an outer optimizer, and none without")
        return value

    @field_validator("batch_size", "learning_rate", "momentum")
    @classmethod
    def _of_a_task(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is None and info.data.get("task") != OWN_LOOP:
            raise ValueError("Field required")
        return value

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what there is not: the signature is that of versions that know of no outer optimizer or ticket."""
        fields: dict[str, Any] = handler(self)
        absent = OUTER_FIELDS * (self.outer == "none") + ("admission",) * (self.admission == "open")
        return {key: value for key, value in fields.items() if key not in absent}

    @property
    def defaults(self) -> Defaults:
        """How peers train the run's task; an own loop has none."""
        batch_size, learning_rate, momentum = self.batch_size, self.learning_rate, self.momentum
        if batch_size is None or learning_rate is None or momentum is None:
            raise ConfigError("task", self.task, "a task that has a name: this run's peers run programs of their own")
        return Defaults(batch_size, learning_rate, momentum)

    @property
    def schedule(self) -> Schedule:
        """When a peer of this run asks for an exchange."""
        return Schedule.build(self.period, self.probability)

    def policy(self) -> Policy:
        """Work out what this run prescribes to its peers.

        Returns:
            Rule, schedule, topology and flow.

        Raises:
            ConfigError: if the rule is not known, not for live runs, or does not fit the other settings.
        """
        method = find_method(self.rule)
        if not method.live:
            raise ConfigError("rule", self.rule, "it runs in the simulator only: p2p-elastic simulate")
        if self.fragments != 1 and not method.fragments:
            raise ConfigError("fragment", self.fragments, f"rule {self.rule} exchanges whole models")
        outer = method.outer_optimizer(self.outer, self.outer_lr, self.outer_momentum)
        together = self.global_moving_rate if self.global_moving_rate is not None else self.moving_rate
        return Policy(
            rule=rule_of(method, self.moving_rate, self.weighting),
            schedule=self.schedule,
            topology=method.topology,
            flow=method.flow,
            global_rule=rule_of(method, together, self.weighting) if self.global_period is not None else None,
            global_period=self.global_period,
            weighting=self.weighting,
            outer=outer,
        )

    def settings(self) -> dict[str, Any]:
        """All but the founder: two manifests with equal settings describe the same run.

        Returns:
            Values by field name.
        """
        return self.model_dump(exclude={"founder"})

    def describe(self) -> str:
        """Describe the run in one line, for people.

        Returns:
            Such as "run digits-1a2b3c: task digits, elastic-gossip with moving rate 0.5 ...".
        """
        what = f"{'private ' * (self.admission != 'open')}run {self.run}: "
        trains = ""
        if self.task != OWN_LOOP:
            what += f"task {self.task}, "
            defaults = self.defaults
            trains = (
                f", batch {defaults.batch_size}, learning rate {defaults.learning_rate:g}, "
                f"momentum {defaults.momentum:g}"
            )
        return (
            f"{what}{self.rule} with moving rate {self.moving_rate:g} {self.schedule}{self.describe_global()}"
            f"{self._describe_wire()}, {self.weighting} weighting{trains}"
        )

    def _describe_wire(self) -> str:
        codec = "" if self.codec == "none" else f", codec {self.codec}"
        parts = f"{codec}{self.describe_fragments()}"
        return parts if self.outer == "none" else f"{parts}, {self.describe_outer()}"

    def describe_outer(self) -> str:
        """Describe the outer optimizer.

        Returns:
            Such as "outer nesterov with learning rate 0.7, momentum 0.7".
        """
        outer = find_outer(self.outer, self.outer_lr, self.outer_momentum)
        numbers = "" if outer is None else f" with learning rate {outer.learning_rate:g}, momentum {outer.momentum:g}"
        return f"outer {self.outer}{numbers}"

    def describe_fragments(self) -> str:
        """Describe in how many parts the vector travels, as it follows the codec in a sentence.

        Returns:
            Such as ", in 4 fragments"; empty if it travels whole.
        """
        if self.fragments == AUTO_FRAGMENTS:
            return ", in fragments by the link"
        return "" if self.fragments == 1 else f", in {self.fragments} fragments"

    def describe_global(self) -> str:
        """Describe the pull towards the best of all groups, as it follows the schedule in a sentence.

        Returns:
            Such as ", all groups every 64 steps"; empty if there is none.
        """
        if self.global_period is None:
            return ""
        rate = "" if self.global_moving_rate is None else f" with {self.global_moving_rate:g}"
        return f", all groups{rate} every {self.global_period} steps"


def read_manifest(fields: Mapping[str, Any]) -> RunManifest:
    """Read a manifest from the network.

    Args:
        fields: by name, as they came.

    Returns:
        The manifest, checked.

    Raises:
        ConfigError: names the first field that is not valid, and what is allowed.
    """
    try:
        return RunManifest.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
    field = str(first["loc"][0]).replace("_", "-") if first["loc"] else "schedule"
    if first["type"] == "extra_forbidden":
        allowed = "not known in this version: update p2p-elastic"
    else:
        allowed = first["msg"].replace("Input should be ", "allowed: ").removeprefix("Value error, ")
    got = fields.get(str(first["loc"][0])) if first["loc"] else (fields.get("period"), fields.get("probability"))
    shown = got if isinstance(got, (int, float)) else str(got)[:SHOWN_MAX]
    run = str(fields.get("run"))[:SHOWN_MAX]
    raise ConfigError(field, shown, f"{allowed}. Run {run!r} defines it, and cannot be joined")


def check_batch_size(batch_size: int, examples: int) -> None:
    """Check that a batch is no larger than the training set.

    Args:
        batch_size: examples per step.
        examples: in the training set.

    Raises:
        ConfigError: if it is larger.
    """
    if batch_size > examples:
        allowed = f"at most the number of training examples, {examples:,}: give --batch-size, or leave it out"
        raise ConfigError("batch-size", batch_size, allowed)


def check_against(manifest: RunManifest, asked: Mapping[str, Any]) -> None:
    """Check what the user asked for against the run.

    Args:
        manifest: of the run.
        asked: options by field name, only those that were given explicitly.

    Raises:
        ConfigError: if an option contradicts what binds all peers, or the run names a rule or codec unknown here.
    """
    for key in BINDING:
        ours, theirs = asked.get(key), getattr(manifest, key)
        if ours is not None and ours != theirs:
            option = "fragment" if key == "fragments" else key.replace("_", "-")
            shown = AUTO if key == "fragments" and theirs == AUTO_FRAGMENTS else theirs
            value = f"--{option} {shown}" if theirs is not None else f"no --{option}"
            raise ConfigError(option, ours, f"run {manifest.run!r} has {value}; leave the option out to take the run's")
    if manifest.codec not in CODEC_NAMES:
        allowed = ", ".join(CODEC_NAMES)
        raise ConfigError("codec", manifest.codec, f"the run's codec is not known here ({allowed}): update")
    if manifest.outer not in OUTER:
        known = ", ".join(OUTER)
        raise ConfigError("outer", manifest.outer, f"the run's outer optimizer is not known here ({known}): update")
    if manifest.rule not in RULES:
        raise ConfigError("rule", manifest.rule, f"the run's rule is not known here ({', '.join(RULES)}): update")


def choose_run(
    manifests: tuple[RunManifest, ...], wanted: str | None, refused: Mapping[str, ConfigError] = MappingProxyType({})
) -> RunManifest | None:
    """Choose the one run that is meant.

    Args:
        manifests: those that were found; the same run may have several founders.
        wanted: its name; None: the only one there is.
        refused: runs that cannot be joined, and why.

    Returns:
        Its manifest; None if it is not there (yet).

    Raises:
        ConfigError: several runs and none named, or one name for runs that differ, or it is one of those refused.
    """
    names = sorted({m.run for m in manifests})
    if wanted is None and len(names) > 1:
        raise ConfigError("run", None, f"several runs are there: {', '.join(names)}; choose one with --run")
    found = sorted((m for m in manifests if wanted in (None, m.run)), key=lambda m: m.founder)
    if not found:
        for run in sorted(refused):
            if wanted in (None, run):
                raise refused[run]
        return None
    if any(m.settings() != found[0].settings() for m in found):
        founders = ", ".join(m.founder for m in found)
        raise ConfigError(
            "run", found[0].run, f"founded several times with other settings, by {founders}: end all but one"
        )
    return found[0]
