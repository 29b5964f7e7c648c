"""What two peers say to each other: messages whose every field is checked before it is believed."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, model_validator

from p2p_elastic.protocol.limits import LANES_MAX
from p2p_elastic.status.schema import Frozen

PROTOCOL_VERSION = 2
TERM_MAX, CLOCK_MAX, SHARE_MAX = 2**31 - 1, 2**53 - 1, 2.0**20
STAY_SECONDS_MAX = 60.0
PEERS_MAX = 2**20

ExchangeId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
PeerId = Annotated[str, Field(min_length=1, max_length=128)]
Address = Annotated[str, Field(pattern=r"^/[!-~]{1,199}$")]
RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
SchemaHash = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Group = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,32}$")]
Step = Annotated[int, Field(ge=0, lt=2**53)]
Weight = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Loss = Annotated[float, Field(allow_inf_nan=False)] | None
Share = Annotated[float, Field(ge=0.0, le=SHARE_MAX, allow_inf_nan=False)]
Element = Annotated[int, Field(ge=0, lt=2**40)]
CheckedPart = tuple[Element, Element]
"""A `vector.Part` that comes off the wire."""
Streams = Annotated[int, Field(ge=1, le=LANES_MAX)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""BLAKE2b of 32 bytes, over the bytes of a part."""


def printable(text: str) -> str:
    """Without what moves a cursor or hides."""
    return "".join(c if c.isprintable() else "?" for c in text)


Text = Annotated[str, Field(max_length=200), AfterValidator(printable)]
"""A stranger's words; they end in logs and on terminals."""


class DeclineReason(str, Enum):
    """Why a peer does not exchange now. An answer, not an error."""

    BUSY = "busy"  # one exchange at a time
    LEAVING = "leaving"
    NOT_TRAINING = "not-training"  # no step ended in time to take a snapshot
    NOT_FINITE = "not-finite"  # its own parameters are broken
    OTHER_RUN = "other-run"
    OTHER_SCHEMA = "other-schema"
    OTHER_CODEC = "other-codec"
    OTHER_VERSION = "other-version"
    OTHER_RULE = "other-rule"  # in this run nobody offers
    DRAINED = "drained"  # by its operator
    NOT_CENTRE = "not-centre"  # the centre variable is elsewhere
    NO_SNAPSHOT = "no-snapshot"  # none of that peer is held here
    PACED = "paced"  # its budget of bandwidth or time is spent for now


class Stamp(Frozen):
    """How fresh a copy of the centre variable is: the term of its centre, and exchanges counted since the run began."""

    term: Annotated[int, Field(ge=0, le=TERM_MAX)] = 0
    clock: Annotated[int, Field(ge=0, le=CLOCK_MAX)] = 0

    @property
    def age(self) -> tuple[int, int]:
        """The greater, the fresher."""
        return self.term, self.clock

    def counted(self) -> Stamp:
        """One exchange later. Stays at the end of its range, where only a liar brings it."""
        return Stamp(term=self.term, clock=min(self.clock + 1, CLOCK_MAX))

    def next_term(self) -> Stamp:
        """The same value under the next centre."""
        return Stamp(term=min(self.term + 1, TERM_MAX), clock=self.clock)


class Apart(Frozen):
    """What stands behind the sender's parameters since it lost others: its steps, and the peers on its side.

    `merge`: the receiver is one of them, and they did not exchange since.
    """

    steps: Step
    peers: Annotated[int, Field(ge=1, le=PEERS_MAX)] = 1
    merge: bool = True


class Offer(Frozen):
    """The initiator's header. `apart` is there for a while after a partition. `centre` is there where its vector is a
    centre variable that it gives up, since another one stands. `last`: the sender leaves, and does not offer again.

    Vectors travel as `codec` says over `streams` streams, this one included; with a `part` only that part of them does.
    """

    version: Annotated[int, Field(ge=1, le=1000)] = PROTOCOL_VERSION
    id: ExchangeId
    peer: PeerId
    run: RunName
    schema_hash: SchemaHash
    elements: Annotated[int, Field(gt=0, lt=2**40)]
    codec: Annotated[str, Field(max_length=32)]
    step: Step
    loss: Loss
    weight: Weight
    share: Share = 0.0
    apart: Apart | None = None
    centre: Stamp | None = None
    part: CheckedPart | None = None
    streams: Streams = 1
    last: bool = False

    @model_validator(mode="after")
    def _a_part_of_the_vector(self) -> Offer:
        return _checked(self)


