"""The messages that two peers send each other: every field is checked before it is believed."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, model_validator

from p2p_elastic.common.addresses import CHARACTERS_MAX
from p2p_elastic.protocol.limits import LANES_MAX
from p2p_elastic.values import Frozen

PROTOCOL_VERSION = 4
TERM_MAX, CLOCK_MAX, SHARE_MAX = 2**31 - 1, 2**53 - 1, 2.0**20
STAY_SECONDS_MAX = 60.0
PEERS_MAX = 2**20
SCHEMA_BYTES_MAX = 8 * 2**20

ExchangeId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
PeerId = Annotated[str, Field(min_length=1, max_length=128)]
Address = Annotated[str, Field(pattern=rf"^/[!-~]{{1,{CHARACTERS_MAX - 1}}}$")]
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
Token = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
"""128 random bits."""
Secret = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""256 random bits."""
Port = Annotated[int, Field(ge=1, le=65535)]
HOST_MAX = 45  # characters of an IPv6 address
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""BLAKE2b of 32 bytes, over the bytes of a part."""


def printable(text: str) -> str:
    r"""Replace what moves a cursor or hides.

    Args:
        text: a stranger's words.

    Returns:
        The text, with "?" for each character that is not printable.

    Example:
        >>> printable("a\nb")
        'a?b'
    """
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
    OTHER_RULE = "other-rule"  # by this run's rule no peer offers
    DRAINED = "drained"  # by its operator
    NOT_CENTRE = "not-centre"  # the centre variable is elsewhere
    NO_SNAPSHOT = "no-snapshot"  # none of that peer is held here
    NOT_ADMITTED = "not-admitted"  # its ticket does not allow that, in a private run
    PACED = "paced"  # its budget of bandwidth or time is spent for now


class Stamp(Frozen):
    """How fresh a copy of the centre variable is."""

    term: Annotated[int, Field(ge=0, le=TERM_MAX)] = Field(
        default=0, description="of its centre; it grows each time the centre moves to another peer"
    )
    clock: Annotated[int, Field(ge=0, le=CLOCK_MAX)] = Field(
        default=0, description="exchanges counted since the run began"
    )

    @property
    def age(self) -> tuple[int, int]:
        """Terms and exchanges: the greater, the fresher."""
        return self.term, self.clock

    def counted(self) -> Stamp:
        """Count one exchange.

        Returns:
            The next stamp. It stays at the end of its range, which only a liar's stamp reaches.
        """
        return Stamp(term=self.term, clock=min(self.clock + 1, CLOCK_MAX))

    def next_term(self) -> Stamp:
        """Stamp the same value under the next centre.

        Returns:
            The stamp.

        Example:
            >>> Stamp(term=1, clock=7).next_term().age
            (2, 7)
        """
        return Stamp(term=min(self.term + 1, TERM_MAX), clock=self.clock)


class Direct(Frozen):
    """How direct connections between the sender and the receiver may be had, beside libp2p, for one meeting.

    It travels over streams on which libp2p has proven both ends, encrypted: so who knows the secrets is the partner.
    """

    secret: Secret = Field(repr=False, description="the sender's half of what the keys are made of")
    aes: bool = Field(description="whether AES is fast at the sender; if not at both ends, ChaCha20 is used")
    token: Token = Field(description="what a dialler of the sender shows first, once for each connection")
    port: Port | None = Field(
        default=None, description="TCP, at the hosts of the sender's record; None: the sender cannot be dialled"
    )
    dials: bool = Field(description="of the end that asks: whether it may dial; of the other: whether it does")
    outside: Annotated[str, Field(max_length=HOST_MAX)] | None = Field(
        default=None,
        description="the IP address at which a relay sees the sender; both ends dial, each from the port that it tells",
    )
    held: Annotated[tuple[Token, ...], Field(max_length=LANES_MAX)] = Field(
        default=(), description="connections to the receiver from earlier, still open; in an answer: those to be used"
    )


class Apart(Frozen):
    """What stands behind the sender's parameters since a partition cut it off from others."""

    steps: Step = Field(description="its own steps since then")
    peers: Annotated[int, Field(ge=1, le=PEERS_MAX)] = Field(default=1, description="the peers on its side")
    merge: bool = Field(
        default=True,
        description="whether the receiver is one of those that it lost, and the two did not exchange since",
    )


