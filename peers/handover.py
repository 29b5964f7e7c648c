"""Where the training thread and the network thread meet: one snapshot out, one move in.

    free --request--> wanted --step--> taking --> ready --deliver--> delivered --step--> free
    free ----------due step----------> taking
    wanted, taking, ready --release--> free

At most one exchange is under way per peer, so memory stays at two vectors. Parameters are read and changed only in
`between_steps`, which the training thread calls. A copy for newcomers (`show`) is apart from all that: it neither waits
for an exchange nor keeps one waiting.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from torch import Tensor

from p2p_elastic.vector import ParameterVector


class State(Enum):
    FREE = "free"
    WANTED = "wanted"  # the network asked for a snapshot
    TAKING = "taking"  # the training thread copies the parameters
    READY = "ready"  # `mine` holds a snapshot, the network may read it
    DELIVERED = "delivered"  # `theirs` holds a move, the training thread adds it


Check = Callable[[], bool]
"""Asked by the training thread whether a move that was delivered shall be added."""


class Settled(NamedTuple):
    """A move that was added, or not: of which exchange, and how many steps after its snapshot."""

    exchange_id: str
    staleness: int
    added: bool = True
    replaced: bool = False  # the model was replaced, whatever it was
    copied: bool = False  # the move led all the way to a partner's parameters


class Wanted(NamedTuple):
    """A copy for newcomers: where it goes [D], and who hears of the step that it was made after."""

    out: Tensor
    taken: Callable[[int], None]


class Handover:
    """Two vectors [D] and the state of the one exchange that may be under way."""

    def __init__(self, vector: ParameterVector) -> None:
        self._vector = vector
        self.mine, self.theirs = vector.snapshot(vector.empty()), vector.empty()
        self.snapshot_step = 0
        self._delivered_id = ""
        self._check: Check | None = None
        self._replaces = self._copied = False
        self._wanted: Wanted | None = None
        self._state = State.FREE
        self._lock = threading.Lock()

    @property
    def state(self) -> State:
        return self._state

    # -- training thread ----------------------------------------------------------------------------------------------

    def between_steps(self, step: int, *, due: bool, settle: bool, published: Callable[[bool], None]) -> Settled | None:
        """Add a delivered move, then take a snapshot where one is wanted or `due`.

        Returns what was added, None where nothing was. `published(due)` is called when a snapshot was taken; its
        argument says whether we are to initiate. With `settle` false only snapshots are taken: during an evaluation the
        parameters must stand still.
        """
        settled = self._settle(step) if settle and self._state is State.DELIVERED else None
        self.copy_for_newcomers(step)
        with self._lock:
            wanted = self._state is State.WANTED
            if not wanted and not (due and self._state is State.FREE):
                return settled
            self._state = State.TAKING
        self._vector.snapshot(self.mine)  # not under the lock: the network thread must not wait for a copy
        self.snapshot_step = step
        with self._lock:
            if self._state is not State.TAKING:  # given up meanwhile
                return settled
            self._state = State.READY
        published(not wanted)
        return settled

    def copy_for_newcomers(self, step: int) -> None:
        """Make the copy that `show` asked for."""
        with self._lock:
            wanted, self._wanted = self._wanted, None
        if wanted is not None:
            self._vector.snapshot(wanted.out)
            wanted.taken(step)

    def _settle(self, step: int) -> Settled:
        added = self._check is None or self._check()
        if added:
            (self._vector.load_ if self._replaces else self._vector.add_)(self.theirs)
        settled = Settled(
            self._delivered_id,
            step - self.snapshot_step,
            added,
            replaced=added and self._replaces,
            copied=added and self._copied,
        )
        with self._lock:
            self._state = State.FREE
        return settled

    # -- network thread -----------------------------------------------------------------------------------------------

    def show(self, out: Tensor, taken: Callable[[int], None]) -> None:
        """Copy the parameters into `out` [D] at the next step; the training thread then calls `taken` with it."""
        with self._lock:
            self._wanted = Wanted(out, taken)

    def request(self) -> bool:
        """Ask for a snapshot at the next step. False where an exchange is under way."""
        with self._lock:
            if self._state is not State.FREE:
                return False
            self._state = State.WANTED
            return True

    def release(self) -> None:
        """Give up the exchange under way: nobody moves."""
        with self._lock:
            if self._state is not State.DELIVERED:
                self._state = State.FREE

    def deliver(
        self, exchange_id: str, check: Check | None = None, *, replaces: bool = False, copied: bool = False
    ) -> None:
        """`theirs` now holds the move of that exchange; the training thread adds it between two steps, if `check`.

        Where it `replaces` the model, it is loaded instead: to add something to what is not finite is no help.
        `copied`: it leads all the way to a partner's parameters.
        """
        with self._lock:
            assert self._state is State.READY, f"a move delivered while {self._state.value}"
            self._state, self._delivered_id = State.DELIVERED, exchange_id
            self._check, self._replaces, self._copied = check, replaces, copied
