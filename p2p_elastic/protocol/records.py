"""What peers tell each other through the directory: the members, and what the run trains."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, JsonValue

from p2p_elastic.common.addresses import CHARACTERS_MAX
from p2p_elastic.common.page_address import is_page
from p2p_elastic.protocol.limits import MEMBERS_MAX
from p2p_elastic.protocol.manifest import RunManifest
from p2p_elastic.protocol.messages import (
    PROTOCOL_VERSION,
    Address,
    Group,
    Loss,
    PeerId,
    RunName,
    SchemaHash,
    Stamp,
    Step,
    Weight,
)
from p2p_elastic.protocol.software import Software, is_software, read_software
from p2p_elastic.values import Frozen

RECORD_BYTES_MAX = 2048
RECORD_SECONDS_MAX = 120.0
PARTNERS_TOLD = 3
OWN = "/p2p/"  # before a peer id, in an address
Signature = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


class CentreClaim(Frozen):
    """What a member says of its copy of the centre variable.

    Attributes:
        stamp: how fresh the copy is.
    """

    stamp: Stamp
    seated: bool = Field(description="true at the peer that holds the centre variable; elsewhere it is a copy")


class PeerRecord(Frozen):
    """One peer of a run. Signed by that peer; replaced at each announcement.

    Attributes:
        peer: its peer id.
        run: the run's name.
        schema_hash: of the names and shapes of its model.
        addresses: multiaddrs under which it may be reached; one may say what it runs.
        step: how many steps it has made.
        loss: what it says of its loss, in nats; None if it is not known.
        steps_per_second: its speed; None if it is not known.
        sequence: counts up at each announcement; an older record is a replay.
    """

    peer: PeerId
    run: RunName
    schema_hash: SchemaHash
    addresses: Annotated[tuple[Address, ...], Field(max_length=8)] = ()
    step: Step = 0
    loss: Loss = None
    weight: Weight = Field(default=1.0, description="how much it claims to count for")
    steps_per_second: Annotated[float, Field(ge=0.0, le=1e9, allow_inf_nan=False)] | None = None
    drained: bool = Field(default=False, description="true if it begins and answers no exchanges for now")
    partners: Annotated[tuple[PeerId, ...], Field(max_length=PARTNERS_TOLD)] = Field(
        default=(), description="the peers with which it exchanged last, for people who watch"
    )
    group: Group = Field(default="", description="whose leader this peer follows, and may be (LSGD)")
    centre: CentreClaim | None = Field(default=None, description="in runs with a centre variable (EASGD)")
    sequence: Annotated[int, Field(ge=0, lt=2**53)] = 0
    revoked: Annotated[str, Field(pattern=r"^([0-9a-f]{16})?$")] = Field(
        default="", description="of the revocations that it knows (private runs): the same at peers with the same"
    )
    relay: bool = Field(default=False, description="whether it passes on what others send to peers it is connected to")
    about: Annotated[int, Field(ge=1, le=MEMBERS_MAX)] | None = Field(
        default=None, description="how many members there are about, as it thinks; null if it sees all of them"
    )
    left: bool = Field(default=False, description="true in the last record of a peer that said goodbye")

    @property
    def software(self) -> Software | None:
        """What it runs, as it says; None if it does not."""
        return read_software(self.addresses)

    @property
    def same_protocol(self) -> bool:
        """Whether it speaks the version of the protocol that is spoken here, or does not say."""
        said = self.software
        return said is None or said.protocol == PROTOCOL_VERSION

    @property
    def available(self) -> bool:
        """Whether it may be asked for an exchange, as far as it says."""
        return not self.drained and self.same_protocol

    @property
    def places(self) -> tuple[str, ...]:
        """Its addresses, without what it runs."""
        return tuple(address for address in self.addresses if not is_software(address))


def record_body(record: PeerRecord) -> bytes:
    """Write a record as it is stored: without what is the default, and without its own id in its addresses.

    Args:
        record: of a peer.

    Returns:
        JSON.

    Example:
        >>> home = PeerRecord(peer="12D3Koo", run="r", schema_hash="0" * 32, addresses=("/ip4/192.0.2.1/tcp/1/p2p/12D3Koo",))
        >>> record_body(home)
        b'{"peer":"12D3Koo","run":"r","schema_hash":"00000000000000000000000000000000","addresses":["/ip4/192.0.2.1/tcp/1"]}'
        >>> read_record(record_body(home)) == home
        True
    """  # noqa: E501
    own = OWN + record.peer
    told = tuple(each.removesuffix(own) if each.count(OWN) == 1 else each for each in record.addresses)
    return record.model_copy(update={"addresses": told}).model_dump_json(exclude_defaults=True).encode()


def read_record(body: bytes) -> PeerRecord:
    """Read what `record_body` wrote.

    Args:
        body: JSON, from anybody.

    Returns:
        The record, with its peer's id at the end of each address to dial that names none; one that is too long then is
        left out.

    Raises:
        ValidationError: if it is none.
    """
    record = PeerRecord.model_validate_json(body)
    own = OWN + record.peer
    told = (each if OWN in each or is_software(each) or is_page(each) else each + own for each in record.addresses)
    whole = tuple(each for each in told if len(each) <= CHARACTERS_MAX)
    return record.model_copy(update={"addresses": whole})


class PublishedManifest(Frozen):
    """A run manifest as it comes from the network, to be checked against its signature before it is read.

    Attributes:
        manifest: any JSON object.
        signature: its founder's, of the JSON with sorted keys; in hex.
    """

    manifest: dict[str, JsonValue]
    signature: Signature


class SignedManifest(Frozen):
    """A run manifest with its founder's signature, so that any member can keep it alive.

    Attributes:
        manifest: what the run trains.
        signature: the founder's, in hex.
    """

    manifest: RunManifest
    signature: Signature
