"""A simulation as flat options, spelled as on the command line: one name per value, failures among the others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from p2p_elastic.common.fraction import number
from p2p_elastic.errors import ConfigError
from p2p_elastic.simulator.config import Failures, SimulationConfig

ALIASES = {"learning_rate": "lr", "outer_learning_rate": "outer_lr"}
FAILURES = tuple(Failures.model_fields)
KEYS = (*(ALIASES.get(name, name) for name in SimulationConfig.model_fields if name != "failures"), *FAILURES)
"""Every option of a simulation, with underscores; on the command line they have dashes."""

DEFAULT = "default"  # as a value: what the option is if it is not given
_FIELDS = {alias: name for name, alias in ALIASES.items()}
NO_MILESTONES = "none"


def build(options: Mapping[str, Any], base: SimulationConfig | None = None) -> SimulationConfig:
    """Build the configuration with these options, and for the rest those of `base` (or the defaults).

    Args:
        options: by name, with underscores. A text like "1/32" is that number, the text "default" is the option's
            default. Milestones are a text like "15,30", in a sweep "15+30".
        base: gives what is not in `options`; None: the defaults.

    Returns:
        The configuration.

    Raises:
        ConfigError: names the first option that does not exist, is out of range, or contradicts another.

    Example:
        >>> build({"workers": 8, "probability": "1/32", "drop": "0.1"}).failures.drop
        0.1
    """
    values = {} if base is None else base.model_dump()
    failures = dict(values.get("failures", {}))
    for key, given in options.items():
        if key not in KEYS:
            raise ConfigError(dashed(key), given, f"no such option; there are: {', '.join(map(dashed, sorted(KEYS)))}")
        target, name = (failures, key) if key in FAILURES else (values, _FIELDS.get(key, key))
        if given == DEFAULT:
            target.pop(name, None)
        else:
            target[name] = _milestones(given) if key == "milestones" else number(dashed(key), given)
    try:
        return SimulationConfig(**{**values, "failures": failures})
    except ValidationError as error:
        raise refused(error) from error


def refused(error: ValidationError) -> ConfigError:
    """Turn what pydantic found wrong first into an error about an option; write `raise refused(...) from ...`.

    Args:
        error: of a configuration.

    Returns:
        The error to raise.
    """
    first = error.errors()[0]
    names = [part for part in first["loc"] if isinstance(part, str)]
    return ConfigError(
        dashed(ALIASES.get(names[-1], names[-1])) if names else "options", first["input"], _plain(first["msg"])
    )


def value_of(config: SimulationConfig, key: str) -> Any:
    """Read the value that an option has in a configuration.

    Args:
        config: of a simulation.
        key: the option, with underscores.

    Returns:
        The value; None means the task's recipe, or the method's default.
    """
    return getattr(config.failures, key) if key in FAILURES else getattr(config, _FIELDS.get(key, key))


def shown(value: object) -> str:
    """Write an option's value for people.

    Args:
        value: of any option.

    Returns:
        Its text, as `build` reads it.

    Example:
        >>> shown(0.03125), shown(None), shown((15, 30))
        ('0.03125', 'default', '15+30')
    """
    if value is None:
        return DEFAULT
    if isinstance(value, tuple):
        return "+".join(map(shown, value)) or NO_MILESTONES
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def dashed(key: str) -> str:
    """Spell an option as on the command line.

    Args:
        key: with underscores.

    Returns:
        With dashes.

    Example:
        >>> dashed("batch_size")
        'batch-size'
    """
    return key.replace("_", "-")


def _milestones(given: Any) -> Any:
    if not isinstance(given, str):
        return given
    return () if given == NO_MILESTONES else tuple(part.strip() for part in re.split("[,+]", given))


def _plain(message: str) -> str:
    return message.removeprefix("Input should be ").removeprefix("Value error, ")
