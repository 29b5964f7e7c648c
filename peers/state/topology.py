"""What a topology decides for a peer: with whom it exchanges, and what the others need it for.

Each topology is one class that implements `Strategy`, whose methods do what is right for peers that train alone; it
overrides those of its concern. `topologies.py` has the table of them. Everything here belongs to the network thread,
unless it says otherwise.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from torch import Tensor

from p2p_elastic.health.trust import Verdict
from p2p_elastic.peers.exchange.journal import Skip
from p2p_elastic.peers.exchange.snapshots import Snapshot
from p2p_elastic.peers.membership.healthy import by_loss, healthy
from p2p_elastic.peers.membership.newcomer import CaughtUp
from p2p_elastic.peers.state.endpoint import Endpoint
from p2p_elastic.peers.state.peer_memory import PeerMemory
from p2p_elastic.protocol.exchange import Result
from p2p_elastic.protocol.messages import DeclineReason, Given, Goodbye, Heard, Stamp
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.status.schema import CentreStatus, LeaderStatus

Errand = Literal["exchange", "global"]  # the latter with the best of all groups
Announce = Callable[[], Awaitable[None]]
"""Makes this peer's record known. Raises DirectoryError."""
OfferPlace = Callable[[PeerRecord, int, Mapping[str, Any]], Awaitable[Heard | None]]
"""(heir, number of members that failed before, what its goodbye says) -> its answer; None if there is none in time."""


class Reference(NamedTuple):
    """A model that all exchange with, and how fresh it is.

    Attributes:
        snapshot: the model.
        stamp: its term and clock.
    """

    snapshot: Snapshot
    stamp: Stamp


class TopologyStatus(NamedTuple):
    """What people see of a topology; None in the fields of the others.

    Attributes:
        centre: the centre variable and its holder.
        leader: whom this peer follows, and whom it does not believe.
    """

    centre: CentreStatus | None = None
    leader: LeaderStatus | None = None


class Asking(Protocol):
    """The exchanges that this peer begins."""

    def due(self, step: int, coin: random.Random) -> Iterator[Errand]:
        """Say what is to be done after a step. For the training thread.

        Args:
            step: optimizer steps so far.
            coin: the random numbers of the schedule.

        Returns:
            The errands, in this order.
        """
        return iter(())

    async def run_due(self, errand: Errand) -> float | None:
        """Do what is due. When it returns, a move is waiting or the mailbox is free again.

        Args:
            errand: which of those that `due` named.

        Returns:
            In how many seconds it is to be begun again; None: it is done, or given up.
        """
        return None

    def next_partner(self, tried: set[str]) -> PeerRecord | None:
        """Choose the partner to ask.

        Args:
            tried: ids of those that are not to be asked.

        Returns:
            Its record; None if no other is there.
        """
        return None

    @property
    def here(self) -> bool:
        """Whether what all exchange with is at this peer: it is met without a stream. For any thread."""
        return False

    async def meet_here(self) -> str | None:
        """Exchange with what is `here`.

        Returns:
            Why no move is waiting; None if one is.
        """
        return "nothing is here"

    @property
    def refused_as(self) -> Skip:
        """What a move that the training thread's check refused is counted as."""
        return "leader not believed"  # the only one whose moves are checked

    def exchanged(self, result: Result) -> None:
        """Take in an exchange that this peer began and that completed; what came is in the mailbox still.

        Args:
            result: with the facts of both ends.
        """
        return


class Answering(Protocol):
    """What others ask this peer for."""

    def endpoint(self) -> Endpoint | None:
        """Give the end of an exchange that an offer is for.

        Returns:
            The endpoint; None if nobody offers in this topology.
        """
        return None

    def snapshot_of(self, origin: str) -> Snapshot | None:
        """Find a snapshot for a member that asks for it.

        Args:
            origin: the peer whose parameters it has.

        Returns:
            The newest one that is held here; None if there is none.
        """
        return None

    def told(self, peer: str, loss: float | None, now: float) -> None:
        """Take in the loss that a member told.

        Args:
            peer, loss: its id, and its loss in nats; None if it has none.
            now: seconds of the event loop's clock.
        """
        return

    @property
    def compares(self) -> bool:
        """Whether a partner's parameters are kept beside this peer's, whole, during an exchange."""
        return False

    @property
    def waits_for_steps(self) -> bool:
        """Whether a partner answers an offer only between two steps of its own."""
        return True


