"""What several commands have in common: options, and the ones that the user gave."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

CODEC_NAMES = (
    "none",
    "float16",
    "bfloat16",
    "int8",
    "int4",
)  # a test compares with `CODECS`, which is slow to import
FOLDER = click.Path(file_okay=False, path_type=Path)
DATA_DIR_DEFAULT = "[default: $P2P_ELASTIC_DATA, or ~/.cache/p2p-elastic/data]"
DATA_DIR = (
    f"Folder with the unpacked data set (as torchvision lays it out); what is missing is downloaded into it.  "
    f"{DATA_DIR_DEFAULT}"
)


def asked(context: click.Context, options: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the options that the user gave.

    Args:
        context: of the command.
        options: all, defaults included.

    Returns:
        Those that do not come from a default; one that was given with the value of its default is in it.
    """
    return {k: v for k, v in options.items() if context.get_parameter_source(k) is not ParameterSource.DEFAULT}
