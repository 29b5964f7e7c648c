"""Giving this peer's parameters, in parts, to late joiners: one copy for all that come within a few seconds."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import torch

from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.parameters.vector import Part
from p2p_elastic.peers.exchange.snapshots import Snapshot
from p2p_elastic.peers.lifecycle.download import digest_of
from p2p_elastic.peers.membership.periodic import attempt
from p2p_elastic.peers.session.conversation import Limits
from p2p_elastic.peers.state.context import LocalContext
from p2p_elastic.protocol.chunks import bytes_of
from p2p_elastic.protocol.messages import DeclineReason, Fetch, Given, Stamp

FRESH_SECONDS = 10.0  # all newcomers within this time get the same copy
HELD_SECONDS = 10.0  # after its last use it is dropped: the memory of a vector
STRANGER_REFRESH_SECONDS = 1.0  # between two times that the directory is read for the sake of strangers
GIVEN_MAX = 16  # parts on their way at the same time; a peer that asks meanwhile is asked to come back
DIGESTS_MAX = 1024


@dataclass(eq=False)
class Shown:
    """A copy of this peer's parameters, or of what all exchange with, that is held for newcomers.

    Attributes:
        snapshot: the copy.
        taken_at: when it was taken, in monotonic seconds.
        stamp: how fresh it is, if it is the centre variable.
        digests: part -> digest, of those that were asked for; DIGESTS_MAX at most.
    """

    snapshot: Snapshot
    taken_at: float
    stamp: Stamp | None = None
    digests: dict[Part, str] = field(default_factory=dict)

    @functools.cached_property
    def finite(self) -> bool:
        """Whether it may be shown; looked at once, not for each part.

        Returns:
            False if a parameter is not finite.
        """
        return bool(torch.isfinite(self.snapshot.vector.sum()))

    async def digest(self, part: Part) -> str:
        """Digest a part; computed once.

        Args:
            part: of the copy.

        Returns:
            As `digest_of` has it.
        """
        known = self.digests.get(part)
        if known is not None:
            return known
        found = await digest_of(bytes_of(self.snapshot.vector[slice(*part)]))
        if len(self.digests) < DIGESTS_MAX:  # parts of odd sizes must not fill the memory
            self.digests[part] = found
        return found


class Donor:
    """What this peer shows to newcomers. Belongs to the network thread.

    Args:
        local: this peer's side of any exchange.
        limits: how long a newcomer waits for the copy.
        look: reads the directory anew.
    """

    def __init__(self, local: LocalContext, limits: Limits, look: Callable[[], Awaitable[None]]) -> None:
        self._local, self._limits, self._look = local, limits, look
        self._held: Shown | None = None
        self._taken = asyncio.Event()
        self._asked_at: float | None = None  # a copy is wanted since then
        self._drop: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = float("-inf")
        self._giving = 0

    @property
    def held(self) -> bool:
        """Whether a copy takes up memory now."""
        return self._held is not None

    @property
    def giving(self) -> int:
        """How many parts are on their way, GIVEN_MAX at most."""
        return self._giving

    async def show(self, asked: Fetch) -> Shown | DeclineReason:
        """Choose what a member gets a part of, and take a new copy if there is none that is fresh.

        Args:
            asked: which part, and of which step if the member began with that.

        Returns:
            The copy, or why the member gets nothing.
        """
        if not await self._is_member(asked.peer):
            return DeclineReason.NO_SNAPSHOT
        if self._giving >= GIVEN_MAX:
            return DeclineReason.BUSY
        if not self._counts():
            return DeclineReason.NO_SNAPSHOT
        now = asyncio.get_running_loop().time()
        held = self._held
        if held is None or (now - held.taken_at > FRESH_SECONDS and asked.step != held.snapshot.step):
            held = await self._take()
        if held is None:
            return DeclineReason.NOT_TRAINING
        if not held.finite:
            self._held = None
            return DeclineReason.NOT_FINITE
        if self._giving >= GIVEN_MAX:  # all that waited for the copy come at once
            return DeclineReason.BUSY
        self._keep_for_a_while()
        return held

    @contextlib.contextmanager
    def gives(self) -> Iterator[None]:
        """Count a part while it is on its way, and hold the copy until then.

        Yields:
            Nothing.
        """
        self._giving += 1
        try:
            yield
        finally:
            self._giving -= 1
            self._keep_for_a_while()

    async def given(self, asked: Fetch, shown: Shown, part: Part) -> Given:
        """Build the header that goes before a part.

        Args:
            asked: what it answers.
            shown: the copy.
            part: of the copy.

        Returns:
            The header, with the digest of the part.
        """
        snapshot, digest = shown.snapshot, await shown.digest(part)
        return Given(
            id=asked.id,
            origin=snapshot.origin,
            step=snapshot.step,
            loss=snapshot.loss,
            digest=digest,
            centre=shown.stamp,
        )

    def _counts(self) -> bool:
        """Whether this peer is copied: if it counts, or holds what all exchange with, which is the swarm's."""
        return self._local.run.topology.here or self._local.own.weight > 0.0

    async def _is_member(self, peer: str) -> bool:
        """Whether a peer may be a member. If it is unknown the directory is read anew: a look serves all that wait."""
        if not self._local.members.may_be(peer):
            if self._looking is None or self._looking.done():
                self._looking = asyncio.ensure_future(self._look_soon())
            await asyncio.shield(self._looking)
        return self._local.members.may_be(peer)

    async def _look_soon(self) -> None:
        now = asyncio.get_running_loop().time
        await asyncio.sleep(max(0.0, self._looked_at + STRANGER_REFRESH_SECONDS - now()))
        self._looked_at = now()
        await attempt(self._look)

    async def _take(self) -> Shown | None:
        """A new copy, made between two steps; None if no step ends in time (the copy may still come, for later)."""
        local, loop = self._local, asyncio.get_running_loop()
        reference = local.run.topology.reference()
        if reference is not None:
            self._held = Shown(reference.snapshot, loop.time(), reference.stamp)
            return self._held
        if self._asked_at is None:
            self._asked_at = loop.time()
            self._taken.clear()
            self._ask(loop)
        try:
            await wait_for(self._taken.wait(), self._limits.snapshot_seconds)
        except asyncio.TimeoutError:
            return None
        return self._held

    def _ask(self, loop: asyncio.AbstractEventLoop) -> None:
        out = self._local.vector.empty()

        def taken(step: int) -> None:
            loss = self._local.own.loss()
            with contextlib.suppress(RuntimeError):  # the network ended before training did
                loop.call_soon_threadsafe(lambda: store(step, loss))

        def store(step: int, loss: float | None) -> None:
            self._held = Shown(Snapshot(self._local.peer, step, loss, out), loop.time())
            self._asked_at = None
            self._keep_for_a_while()
            self._taken.set()

        self._local.slot.mailbox.show(out, taken)

    def _keep_for_a_while(self) -> None:
        if self._drop is not None:
            self._drop.cancel()
        self._drop = asyncio.get_running_loop().call_later(HELD_SECONDS, self._forget)

    def _forget(self) -> None:
        if self._giving == 0:
            self._held = None
        else:
            self._keep_for_a_while()
