"""The configuration and the result of a simulation: frozen values, the same in JSON."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from p2p_elastic.errors import ConfigError
from p2p_elastic.protocol.codecs import find_codec
from p2p_elastic.rules.methods import RULES, Flow, Method, Topology, find_method, find_rule
from p2p_elastic.rules.outer import Outer, OuterName
from p2p_elastic.rules.policy import WeightingName, default_schedule
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.simulator.workers import OptimizerName
from p2p_elastic.tasks import Recipe
from p2p_elastic.values import Frozen

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1, le=2**31)]
Epochs = Annotated[float, Field(ge=0.0, le=2**31)]
Loop = Literal["auto", "stacked", "looped"]
"""The way in which workers are computed, see `simulate`: of the engine, not of a configuration."""
UNSENT = (
    Topology.EVERYBODY,
    Topology.ACCUMULATED,
    Topology.GRADIENTS,
    Topology.NOBODY,
)  # no vectors that a rule takes differences of


class Failures(Frozen):
    """Faults per worker and step (dynamic weighting, arXiv 2409.09242). All zero: none."""

    drop: Share = Field(default=0.0, description="probability that a due exchange of a worker does not take place")
    burst: Share = Field(default=0.0, description="share of the time that a worker is cut off, in bursts")
    burst_steps: Count = Field(default=75, description="mean length of a burst, in steps")
    crash: Share = Field(default=0.0, description="probability per step that a worker restarts from an old snapshot")
    snapshot_steps: Count = Field(default=200, description="steps between the snapshots that a crash goes back to")
    silent: bool = Field(
        default=False, description="a worker that crashed does not know it; otherwise it copies first, as live peers do"
    )
    slow: Annotated[int, Field(ge=0, le=1024)] = Field(
        default=0, description="number of workers that are slow, the last ones"
    )
    slow_factor: Annotated[float, Field(ge=1.0, le=1e6)] = Field(
        default=4.0, description="steps that the others take while a slow worker takes one"
    )
    corrupt: Share = Field(default=0.0, description="probability per step that a worker's parameters get noise")
    noise: Annotated[float, Field(ge=0.0, le=1e6)] = Field(
        default=1.0, description="noise relative to the root mean square of the worker's parameters"
    )
    diverge: Annotated[int, Field(ge=0, le=1024)] = Field(
        default=0, description="number of workers with too high a learning rate, the first ones"
    )
    diverge_factor: Annotated[float, Field(ge=1.0, le=1e6)] = Field(
        default=100.0, description="what the learning rate of a diverging worker is multiplied by"
    )
    flipped: Annotated[int, Field(ge=0, le=1024)] = Field(
        default=0, description="number of workers, after the diverging ones, that train on class C - 1 - c instead of c"
    )
    nan: Annotated[int, Field(ge=0, le=1024)] = Field(
        default=0, description="number of workers, after the flipped ones, whose parameters turn to NaN"
    )
    nan_step: Count = Field(default=100, description="the step at whose end they do")

    @property
    def faulty(self) -> range:
        """The workers that do harm: diverging, then flipped, then those that turn to NaN, from worker 0 on.

        The others are healthy, even if they are slow, or cut off, crash or are corrupted now and then.
        """
        return range(self.diverge + self.flipped + self.nan)


class SimulationConfig(Frozen):
    """One simulation. `None` means the task's recipe, or the method's default."""

    task: str = Field(default="digits", description="name of the task")
    workers: Annotated[int, Field(ge=1, le=1024)] = Field(default=4, description="number of workers")
    rule: str = Field(default="elastic-gossip", description="name of the way to train together")
    moving_rate: float | None = Field(default=None, description="alpha or lambda of the rule")
    global_moving_rate: float | None = Field(default=None, description="lsgd: pull towards the best of all groups")
    period: Count | None = Field(default=None, description="steps between two exchanges of a worker")
    probability: Share | None = Field(default=None, description="of an exchange after each step, instead of a period")
    codec: str = Field(default="none", description="how parameters travel; none: as float32")
    fragment: Count = Field(default=1, description="parts of the vector; an exchange is about one, in turns")
    weighting: WeightingName = Field(
        default="fixed", description="dynamic: workers count by their health and by what others measure of them"
    )
    outer: OuterName | None = Field(default=None, description="outer optimizer; None: the method's")
    outer_learning_rate: float | None = Field(default=None, description="b of the outer optimizer")
    outer_momentum: float | None = Field(default=None, description="a of the outer optimizer")
    global_period: Count | None = Field(default=None, description="lsgd: steps between pulls to the best of all")
    groups: Annotated[int, Field(ge=1, le=1024)] = Field(default=1, description="lsgd: groups of neighbours")
    partners: Annotated[int, Field(ge=1, le=1023)] = Field(default=1, description="gossip: partners asked at once")
    epochs: Count | None = Field(default=None, description="passes of each worker over its part")
    steps: Count | None = Field(default=None, description="instead of epochs")
    batch_size: Annotated[int, Field(ge=1, le=2**20)] | None = Field(default=None, description="per worker")
    optimizer: OptimizerName = Field(default="sgd", description="of every worker")
    learning_rate: Annotated[float, Field(gt=0.0, le=1e3)] | None = Field(default=None, description="at the beginning")
    milestones: tuple[Epochs, ...] | None = Field(
        default=None,
        description="epochs, also parts of them, from which on the learning rate is the recipe's part of it",
    )
    lr_decay: Annotated[float, Field(ge=0.0, le=1e6)] = Field(
        default=0.0, description="gamma: the learning rate of step t = 0, 1, ... is divided by (1 + gamma t)^0.5"
    )
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] | None = Field(default=None, description="of SGD")
    weight_decay: Annotated[float, Field(ge=0.0, le=1.0)] | None = Field(default=None, description="of the optimizer")
    split: Literal["shards", "whole", "overlap", "dirichlet"] = Field(
        default="shards", description="how the training data is divided, see `worker_parts`"
    )
    overlap: Share = Field(default=0.25, description="split overlap: this share of the data goes to every worker")
    dirichlet: Annotated[float, Field(gt=0.0, le=1e6)] = Field(
        default=0.5, description="split dirichlet: concentration; small means few classes per worker"
    )
    failures: Failures = Field(default=Failures(), description="faults that are injected")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        default=1234, description="of all random choices but the first model's"
    )
    evaluate_steps: Count | None = Field(default=None, description="steps between evaluations; None: each epoch")

    @model_validator(mode="after")
    def _possible(self) -> SimulationConfig:
        method = find_method(self.rule)
        find_rule(self.rule, self.rate)
        if self.global_rate is not None:
            find_rule(self.rule, self.global_rate)
        if self.period is not None or self.probability is not None:
            Schedule.build(self.period, self.probability)
        if self.steps is not None and self.epochs is not None:
            raise ConfigError("steps/epochs", (self.steps, self.epochs), "give one of the two")
        leads = method.topology is Topology.LEADER
        for key in ("global_moving_rate", "global_period"):
            if getattr(self, key) is not None and not leads:
                raise ConfigError(key.replace("_", "-"), getattr(self, key), "only rule lsgd has it")
        if self.groups > 1 and not leads:
            raise ConfigError("groups", self.groups, "only rule lsgd has groups")
        for key in ("global_moving_rate", "global_period"):
            if getattr(self, key) is not None and self.groups == 1:
                raise ConfigError(key.replace("_", "-"), getattr(self, key), "it needs groups, 2 or more")
        if self.groups > self.workers:
            raise ConfigError("groups", self.groups, f"at most one per worker ({self.workers})")
        if leads and self.probability is not None:
            raise ConfigError("probability", self.probability, "lsgd has a period: all follow at the same step")
        if self.global_period is not None and self.global_period % (self.schedule.period or 1):
            raise ConfigError("global-period", self.global_period, f"a multiple of the period, {self.schedule.period}")
        if self.partners >= max(self.workers, 2):
            raise ConfigError("partners", self.partners, f"fewer than there are workers ({self.workers})")
        if self.partners > 1 and method.topology is not Topology.PAIRS:
            raise ConfigError("partners", self.partners, "only the gossip rules have partners")
        if method.flow is Flow.PULL and self.rate * self.partners > 1.0:
            raise ConfigError("partners", self.partners, f"at most 1 / moving rate ({self.rate:g}): moves add up")
        self._check_sending(method)
        method.outer_optimizer(self.outer, self.outer_learning_rate, self.outer_momentum)
        if self.failures.slow >= self.workers:
            raise ConfigError("slow", self.failures.slow, f"fewer than there are workers ({self.workers})")
        if len(self.failures.faulty) >= self.workers:
            given = (self.failures.diverge, self.failures.flipped, self.failures.nan)
            raise ConfigError("diverge/flipped/nan", given, f"together fewer than there are workers ({self.workers})")
        return self

    def _check_sending(self, method: Method) -> None:
        find_codec(self.codec)
        if self.codec != "none" and method.topology in UNSENT:
            raise ConfigError(
                "codec", self.codec, f"none: what rule {self.rule} sends are no parameters that a rule pulls"
            )
        if self.fragment == 1:
            return
        if method.topology in UNSENT:
            raise ConfigError("fragment", self.fragment, f"1: rule {self.rule} does not exchange parameters")
        if method.topology is Topology.LEADER:
            raise ConfigError("fragment", self.fragment, f"1: with rule {self.rule} a leader is followed whole")
        if method.shares:
            raise ConfigError("fragment", self.fragment, f"1: the sum weights of rule {self.rule} are of whole models")

    @property
    def rate(self) -> float:
        """The moving rate, or the method's default among this number of workers."""
        return RULES[self.rule].moving_rate_among(self.workers) if self.moving_rate is None else self.moving_rate

    @property
    def global_rate(self) -> float | None:
        """The pull towards the best of all groups; None if the rule has none. Defaults to the moving rate."""
        if RULES[self.rule].topology is not Topology.LEADER:
            return None
        return self.rate if self.global_moving_rate is None else self.global_moving_rate

    @property
    def outer_optimizer(self) -> Outer | None:
        """The outer optimizer with its numbers; None if there is none."""
        method = RULES[self.rule]
        return method.outer_optimizer(self.outer, self.outer_learning_rate, self.outer_momentum)

    @property
    def schedule(self) -> Schedule:
        """When workers exchange."""
        if self.period is None and self.probability is None:
            return default_schedule(RULES[self.rule].topology)
        return Schedule.build(self.period, self.probability)

    def momentum_of(self, recipe: Recipe) -> float:
        """Choose the momentum that was asked for, or else the method's, or else the recipe's.

        Args:
            recipe: of the task.

        Returns:
            The momentum.
        """
        if self.momentum is not None:
            return self.momentum
        of_method = RULES[self.rule].momentum
        return recipe.momentum if of_method is None else of_method