class Joining(Protocol):
    """What newcomers begin with, here and at others."""

    @property
    def why_alone(self) -> str | None:
        """Why a newcomer copies no other peer; None if it does."""
        return None

    def donors(self, candidates: Sequence[PeerRecord]) -> list[PeerRecord]:
        """Choose the members that a newcomer can copy.

        Args:
            candidates: members that are ahead.

        Returns:
            Those to ask, the best first.
        """
        return by_loss(healthy(candidates))

    @property
    def one_donor(self) -> bool:
        """Whether parts of several donors make no sense together."""
        return True

    def objection_to(self, given: Given) -> DeclineReason | None:
        """Say why what a donor gives will not do.

        Args:
            given: the header of a part.

        Returns:
            The reason; None if it will do.
        """
        return None

    def caught_up(self, found: CaughtUp) -> None:
        """Take in what this peer begins with.

        Args:
            found: the parameters, and what they are.
        """
        return

    def reference(self) -> Reference | None:
        """Give what newcomers get instead of this peer's own parameters.

        Returns:
            What all exchange with; None if that is not here.
        """
        return None


class Leaving(Protocol):
    """What this peer hands over when it leaves, and what it takes over from others that leave."""

    @property
    def hands_parameters(self) -> bool:
        """Whether others can use the last parameters of this peer."""
        return False

    @property
    def asks_again(self) -> Collection[DeclineReason]:
        """Beside `busy`, the answers of a partner after which a leaver asks it once more."""
        return ()

    def taker(self, tried: set[str]) -> PeerRecord | None:
        """Choose the member that is to have this peer's last parameters.

        Args:
            tried: ids of those that are not to be asked.

        Returns:
            Its record; None if no other is there.
        """
        return None

    async def hand_place(self, offer: OfferPlace, tries: int) -> Mapping[str, Any]:
        """Let another member have what is `here`.

        Args:
            offer: offers it to one member.
            tries: members that may fail to answer.

        Returns:
            What the status of this peer's farewell says of it.
        """
        return {}

    def goodbye(self) -> Mapping[str, Any]:
        """Say what this peer's goodbye tells beside that it leaves.

        Returns:
            Fields of `Goodbye`.
        """
        return {}

    async def inherit(self, goodbye: Goodbye) -> bool:
        """Take over the place that a member which leaves offers to this peer.

        Args:
            goodbye: of that member.

        Returns:
            Whether that came about.
        """
        return False

    def left(self, goodbye: Goodbye) -> None:
        """Take in that a member left; it is not among the members any more.

        Args:
            goodbye: of that member.
        """
        return


class Watching(Protocol):
    """What follows from which members are there."""

    async def look(self, announce: Announce) -> None:
        """Judge anew, after the members or this peer changed.

        Args:
            announce: makes known what that changes in this peer's record.

        Raises:
            DirectoryError: if it could not be announced.
        """
        return

    def claim(self) -> Mapping[str, Any]:
        """Say what this peer's record tells beside what every peer's does.

        Returns:
            Fields of `PeerRecord`.
        """
        return {}

    @property
    def pending(self) -> bool:
        """Whether there is something to `attend` to."""
        return False

    async def attend(self) -> None:
        """Try once to do what is `pending`; after an announcement it is tried again, until nothing is."""
        return

    async def stand_by(self) -> None:
        """Once per announcement, at a peer that does not train: keep fresh what it is to take over."""
        return


class Keeping(Protocol):
    """What is kept over a restart, and shown."""

    def memory(self) -> Mapping[str, Any]:
        """Gather what is kept of this topology over a restart. For the training thread.

        Returns:
            Fields of `PeerMemory`.
        """
        return {}

    def recall(self, memory: PeerMemory, value: Tensor | None) -> None:
        """Go on from what was kept over a restart, before the peer runs.

        Args:
            memory: with the fields of this topology.
            value: what `value` gave then [D]; None if it was not kept.
        """
        return

    def value(self) -> Tensor | None:
        """Copy what all exchange with, as it is known here.

        Returns:
            The copy [D]; None if there is no such thing.
        """
        return None

    def status(self, now: float) -> TopologyStatus:
        """Say what people see of this topology. For any thread.

        Args:
            now: seconds of the event loop's clock.

        Returns:
            None in the fields of other topologies.
        """
        return TopologyStatus()

    def verdicts(self) -> Mapping[str, Verdict]:
        """Say how the partners that exchange with what is `here` are judged. For any thread.

        Returns:
            Peer -> the last verdict; empty if nothing is here.
        """
        return {}


class Strategy(Asking, Answering, Joining, Leaving, Watching, Keeping, Protocol):
    """All that a peer asks of its topology."""


class Undecided(Strategy):
    """The strategy of a peer that is being put together: it begins and answers nothing."""