class Accept(Frozen):
    """The responder's header: the same facts of its own. `centre` is there where its vector is the centre variable.

    `streams`: over how many streams the vectors travel, as many as were offered or fewer. `waited`: how many seconds
    passed between the offer and this answer.
    """

    id: ExchangeId
    peer: PeerId
    schema_hash: SchemaHash
    step: Step
    loss: Loss
    weight: Weight
    share: Share = 0.0
    centre: Stamp | None = None
    apart: Apart | None = None
    streams: Streams = 1
    waited: Annotated[float, Field(ge=0.0, le=3600.0, allow_inf_nan=False)] = 0.0


class Lane(Frozen):
    """This stream is another one for the vectors of the exchange `id`: the `number`-th, its first one being 0."""

    id: ExchangeId
    number: Annotated[int, Field(ge=1, lt=LANES_MAX)]


class Decline(Frozen):
    """No, with a reason."""

    id: ExchangeId
    reason: DeclineReason
    detail: Text = ""


class Verified(Frozen):
    """All of the partner's numbers arrived, whole and finite."""

    id: ExchangeId


class Committed(Frozen):
    """The exchange took place."""

    id: ExchangeId


class Aborted(Frozen):
    """The exchange did not take place; nobody moves."""

    id: ExchangeId
    reason: Text


class Inquiry(Frozen):
    """Did this exchange take place? Asked by its initiator, who missed the last word."""

    id: ExchangeId


class Fetch(Frozen):
    """Give me the newest snapshot of `origin` that you hold, unless it is the one of its step `have`.

    With a `part`: give me that part of your own parameters (of the centre variable, where you hold it), as they were at
    your step `step` where you still have those, otherwise as they are now.
    """

    version: Annotated[int, Field(ge=1, le=1000)] = PROTOCOL_VERSION
    id: ExchangeId
    peer: PeerId
    run: RunName
    schema_hash: SchemaHash
    elements: Annotated[int, Field(gt=0, lt=2**40)]
    codec: Annotated[str, Field(max_length=32)]
    origin: PeerId
    have: Step | None = None
    part: CheckedPart | None = None
    step: Step | None = None

    @model_validator(mode="after")
    def _a_part_of_the_vector(self) -> Fetch:
        return _checked(self)


class Given(Frozen):
    """Here it is; the vector, or the part with this digest, follows. `centre`: it is the centre variable."""

    id: ExchangeId
    origin: PeerId
    step: Step
    loss: Loss
    digest: Digest | None = None
    centre: Stamp | None = None


class Unchanged(Frozen):
    """You have the newest one that is held here."""

    id: ExchangeId


class Referral(Frozen):
    """It was sent from here often enough; these have it too."""

    id: ExchangeId
    holders: Annotated[tuple[PeerId, ...], Field(min_length=1, max_length=4)]


class Tell(Frozen):
    """How well our training goes; answered by the same of the partner's. For choosing leaders."""

    id: ExchangeId
    peer: PeerId
    run: RunName
    step: Step
    loss: Loss


class Goodbye(Frozen):
    """We leave the run: choose us no more, whatever older records say.

    With `seconds` above 0 there is something to be taken from us, and we stay for so long: where `heir` is the one that
    we tell this, the centre variable, and with it our place; otherwise our parameters, by the run's rule. To all others
    `heir` says who has the centre variable now, as it was at the stamp `centre`.
    """

    id: ExchangeId
    peer: PeerId
    run: RunName
    sequence: Annotated[int, Field(ge=0, lt=2**53)]  # no record up to this one counts any more
    seconds: Annotated[float, Field(ge=0.0, le=STAY_SECONDS_MAX, allow_inf_nan=False)] = 0.0
    heir: PeerId | None = None
    centre: Stamp | None = None


class Heard(Frozen):
    """We know that you leave; `took`: and have what there was to be taken."""

    id: ExchangeId
    took: bool = False


Message = (
    Offer
    | Accept
    | Decline
    | Verified
    | Committed
    | Aborted
    | Inquiry
    | Fetch
    | Given
    | Unchanged
    | Referral
    | Tell
    | Goodbye
    | Heard
    | Lane
)
Request = TypeVar("Request", Offer, Fetch)


def _checked(asked: Request) -> Request:
    if asked.part is not None and not asked.part[0] < asked.part[1] <= asked.elements:
        raise ValueError("no part of the vector")
    return asked
