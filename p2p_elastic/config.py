"""What the user asked for, checked once: command line over file over defaults.

`None` means "not asked for": then the run's manifest decides, or, for the founder of a run, the task's recipe.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from p2p_elastic.errors import ConfigError
from p2p_elastic.exchange import RunName
from p2p_elastic.manifest import BINDING, RunManifest
from p2p_elastic.rules import find_rule
from p2p_elastic.schedule import Schedule
from p2p_elastic.status import Frozen
from p2p_elastic.tasks import Recipe, Shard

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PORT = 31330  # libp2p; any free port where this one is taken and none was asked for
HTTP_PORT = 8870  # the same for HTTP
DEFAULT_RULE, DEFAULT_MOVING_RATE = "elastic-gossip", 0.5  # averages the pair: the optimum is flat from 0.25 to 0.5
DEFAULT_PROBABILITY = 1 / 32  # as good as 1/8 on MNIST in the paper's table, a quarter of the bytes
DEFAULT_TASK = "digits"

EITHER_OR = (("steps", "epochs"), ("epochs", "steps"), ("period", "probability"), ("probability", "period"))

Port = Annotated[int, Field(ge=0, le=65535)]
Count = Annotated[int, Field(ge=1, le=2**31)]


class JoinConfig(Frozen):
    """Options of `p2p-elastic join`; the same names, with dashes, on the command line and in the TOML file."""

    initial_peer: tuple[str, ...] = ()
    run: RunName | None = None
    task: str | None = None
    data_dir: Path | None = None
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    threads: Count | None = None
    rule: str | None = None
    moving_rate: float | None = None
    period: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    probability: float | None = None
    steps: Count | None = None
    epochs: Count | None = None
    batch_size: Annotated[int, Field(ge=1, le=2**20)] | None = None
    lr: Annotated[float, Field(gt=0.0, le=1e3)] | None = None
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    shard: str | None = None
    wait_for_peers: Annotated[int, Field(ge=0, le=10_000)] = 0
    host: str = "0.0.0.0"  # noqa: S104  # other machines are the point; HTTP below stays on loopback
    port: Port | None = None
    announce: tuple[str, ...] = ()
    http_host: str = "127.0.0.1"
    http_port: Port | None = None
    identity: Path | None = None
    output: Path | None = None
    log_format: Literal["auto", "text", "json"] = "auto"

    @field_validator("shard")
    @classmethod
    def _known_shard(cls, shard: str | None) -> str | None:
        if shard is not None:
            Shard.parse(shard)
        return shard

    @model_validator(mode="after")
    def _no_contradiction(self) -> JoinConfig:
        if self.steps is not None and self.epochs is not None:
            raise ConfigError("steps/epochs", (self.steps, self.epochs), "give one of the two")
        if self.period is not None or self.probability is not None:
            Schedule.build(self.period, self.probability)
        if self.rule is not None or self.moving_rate is not None:
            moving_rate = DEFAULT_MOVING_RATE if self.moving_rate is None else self.moving_rate
            find_rule(self.rule or DEFAULT_RULE, moving_rate)
        return self

    @property
    def part(self) -> Shard | None:
        """The part of the data to train on; None is all of it."""
        return None if self.shard is None else Shard.parse(self.shard)

    def binding(self) -> dict[str, Any]:
        """What was asked for of the things that all peers of a run have in common."""
        return {key: getattr(self, key) for key in BINDING if getattr(self, key, None) is not None}

    def found(self, run: str, founder: str, task: str, schema_hash: str, recipe: Recipe) -> RunManifest:
        """The manifest of a new run with these options."""
        probability = DEFAULT_PROBABILITY if self.period is None and self.probability is None else self.probability
        return RunManifest(
            run=run,
            founder=founder,
            task=task,
            schema_hash=schema_hash,
            rule=self.rule or DEFAULT_RULE,
            moving_rate=DEFAULT_MOVING_RATE if self.moving_rate is None else self.moving_rate,
            period=self.period,
            probability=probability,
            codec="none",
            batch_size=self.batch_size or recipe.batch_size,
            learning_rate=self.lr or recipe.learning_rate,
            momentum=recipe.momentum if self.momentum is None else self.momentum,
            init_seed=self.seed or 0,
        )


def load_config(file: Path | None, given: Mapping[str, Any]) -> JoinConfig:
    """The options in `file`, overridden by those `given` on the command line.

    Raises:
        ConfigError: the first option that is unknown or out of range, or a file that is no TOML.
    """
    from_file = _read(file)
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


def _read(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        options = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("config", str(file), f"cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("config", str(file), f"no TOML file: {error}") from error
    return {key.replace("-", "_"): tuple(v) if isinstance(v, list) else v for key, v in options.items()}
