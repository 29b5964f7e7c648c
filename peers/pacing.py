"""How much time and bandwidth exchanges get here: this peer's budget at work."""

from __future__ import annotations

import asyncio

from p2p_elastic.messages import Offer
from p2p_elastic.methods import Flow
from p2p_elastic.pace import Budget
from p2p_elastic.peers.deadlines import StepTime
from p2p_elastic.peers.journal import Entry
from p2p_elastic.policy import Policy
from p2p_elastic.status import Outcome, PaceStatus


class Pacing:
    """Written by the network thread; `closed` and `status` are for any.

    Args:
        budget: of this peer's operator.
        step_time: what our own steps take.
        vector_bytes: of the model.
        policy: how the run's peers train together; changed where we adopt another run.
    """

    def __init__(self, budget: Budget, step_time: StepTime, vector_bytes: int, policy: Policy) -> None:
        self._budget, self._step_time = budget, step_time
        self._vector_bytes, self.policy = vector_bytes, policy

    # -- charged ------------------------------------------------------------------------------------------------------

    def spent(self, nbytes: int, entry: Entry | None = None) -> None:
        """So many bytes were sent and received, in that exchange where it was one."""
        seconds, now = 0.0 if entry is None else entry.seconds, asyncio.get_running_loop().time()
        if not self._budget.limited:
            return
        self._budget.spend(nbytes, seconds, now)
        if entry is not None and entry.outcome is Outcome.COMPLETED and nbytes >= self._vector_bytes:
            self._budget.learn(nbytes, seconds)

    # -- asked --------------------------------------------------------------------------------------------------------

    def closed(self, now: float | None = None) -> bool:
        """Whether nothing ordinary begins at present; `now` in seconds of the event loop's clock."""
        if not self._budget.limited:
            return False
        return self._budget.wait(asyncio.get_running_loop().time() if now is None else now) > 0.0

    def in_debt(self) -> bool:
        """Whether even what should not wait has to: too much of that came."""
        nbytes = self._vector_bytes * (2 if self.policy.flow is Flow.BOTH else 1)
        return not self._budget.bears(asyncio.get_running_loop().time(), nbytes)

    def objection(self, offer: Offer) -> str | None:
        """Why that exchange does not begin now, for people; None where it may.

        The last offer of one that leaves, and a centre variable that is given up, do not come again.
        """
        if offer.last or offer.centre is not None:
            return "budget" if self.in_debt() else None
        return "budget" if self.closed() else None

    def status(self, now: float) -> PaceStatus | None:
        """What people see of the budget; None where there is none."""
        seconds = self._step_time.seconds
        return self._budget.status(now, self.policy.schedule.mean_period, 1.0 / seconds if seconds else None)
