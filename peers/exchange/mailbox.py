"""The place where the training thread and the network thread meet: one snapshot out, one move in.

    free --request--> wanted --step--> taking --> ready --deliver--> delivered --step--> free
    free ----------due step----------> taking
    wanted, taking, ready --release--> free

At most one exchange is under way per peer, so memory stays at one vector, which is first the snapshot and then, in
place, the move; at two if a partner's parameters are tried before the move. Parameters are read and changed only in
`between_steps`, which the training thread calls. A copy for newcomers (`show`) is apart from all that: it neither waits
for an exchange nor keeps one waiting.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor

from p2p_elastic.parameters.copying import Copying
from p2p_elastic.parameters.vector import ParameterVector, Part, place_of
from p2p_elastic.peers.exchange.lost_tensors import LostTensors
from p2p_elastic.peers.exchange.outer_steps import OuterSteps
from p2p_elastic.protocol.chunks import Places, Received, Vectors
from p2p_elastic.protocol.codecs import seams_within

OVERLAP_BYTES_MIN = 2**20  # a smaller snapshot is copied, and looked at, in a quarter of a millisecond


class State(Enum):
    """How far the one exchange is, between the two threads."""

    FREE = "free"
    WANTED = "wanted"  # the network asked for a snapshot
    TAKING = "taking"  # the training thread copies the parameters
    READY = "ready"  # `mine` holds a snapshot, or soon does: the network may read it after `arrive`
    DELIVERED = "delivered"  # `theirs` holds a move, the training thread adds it


Check = Callable[[], bool]
"""Says whether a move that was delivered shall be added; the training thread asks."""


class Settled(NamedTuple):
    """A move that was due to be added.

    Attributes:
        exchange_id: the exchange that it is of.
        staleness: how many steps after its snapshot.
        added: False if the check refused it.
        replaced: whether the model was replaced, whatever it was.
        copied: whether the move led all the way to a partner's parameters.
        healed: tensors that were replaced by a partner's, since they were not finite; places in the whole vector.
    """

    exchange_id: str
    staleness: int
    added: bool = True
    replaced: bool = False
    copied: bool = False
    healed: Places = ()


class Move(NamedTuple):
    """What the training thread is to add between two steps.

    Attributes:
        exchange_id: the exchange that it is of.
        delta: the difference to the partner, `[D]` or `[part]`.
        share: how much of it is added.
        check: asked just before whether to add it; None: it is added.
        replaces: `delta` is loaded as the model instead: to add something to what is not finite is no help.
        copied: it leads all the way to a partner's parameters.
        heals: tensors in it that are loaded instead of added.
    """

    exchange_id: str
    delta: Tensor
    share: float
    check: Check | None = None
    replaces: bool = False
    copied: bool = False
    heals: Places = ()


class Wanted(NamedTuple):
    """A copy for newcomers that was asked for.

    Attributes:
        out: where it goes, `[D]`.
        taken: called with the step after which it was made.
    """

    out: Tensor
    taken: Callable[[int], None]


class Mailbox:
    """The vectors and the state of the one exchange that may be under way.

    `mine` is the snapshot, `[D]`, or one `part` of it. If partners are compared, it is all of it, and a second vector
    beside
    it takes the partner's parameters, so that the two can be tried; from the next snapshot on.

    Args:
        vector: the model; it is made flat here.

    Attributes:
        lost: the tensors that are not finite.
        outer: the outer optimizer.
    """

    def __init__(self, vector: ParameterVector) -> None:
        vector.flatten()
        self._vector = vector
        self._compares = self._both = False
        self._mine = self._theirs = vector.empty(0)
        self.part: Part | None = None  # of the vector that is exchanged; None: all of it
        self._wanted_part: Part | None = None
        self.lost, self.outer = LostTensors(vector), OuterSteps(vector)
        self.snapshot_step = 0
        self._copying = Copying(0)
        self._delivered: Move | None = None
        self._wanted: Wanted | None = None
        self._state = State.FREE
        self._lock = threading.Condition()

    @property
    def state(self) -> State:
        """How far the exchange is."""
        return self._state

    @property
    def mine(self) -> Tensor:
        """This peer's snapshot: all of it, or what is exchanged."""
        return self._mine[: self._size()]

    @property
    def theirs(self) -> Tensor:
        """The place for a partner's parameters that are to be compared, `[D]`."""
        self._theirs = self._fit(self._theirs, self._vector.elements)
        return self._theirs

    def _size(self) -> int:
        return self._vector.elements if self._both or self.part is None else self.part[1] - self.part[0]

    def _fit(self, buffer: Tensor, size: int) -> Tensor:
        """Memory for `size` elements, without keeping much more than that."""
        return buffer if size <= len(buffer) <= 2 * size else self._vector.empty(size)

    def vectors(self, codec: str) -> Vectors:
        """Give the stream what travels in the exchange under way.

        Args:
            codec: by which both vectors travel.

        Returns:
            The snapshot or its part, which may still be copied; beside it, if partners are compared, room for the
            partner's.
        """
        seams = seams_within(self._vector.seams, *(self.part or (0, self._vector.elements)))
        copying = None if self.lost.looked else self._copying
        if not self._both:
            return Vectors.moving(self.mine, codec, seams, self.lost.places)._replace(copying=copying)
        if self.part is not None:
            self.theirs.copy_(self.mine)  # what does not travel is the same at both
        place, lost = place_of(self.part), self.lost.places
        return Vectors(self.mine[place], self.theirs[place], codec, seams=seams, lost=lost, copying=copying)

    @property
    def received(self) -> Tensor:
        """What was received, if it was kept beside the snapshot."""
        return self.theirs[place_of(self.part)]

    @property
    def both(self) -> Vectors | None:
        """Both models whole, in the exchange under way; None if they are not compared."""
        return Vectors(self.mine, self.theirs, lost=self.lost.places) if self._both else None

    def bring(self, values: Tensor) -> Received:
        """Take in a partner's parameters that are already here, as if they had been received.

        Args:
            values: the parameters, or the part of them that is exchanged.

        Returns:
            What a transfer of them would have reported.
        """
        if self._both:
            self.theirs.copy_(self.mine)
            self.theirs[place_of(self.part)] = values
        else:
            self.lost.blank_(self.mine)
            torch.sub(values, self.mine, out=self.mine)
        distance = 0.0 if self._both else float(torch.linalg.vector_norm(self.mine))
        return Received(zero=not bool(values.any()), distance=distance)

    def difference(self, received: Received) -> tuple[Tensor, float]:
        """Work out theirs minus mine, of what was exchanged; it overwrites what was received.

        Args:
            received: what the transfer reported.

        Returns:
            The difference, `[D]` or `[part]`, and its L2 norm over what is finite at both ends.
        """
        delta, distance = self.mine, received.distance
        if self._both:
            mine, delta = self.mine[place_of(self.part)], self.theirs[place_of(self.part)]
            self.lost.blank_(mine)
            delta.sub_(mine)
            distance = float(torch.linalg.vector_norm(delta))
        if received.left_out or self.lost.places:
            distance = self.lost.leave_out_(delta, received)
        return delta, distance

    @property
    def norm(self) -> float | None:
        """L2 norm of what this peer sent; None if what came took its place."""
        return float(torch.linalg.vector_norm(self.mine[place_of(self.part)])) if self._both else None

    # -- training thread ----------------------------------------------------------------------------------------------

    def between_steps(
        self,
        step: int,
        *,
        due: bool,
        settle: bool,
        published: Callable[[bool], None],
        part: Callable[[], Part | None] = lambda: None,
    ) -> Settled | None:
        """Add a delivered move, then take a snapshot if one is wanted or due. For the training thread.

        Args:
            step: how many steps are done.
            due: whether this peer begins an exchange after this step.
            settle: False if only snapshots are taken: during an evaluation the parameters must stand still.
            published: called when a snapshot was taken, with True if this peer is to initiate.
            part: gives the part of the vector that a due exchange moves; None: all of it.

        Returns:
            What was added; None if nothing was.
        """
        settled = self._settle(step) if settle and self._state is State.DELIVERED else None
        self.copy_for_newcomers(step)
        with self._lock:
            wanted = self._state is State.WANTED
            if not wanted and not (due and self._state is State.FREE):
                return settled
            self._state = State.TAKING
        self.part = self._wanted_part if wanted else part()
        self._both = self._compares
        self.lost.clear()
        self._mine = self._fit(self._mine, self._size())
        self.snapshot_step = step
        self._copying = copying = Copying(len(self.mine), self._vector.arrive)
        with self._lock:
            if self._state is not State.TAKING:  # given up meanwhile
                return settled
            self._state = State.READY
        published(not wanted)  # the offer goes out while the copy is made
        try:
            self._vector.begin_snapshot(self.mine, None if self._both else self.part, copying)
        except BaseException:
            copying.end(failed=True)
            raise
        copying.end()
        return settled

    def wait(self, seconds: float) -> None:
        """Sleep until `between_steps` has something to do for the network.

        Args:
            seconds: how long at most.
        """
        with self._lock:
            self._lock.wait_for(lambda: self.has_work, seconds)

    @property
    def has_work(self) -> bool:
        """Whether `between_steps` has something to do for the network. For any thread."""
        return self._wanted is not None or self._state is State.WANTED or self._state is State.DELIVERED

    def copy_for_newcomers(self, step: int) -> None:
        """Make the copy that `show` asked for, if any. For the training thread.

        Args:
            step: how many steps are done.
        """
        if self._wanted is None:  # what is wanted from now on is given after the next step
            return
        with self._lock:
            wanted, self._wanted = self._wanted, None
        if wanted is not None:
            self._vector.snapshot(wanted.out)
            wanted.taken(step)

    def _settle(self, step: int) -> Settled:
        move = self._delivered
        assert move is not None, "a move was delivered without a difference"
        added = move.check is None or move.check()
        if added and move.replaces:
            self._vector.load_(move.delta)
            self.lost.heal(None)
        elif added:
            self._vector.add_(move.delta, self.part, move.share)
        healed = self._heal(move) if added else ()
        if added:
            self._outer_step(move, healed)
        self._delivered = None
        settled = Settled(
            move.exchange_id,
            step - self.snapshot_step,
            added,
            replaced=added and move.replaces,
            copied=added and move.copied,
            healed=healed,
        )
        with self._lock:
            self._state = State.FREE
        return settled

    def _outer_step(self, move: Move, healed: Places) -> None:
        """The outer step after a move; it begins anew where a partner's parameters took the place of this peer's."""
        if move.replaces:
            self.outer.restart(None)
        elif move.copied or move.share >= 1.0:
            self.outer.restart(self.part)
        elif move.share > 0.0:
            self.outer.step(self.part)
        for place in healed:
            self.outer.restart(place)

    def _heal(self, move: Move) -> Places:
        """Load the tensors that were not finite; their places in the whole vector."""
        first = 0 if self.part is None else self.part[0]
        healed = tuple((first + start, first + stop) for start, stop in move.heals)
        for (start, stop), place in zip(move.heals, healed, strict=True):
            self._vector.load_(move.delta[start:stop], place)
        self.lost.heal(healed)
        return healed

    # -- network thread -----------------------------------------------------------------------------------------------

    def compare(self, on: bool) -> None:
        """From the next snapshot on, keep a partner's parameters beside the snapshot, or do not.

        Args:
            on: whether to keep them.
        """
        self._compares = on

    def show(self, out: Tensor, taken: Callable[[int], None]) -> None:
        """Ask for a copy of the parameters at the next step.

        Args:
            out: where it goes, `[D]`.
            taken: called by the training thread with the step after which the copy was made.
        """
        with self._lock:
            self._wanted = Wanted(out, taken)
            self._lock.notify()

    def request(self, part: Part | None = None) -> bool:
        """Ask for a snapshot at the next step.

        Args:
            part: of the vector, that the exchange moves; None: all of it.

        Returns:
            False if an exchange is under way.
        """
        with self._lock:
            if self._state is not State.FREE:
                return False
            self._state, self._wanted_part = State.WANTED, part
            self._lock.notify()
            return True

    def release(self) -> None:
        """Give up the exchange under way: neither end moves. A move that was delivered stays."""
        with self._lock:
            if self._state is not State.DELIVERED:
                self._state = State.FREE

    @property
    def overlaps(self) -> bool:
        """Whether what is exchanged may be sent while it is copied: if it is large, and in the order of the copy."""
        return self.mine.nbytes >= OVERLAP_BYTES_MIN and not (self._both and self.part is not None)

    @property
    def has_arrived(self) -> bool:
        """Whether the snapshot that was taken is whole: it may still be copied, or be on its way from a GPU."""
        return self._copying.done and self._vector.has_arrived

    def arrive(self) -> None:
        """Wait until the snapshot is whole."""
        self._copying.wait()

    def deliver(self, move: Move) -> None:
        """Hand a move to the training thread, which adds it between two steps.

        Args:
            move: the move.
        """
        move = move._replace(delta=self._vector.bring(move.delta))
        with self._lock:
            assert self._state is State.READY, f"a move delivered while {self._state.value}"
            self._delivered = move
            self._state = State.DELIVERED  # last: the training thread looks at it without the lock
            self._lock.notify()
