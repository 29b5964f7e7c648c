"""What options of several commands have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

FOLDER = click.Path(file_okay=False, path_type=Path)
DATA_DIR_DEFAULT = "[default: $P2P_ELASTIC_DATA, or ~/.cache/p2p-elastic/data]"
DATA_DIR = (
    f"Folder with the unpacked data set (as torchvision lays it out); downloaded into it where missing.  "
    f"{DATA_DIR_DEFAULT}"
)


def asked(context: click.Context, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that the user gave."""
    return {k: v for k, v in options.items() if context.get_parameter_source(k) is not ParameterSource.DEFAULT}
