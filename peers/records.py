"""What peers tell each other through the directory: who is there, and what the run trains."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from p2p_elastic.exchange import Loss, PeerId, RunName, SchemaHash, Step
from p2p_elastic.manifest import RunManifest
from p2p_elastic.status import Frozen

RECORD_BYTES_MAX = 2048
RECORD_SECONDS_MAX = 120.0
Address = Annotated[str, Field(pattern=r"^/[!-~]{1,199}$")]


class PeerRecord(Frozen):
    """One peer of a run. Signed by that peer; replaced at each announcement, `sequence` counting up."""

    peer: PeerId
    run: RunName
    schema_hash: SchemaHash
    addresses: Annotated[tuple[Address, ...], Field(max_length=8)] = ()
    step: Step = 0
    loss: Loss = None
    sequence: Annotated[int, Field(ge=0, lt=2**53)] = 0
    left: bool = Field(default=False, description="true in the last record of a peer that said goodbye")


class SignedManifest(Frozen):
    """A run manifest with its founder's signature, so that any member can keep it alive."""

    manifest: RunManifest
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
