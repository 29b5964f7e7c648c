"""Answering fetches: parts of this peer's parameters for newcomers, and whole snapshots, which spread among peers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from p2p_elastic.parameters.vector import Part
from p2p_elastic.peers.exchange.snapshots import Snapshot
from p2p_elastic.peers.gossip.admission import Admission
from p2p_elastic.peers.lifecycle.donor import Donor, Shown
from p2p_elastic.peers.session.answers import Answers
from p2p_elastic.peers.session.conversation import Conversation
from p2p_elastic.peers.state.context import LocalContext
from p2p_elastic.peers.transport.interfaces import Stream
from p2p_elastic.protocol.chunks import Vectors
from p2p_elastic.protocol.codecs import seams_within
from p2p_elastic.protocol.exchange import give
from p2p_elastic.protocol.messages import Decline, DeclineReason, Fetch, Given, Referral, Unchanged

OUTGOING_MAX = 4  # snapshots on their way at the same time; those that readers are slowest to take are cut


class Giving:
    """Hands out parameters that stay as they are here. Belongs to the network thread.

    Args:
        local: this peer's side of any exchange.
        admission: says which askers are heard.
        donor: has the copy for newcomers.
    """

    def __init__(self, local: LocalContext, admission: Admission, donor: Donor) -> None:
        self._local, self._admission = local, admission
        self.donor = donor
        self._outgoing: list[tuple[Snapshot, Stream]] = []

    @property
    def outgoing(self) -> tuple[Snapshot, ...]:
        """The snapshots on their way, one for each reader: the same one may be there several times."""
        return tuple(snapshot for snapshot, _ in self._outgoing)

    def register(self, answers: Answers) -> None:
        """Register the answer to fetches.

        Args:
            answers: the table of the responder.
        """
        answers.register(Fetch, self.give)

    async def give(self, conversation: Conversation, asked: Fetch) -> None:
        """Give what is asked for, or say why not.

        Args:
            conversation: with the asker.
            asked: a part for a newcomer, or a snapshot.

        Raises:
            ExchangeError: if the asker is another one than it says, or if the conversation fails.
        """
        self._admission.identify(conversation, asked.peer)
        if await self._admission.declines(conversation, asked):
            return
        if asked.part is not None:
            await self._give_part(conversation, asked, asked.part)
        else:
            await self._give_snapshot(conversation, asked)

    async def _say_no(self, conversation: Conversation, asked: Fetch, reason: DeclineReason) -> None:
        await self._admission.say_no(conversation, Decline(id=asked.id, reason=reason))

    async def _give_snapshot(self, conversation: Conversation, asked: Fetch) -> None:
        """Hand out a snapshot that is held here, or name its holders. To members only: strangers take no places."""
        local = self._local
        snapshot = local.run.topology.snapshot_of(asked.origin) if local.members.may_be(asked.peer) else None
        if snapshot is None:
            await self._say_no(conversation, asked, DeclineReason.NO_SNAPSHOT)
        elif asked.have == snapshot.step:
            await conversation.send(Unchanged(id=asked.id))
        elif asked.peer == local.departure.awaited or (snapshot.may_send(asked.peer) and not local.pacing.closed()):
            await self._send_copy(conversation, asked, snapshot)
        elif holders := snapshot.refer(asked.peer, local.members.alive()):
            await conversation.send(Referral(id=asked.id, holders=holders))
        else:  # on its way to others
            reason = DeclineReason.PACED if local.pacing.closed() else DeclineReason.BUSY
            await self._say_no(conversation, asked, reason)

    async def _give_part(self, conversation: Conversation, asked: Fetch, part: Part) -> None:
        """Hand out a part of this peer's parameters, or of what all exchange with, to a member that joins late."""
        shown: Shown | DeclineReason = DeclineReason.NO_SNAPSHOT
        if asked.origin == self._local.peer:  # newcomers are let in beyond the budget, but not without end
            shown = DeclineReason.PACED if self._local.pacing.in_debt() else await self.donor.show(asked)
        if isinstance(shown, DeclineReason):
            await self._say_no(conversation, asked, shown)
            return
        with self._sending(conversation, shown.snapshot), self.donor.gives():
            given = self._met(conversation, asked, await self.donor.given(asked, shown, part))
            values, seams = shown.snapshot.vector[slice(*part)], seams_within(self._local.vector.seams, *part)
            await conversation.run(give(given, asked.direct), Vectors.sending(values, asked.codec, seams))

    async def _send_copy(self, conversation: Conversation, asked: Fetch, snapshot: Snapshot) -> None:
        with self._sending(conversation, snapshot):
            snapshot.tries[asked.peer] += 1
            given = Given(id=asked.id, origin=snapshot.origin, step=snapshot.step, loss=snapshot.loss)
            vectors = Vectors.sending(snapshot.vector, asked.codec, self._local.vector.seams)
            await conversation.run(give(self._met(conversation, asked, given), asked.direct), vectors)
            await conversation.until_closed()  # by then it is held there
            snapshot.holders.append(asked.peer)

    def _met(self, conversation: Conversation, asked: Fetch, given: Given) -> Given:
        """The header, with how the asker may be connected directly."""
        local, relayed = self._local, conversation.stream.relayed
        record = local.members.record_of(asked.peer)
        meeting = local.direct.answer(asked.direct, asked.peer, record, 1, relayed=relayed)
        return given.model_copy(update={"direct": conversation.carriers.meet(meeting)})

    @contextmanager
    def _sending(self, conversation: Conversation, snapshot: Snapshot) -> Iterator[None]:
        """While it is on its way it counts, and may be cut."""
        entry = snapshot, conversation.stream
        self._make_room(snapshot)
        self._outgoing.append(entry)
        snapshot.sending += 1
        try:
            yield
        finally:
            snapshot.sending -= 1
            self._outgoing.remove(entry)
            self._local.journal.gave(conversation.traffic)

    def _make_room(self, wanted: Snapshot) -> None:
        """Slow readers must not keep any number of old snapshots in memory."""
        others = list(dict.fromkeys(snapshot for snapshot, _ in self._outgoing if snapshot is not wanted))
        for oldest in others[: max(0, len(others) + 1 - OUTGOING_MAX)]:
            for snapshot, stream in self._outgoing:
                if snapshot is oldest:
                    stream.abort()
