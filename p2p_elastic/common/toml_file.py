"""Options written down in a TOML file, spelled as on the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from p2p_elastic.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_options(file: Path | None) -> dict[str, Any]:
    """Read the options in a TOML file.

    Args:
        file: the path; None if there is no file.

    Returns:
        Options by name, with underscores for dashes and tuples for lists; empty without a file.

    Raises:
        ConfigError: if the file cannot be read, or is no TOML.
    """
    if file is None:
        return {}
    try:
        options = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError("config", str(file), f"cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("config", str(file), f"no TOML file: {error}") from error
    return {key.replace("-", "_"): tuple(v) if isinstance(v, list) else v for key, v in options.items()}
