"""A screen that remembers, and the manifest of a run."""

from __future__ import annotations

from p2p_elastic.node.config import JoinConfig
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.protocol.manifest import RunManifest
from p2p_elastic.tasks import find_task, initial_model

PEER, ADDRESS = "12D3KooWme", "/ip4/10.0.0.1/tcp/31330/p2p/12D3KooWme"


class Said:
    """A screen that remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def say(self, event: str, text: str, **facts: object) -> None:
        self.events.append((event, text))

    def progress(self, *_: object, **__: object) -> None:
        pass

    close = progress


def manifest(founder: str = PEER, run: str = "digits-1") -> RunManifest:
    task = find_task("digits")
    vector = ParameterVector(initial_model(task, 0))
    return JoinConfig(task="digits").found(run, founder, "digits", vector.schema_hash, task.recipe)
