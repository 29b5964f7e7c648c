"""The options of `Swarm` that are those of `p2p-elastic join`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from p2p_elastic.node.config import JoinConfig, load_config


class Options(TypedDict, total=False):
    """The options that `Swarm` has in common with `p2p-elastic join`, where each one is described.

    Those that all peers of a run have in common (rule to outer_momentum) are the founder's; leave them out to join.
    """

    rule: str
    moving_rate: float
    period: int
    probability: float | str
    global_moving_rate: float
    global_period: int
    weighting: Literal["dynamic", "fixed"]
    codec: str
    fragment: int | Literal["auto"]
    outer: Literal["none", "nesterov", "noloco"]
    outer_lr: float
    outer_momentum: float
    streams: int
    group: str
    seed: int
    duration: str
    max_bandwidth: str
    max_share: float
    wait_for_peers: int
    host: str
    port: int
    direct_port: int
    no_direct: bool
    announce: Sequence[str]
    relay: str
    http_host: str
    http_port: int
    http_allow_host: Sequence[str]
    http_token_file: Path | str
    identity: Path | str
    admission: Literal["open", "ticket"]
    invite: str
    checkpoint_every: str


def config_of(
    options: dict[str, Any], run: str | None, initial_peers: Sequence[str], output: Path | str | None, resume: Any
) -> JoinConfig:
    """Check what the user of `Swarm` asked for.

    Args:
        options: as `Options` has them.
        run: name of the run; None: not given.
        initial_peers: multiaddrs.
        output: folder; None: not given.
        resume: False, True, or a folder.

    Returns:
        The same as options of `join`.

    Raises:
        ConfigError: for the first one that is unknown or out of range.
    """
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    given |= {"initial_peer": initial_peers if isinstance(initial_peers, str) else tuple(initial_peers)}
    if run is not None:
        given["run"] = run
    if output is not None:
        given["output"] = Path(output)
    if resume is True:
        given["resume_or_found"] = True
    elif resume is not False:
        given["resume"] = Path(resume)
    return load_config(None, given)