class Offer(Frozen):
    """The initiator's header.

    Vectors travel as `codec` says over `streams` streams, this one included; with a `part` only that part of them does.
    """

    version: Annotated[int, Field(ge=1, le=1000)] = Field(default=PROTOCOL_VERSION, description="of this protocol")
    id: ExchangeId = Field(description="of the exchange, chosen by the initiator")
    peer: PeerId = Field(description="the initiator's peer id")
    run: RunName = Field(description="the run that it trains")
    schema_hash: SchemaHash = Field(description="of its model")
    elements: Annotated[int, Field(gt=0, lt=2**40)] = Field(description="D, of its whole vector")
    codec: Annotated[str, Field(max_length=32)] = Field(description="how the vectors are encoded")
    step: Step = Field(description="at which its snapshot was taken")
    loss: Loss = Field(description="its training loss in nats; None before it has one")
    weight: Weight = Field(description="how much its parameters count, 0 to 1")
    share: Share = Field(default=0.0, description="what it gives away of its sum weight (GoSGD)")
    apart: Apart | None = Field(
        default=None, description="what stands behind its parameters; there for a while after a partition"
    )
    centre: Stamp | None = Field(
        default=None, description="there if its vector is a centre variable that it gives up, since another one stands"
    )
    part: CheckedPart | None = Field(default=None, description="the elements that travel; None: all")
    streams: Streams = Field(default=1, description="over how many the vectors may travel")
    last: bool = Field(default=False, description="the sender leaves, and does not offer again")
    direct: Direct | None = Field(default=None, description="how vectors may travel beside libp2p; None: not")

    @model_validator(mode="after")
    def _a_part_of_the_vector(self) -> Offer:
        return _checked(self)


class Accept(Frozen):
    """The responder's header: the same facts about itself."""

    id: ExchangeId = Field(description="of the exchange, as offered")
    peer: PeerId = Field(description="the responder's peer id")
    schema_hash: SchemaHash = Field(description="of its model")
    step: Step = Field(description="at which its snapshot was taken")
    loss: Loss = Field(description="its training loss in nats; None before it has one")
    weight: Weight = Field(description="how much its parameters count, 0 to 1")
    share: Share = Field(default=0.0, description="of its sum weight (GoSGD)")
    centre: Stamp | None = Field(default=None, description="there if its vector is the centre variable")
    apart: Apart | None = Field(
        default=None, description="what stands behind its parameters; there for a while after a partition"
    )
    streams: Streams = Field(
        default=1, description="over how many streams the vectors travel, as many as were offered or fewer"
    )
    waited: Annotated[float, Field(ge=0.0, le=3600.0, allow_inf_nan=False)] = Field(
        default=0.0, description="seconds between the offer and this answer"
    )
    direct: Direct | None = Field(default=None, description="as offered; None: vectors travel over libp2p")


class Route(Frozen):
    """Which way the vectors travel; the end that asked says so, if both ends can be connected directly."""

    id: ExchangeId = Field(description="of the exchange or the question")
    direct: bool = Field(description="whether they travel over direct connections, which are there; else over libp2p")


class Lane(Frozen):
    """This stream is another one for the vectors of an exchange."""

    id: ExchangeId = Field(description="of the exchange")
    number: Annotated[int, Field(ge=1, lt=LANES_MAX)] = Field(description="of this stream; the first one is 0")


class Decline(Frozen):
    """No, with a reason."""

    id: ExchangeId = Field(description="of what was asked")
    reason: DeclineReason = Field(description="for programs")
    detail: Text = Field(default="", description="for people")


class Verified(Frozen):
    """All of the partner's numbers arrived, whole and finite."""

    id: ExchangeId = Field(description="of the exchange")


class Committed(Frozen):
    """The exchange took place."""

    id: ExchangeId = Field(description="of the exchange")


class Aborted(Frozen):
    """The exchange did not take place; neither end moves."""

    id: ExchangeId = Field(description="of the exchange")
    reason: Text = Field(description="for people")


class Inquiry(Frozen):
    """Did this exchange take place? Asked by its initiator, if it missed the last word."""

    id: ExchangeId = Field(description="of the exchange")