class Scores(Frozen):
    """What one metric says of everybody."""

    workers: tuple[float, ...] = Field(description="of each; `Failures.faulty` says which of them are not healthy")
    average: float = Field(description="of the averaged parameters, BatchNorm statistics re-estimated")
    centre: float | None = Field(default=None, description="of the centre variable, if there is one")

    @property
    def delivered(self) -> float:
        """That of what the method would deliver: the centre if there is one, otherwise the average."""
        return self.average if self.centre is None else self.centre


class Point(Frozen):
    """An evaluation of a simulation after `step`."""

    step: int = Field(description="of the simulation, from 1")
    epoch: float = Field(description="passes of the first worker over its part")
    bytes_per_worker: float = Field(description="bytes sent so far, mean over workers (the centre's are its own)")
    exchanges: int = Field(description="so far, of all workers")
    training_loss: float | None = Field(
        description="mean over workers and the steps since the last point; None if that is not a finite number"
    )
    metrics: dict[str, Scores] = Field(description="of the task, by name, and `loss`, on the test split")
    consensus_distance: float = Field(description="root mean square L2 distance of the workers to their average")

    @model_validator(mode="before")
    @classmethod
    def _of_accuracies(cls, given: Any) -> Any:
        """Take what results had before tasks had metrics of their own."""
        if not isinstance(given, dict) or "accuracies" not in given:
            return given
        rest = {key: value for key, value in given.items() if not key.endswith(("accuracies", "_accuracy"))}
        average, centre = given["average_accuracy"], given.get("centre_accuracy")
        return {**rest, "metrics": {"accuracy": Scores(workers=given["accuracies"], average=average, centre=centre)}}

    @property
    def score_name(self) -> str:
        """The metric that says how good it is: the task's first, or the loss if it has none."""
        return next(iter(self.metrics))

    @property
    def score(self) -> Scores:
        """Values of that metric."""
        return self.metrics[self.score_name]

    @property
    def accuracies(self) -> tuple[float, ...]:
        """Of each worker, 0..1; `Failures.faulty` says which of them are not healthy."""
        return self.metrics["accuracy"].workers

    @property
    def average_accuracy(self) -> float:
        """Of the averaged parameters, BatchNorm statistics re-estimated."""
        return self.metrics["accuracy"].average

    @property
    def centre_accuracy(self) -> float | None:
        """Of the centre variable, if there is one."""
        return self.metrics["accuracy"].centre

    @property
    def accuracy(self) -> float:
        """The accuracy of what the method would deliver: the centre if there is one, otherwise the average."""
        return self.metrics["accuracy"].delivered


class SimulationResult(Frozen):
    """All that came out of a simulation."""

    version: str = Field(description="of p2p-elastic")
    config: SimulationConfig = Field(description="of the simulation")
    device: str = Field(description="on which it ran")
    parameters: int = Field(description="D, elements of the vector")
    steps: int = Field(description="that were done")
    seconds: float = Field(description="that it took")
    points: tuple[Point, ...] = Field(description="the evaluations, the first one first")
    faults: dict[str, int] = Field(default_factory=dict, description="injected: kind -> count")
    leaders: dict[int, int] = Field(default_factory=dict, description="lsgd: worker -> times that it led")