class Fetch(Frozen):
    """Give me the newest snapshot of `origin` that you hold, unless it is the one of its step `have`.

    With a `part`: give me that part of your own parameters (of the centre variable, if you hold it), as they were at
    your step `step` if you still have those, otherwise as they are now.
    """

    version: Annotated[int, Field(ge=1, le=1000)] = Field(default=PROTOCOL_VERSION, description="of this protocol")
    id: ExchangeId = Field(description="of this question")
    peer: PeerId = Field(description="the asker's peer id")
    run: RunName = Field(description="the run that it trains")
    schema_hash: SchemaHash = Field(description="of its model")
    elements: Annotated[int, Field(gt=0, lt=2**40)] = Field(description="D, of its whole vector")
    codec: Annotated[str, Field(max_length=32)] = Field(description="how the vector is to be encoded")
    origin: PeerId = Field(description="the peer whose parameters are wanted")
    have: Step | None = Field(default=None, description="the step of the snapshot that the asker has; None: none")
    part: CheckedPart | None = Field(default=None, description="the elements that are wanted; None: all")
    step: Step | None = Field(
        default=None, description="the holder's step of the parts that the asker has already; None for the first"
    )
    direct: Direct | None = Field(default=None, description="how the vector may travel beside libp2p; None: not")

    @model_validator(mode="after")
    def _a_part_of_the_vector(self) -> Fetch:
        return _checked(self)


class Given(Frozen):
    """Here it is; the vector, or the part with this digest, follows."""

    id: ExchangeId = Field(description="of the question")
    origin: PeerId = Field(description="the peer whose parameters these are")
    step: Step = Field(description="at which they were taken")
    loss: Loss = Field(description="its training loss in nats at that step; None before it has one")
    digest: Digest | None = Field(default=None, description="of the part's bytes; None for a whole snapshot")
    centre: Stamp | None = Field(default=None, description="there if it is the centre variable")
    direct: Direct | None = Field(default=None, description="as asked; None: the vector travels over libp2p")


class Unchanged(Frozen):
    """You have the newest one that is held here."""

    id: ExchangeId = Field(description="of the question")


class Referral(Frozen):
    """It was sent from here often enough; these have it too."""

    id: ExchangeId = Field(description="of the question")
    holders: Annotated[tuple[PeerId, ...], Field(min_length=1, max_length=4)] = Field(description="their peer ids")


class Tell(Frozen):
    """How well the sender's training goes; answered by the same of the receiver's. For choosing leaders."""

    id: ExchangeId = Field(description="of this question, the same in the answer")
    peer: PeerId = Field(description="the sender's peer id")
    run: RunName = Field(description="the run that it trains")
    step: Step = Field(description="how far it is")
    loss: Loss = Field(description="its training loss in nats; None before it has one")


class Goodbye(Frozen):
    """The sender leaves the run: do not choose it any more, whatever older records say.

    With `seconds` above 0 there is something to be taken from the sender, and it stays for that time. If `heir` is the
    receiver, that is the centre variable, and with it the sender's place; otherwise the sender's parameters, by the
    run's rule. To all others `heir` says which peer has the centre variable now, as it was at the stamp `centre`.
    """

    id: ExchangeId = Field(description="of this message, the same in the answer")
    peer: PeerId = Field(description="the sender's peer id")
    run: RunName = Field(description="the run that it leaves")
    sequence: Annotated[int, Field(ge=0, lt=2**53)] = Field(
        description="no record of the sender up to this number counts any more"
    )
    seconds: Annotated[float, Field(ge=0.0, le=STAY_SECONDS_MAX, allow_inf_nan=False)] = Field(
        default=0.0, description="how long it stays for the receiver; 0: it does not"
    )
    heir: PeerId | None = Field(default=None, description="the peer that gets, or has, the centre variable; None: none")
    centre: Stamp | None = Field(default=None, description="how fresh the variable is; None without one")


class Describe(Frozen):
    """Send me the schema of your model, which I know by its hash only."""

    version: Annotated[int, Field(ge=1, le=1000)] = Field(default=PROTOCOL_VERSION, description="of this protocol")
    id: ExchangeId = Field(description="of this question")
    peer: PeerId = Field(description="the asker's peer id")
    run: RunName = Field(description="the run that it trains")
    schema_hash: SchemaHash = Field(description="of the schema, as the receiver announced it")


class Described(Frozen):
    """Here it is: JSON follows, in chunks."""

    id: ExchangeId = Field(description="of the question")
    nbytes: Annotated[int, Field(ge=1, le=SCHEMA_BYTES_MAX)] = Field(description="length of the JSON")


class Heard(Frozen):
    """The receiver of a Goodbye knows that its sender leaves."""

    id: ExchangeId = Field(description="of the Goodbye")
    took: bool = Field(default=False, description="whether it has what there was to be taken")


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
    | Route
    | Describe
    | Described
)
Request = TypeVar("Request", Offer, Fetch)


def _checked(asked: Request) -> Request:
    if asked.part is not None and not asked.part[0] < asked.part[1] <= asked.elements:
        raise ValueError("no part of the vector")
    return asked
