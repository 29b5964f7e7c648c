"""How much time and bandwidth exchanges get here: this peer's budget, and what slow partners may take of its time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from p2p_elastic.common.bounded import forget_oldest
from p2p_elastic.health.trust import PARTNERS_MAX
from p2p_elastic.peers.exchange.journal import Entry
from p2p_elastic.peers.membership.selection import chance_by_time, usual_time
from p2p_elastic.peers.session.deadlines import StepTime
from p2p_elastic.protocol.messages import Offer
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.rate_limit import Bucket, Budget
from p2p_elastic.rules.methods import Flow
from p2p_elastic.rules.policy import Policy
from p2p_elastic.status.schema import PaceStatus

SLOW_SHARE = (
    0.05  # of this peer's time, for all partners together that are much slower than the others; and the same for
)
# each whose offers come to nothing
UNHEARD_TIME_SHARE = 0.02  # for all together that never answered: their partners wait meanwhile, too
VAIN_SECONDS = 0.1  # that such an offer costs, however long it took: links of honest partners fail, too
SPENT_CHANCE = 0.001  # of one of them to be chosen while that is spent
RETRY_TIMES = 3.0  # what an exchange took with one that has nobody else to ask: until the next, though that is spent
TIME_GAIN = 1 / 2  # a link that got better is soon known to be


class Precedence(NamedTuple):
    """How the budget treats an offer. Apart from what is said here, all offers are alike.

    Attributes:
        exempt: it is declined for another reason, which the peer that asks has to hear.
        once: it does not come again.
        only: the peer that asks has nobody else to ask: a slow one is tried again.
    """

    exempt: bool = False
    once: bool = False
    only: bool = False


ORDINARY = Precedence()


class Times:
    """How long exchanges take, in seconds, by partner: PARTNERS_MAX of them at most."""

    def __init__(self) -> None:
        self.seconds: Mapping[str, float] = {}  # the latest last; replaced whole: other threads read it

    def saw(self, partner: str, seconds: float, *, whole: bool) -> None:
        """Take in an exchange that ended.

        Args:
            partner: the peer id.
            seconds: how long it took.
            whole: False if not all of it took place: then it would have taken longer.
        """
        known = dict(self.seconds)
        before = known.pop(partner, seconds if whole else 0.0)
        after = before + TIME_GAIN * (seconds - before) if whole or seconds > before else before
        self.seconds = dict([*known.items(), (partner, after)][-PARTNERS_MAX:])


class Retries:
    """When partners that were slow are tried again though their share is spent: links get better. Ever more seldom.

    For partners that have nobody else to ask; among equals there are others.
    """

    def __init__(self) -> None:
        self._pause = 0.0
        self._at = math.inf

    def ended(self, seconds: float, now: float, *, slow: bool) -> None:
        """Take in an exchange with such a partner.

        Args:
            seconds: how long it took.
            now: in seconds of the event loop's clock.
            slow: whether it was slow again.
        """
        if slow:
            self._pause = max(2.0 * self._pause, RETRY_TIMES * seconds)
        self._at = now + self._pause if slow else now

    def due(self, now: float) -> bool:
        """Whether it is time for such a partner.

        Args:
            now: in seconds of the event loop's clock.

        Returns:
            False until the first one has ended, and during the pause after each slow one.
        """
        return now >= self._at


class Pacing:
    """Decides which exchanges the budget allows.

    Written by the network thread; any thread may call `closed`, `expected` and `status`.

    Args:
        budget: of this peer's operator.
        step_time: what this peer's own steps take.
        policy: how the run's peers train together.
        vector_bytes: what an exchange that is due sends at least.
        answered: peer id -> whether anything ever came from it.
    """

    def __init__(
        self,
        budget: Budget,
        step_time: StepTime,
        policy: Policy,
        vector_bytes: int,
        answered: Callable[[str], bool] = lambda _peer: True,
    ) -> None:
        self._budget, self._step_time, self._answered = budget, step_time, answered
        self.adopt(policy, vector_bytes)
        self._asking, self._asked = Times(), Times()  # the latter without what the partner's own next step takes
        self._slow, self._retries = Budget(share=SLOW_SHARE), Retries()
        self._unheard = Budget(share=UNHEARD_TIME_SHARE)
        self._in_vain: dict[str, Bucket] = {}  # of partners: PARTNERS_MAX of them at most, the latest last
        self._left: dict[str, None] = {}  # those that said goodbye: PARTNERS_MAX of them at most, the latest last

    def adopt(self, policy: Policy, vector_bytes: int) -> None:
        """Go on in another run; what partners have shown stays.

        Args:
            policy: how the run's peers train together.
            vector_bytes: what an exchange that is due sends at least.
        """
        self._policy, self._vector_bytes = policy, vector_bytes

    # -- charged ------------------------------------------------------------------------------------------------------

    def spent(self, nbytes: int, entry: Entry | None = None) -> None:
        """Charge the budget.

        Args:
            nbytes: bytes sent and received.
            entry: the exchange that they were for; None if it was none.
        """
        seconds, now = 0.0 if entry is None else entry.seconds, asyncio.get_running_loop().time()
        if self._budget.limited:
            self._budget.spend(nbytes, seconds, now)
        if entry is None:
            return
        whole = entry.outcome is Outcome.COMPLETED and nbytes >= self._vector_bytes
        if whole and self._budget.limited:
            self._budget.learn(nbytes, seconds)
        if whole or entry.outcome not in (Outcome.DECLINED, Outcome.UNREACHABLE):
            (self._asking if entry.initiated else self._asked).saw(entry.partner, seconds, whole=whole)
        if entry.initiated and entry.outcome is not Outcome.COMPLETED and not self._answered(entry.partner):
            self._unheard.spend(0, seconds, now)
        if not entry.initiated and entry.outcome not in (Outcome.COMPLETED, Outcome.DECLINED):
            wasted = self._in_vain.pop(entry.partner, None) or Bucket(SLOW_SHARE)
            wasted.spend(VAIN_SECONDS, now - VAIN_SECONDS, now)
            self._in_vain[entry.partner] = wasted
            forget_oldest(self._in_vain, PARTNERS_MAX)
        if self._is_slow(entry.partner):
            self._slow.spend(0, seconds, now)
            if not entry.initiated and entry.outcome is not Outcome.DECLINED:
                self._retries.ended(seconds, now, slow=not whole or chance_by_time(seconds, self._usual()) < 1.0)

    def takes_last(self, partner: str) -> None:
        """Note that the last exchange of a partner that leaves begins.

        Args:
            partner: the peer id.
        """
        self._left.pop(partner, None)
        self._left[partner] = None
        forget_oldest(self._left, PARTNERS_MAX)

    # -- asked --------------------------------------------------------------------------------------------------------

    def closed(self, now: float | None = None) -> bool:
        """Whether nothing ordinary begins at present.

        Args:
            now: in seconds of the event loop's clock; None: the present.

        Returns:
            True while the budget is spent.
        """
        if not self._budget.limited:
            return False
        return self._budget.wait(asyncio.get_running_loop().time() if now is None else now) > 0.0

    @property
    def exchange_bytes(self) -> int:
        """What an exchange that is due moves at least, both ways together, in bytes."""
        return self._vector_bytes * (2 if self._policy.flow is Flow.BOTH else 1)

    def in_debt(self) -> bool:
        """Whether even what should not wait has to: too much of that came.

        Returns:
            True while the budget does not bear another exchange.
        """
        return not self._budget.bears(asyncio.get_running_loop().time(), self.exchange_bytes)

    def objection(self, offer: Offer, precedence: Precedence = ORDINARY) -> str | None:
        """Say why an exchange does not begin now.

        The last offer of a peer that leaves does not come again; so a peer that sends another one is treated like any
        other.

        Args:
            offer: what the partner offers.
            precedence: how the budget treats it.

        Returns:
            The reason, for people; None if the exchange may begin.
        """
        if precedence.exempt:
            return None
        last = offer.last and offer.peer not in self._left
        if last or precedence.once:
            return "budget" if self.in_debt() else None
        if self.closed():
            return "budget"
        now = asyncio.get_running_loop().time()
        wasted = self._in_vain.get(offer.peer)
        if wasted is not None and wasted.wait(now) > 0.0:
            return "offers that came to nothing"
        retried = precedence.only and self._retries.due(now)
        spent = self._slow.wait(now) > 0.0 and not retried
        return "slow link" if spent and self._is_slow(offer.peer) else None

    def chances(self) -> dict[str, float]:
        """Work out how often each partner is to be chosen, by the time that an exchange with it takes.

        Returns:
            Peer id -> its chance, of 1; partners that have shown nothing are left out.
        """
        usual, spent = self._usual(), self._slow.wait(asyncio.get_running_loop().time()) > 0.0
        chances = {partner: chance_by_time(seconds, usual) for partner, seconds in self.expected().items()}
        return {partner: SPENT_CHANCE if spent and chance < 1.0 else chance for partner, chance in chances.items()}

    def tries_unheard(self) -> bool:
        """Whether there is time for a partner that never answered.

        Returns:
            False while those that were tried in vain have taken more than their share.
        """
        return self._unheard.wait(asyncio.get_running_loop().time()) == 0.0

    def expected(self) -> Mapping[str, float]:
        """Tell how long an exchange that this peer asks for takes.

        Returns:
            Peer id -> seconds, for each partner that has shown it.
        """
        return {**self._asked.seconds, **self._asking.seconds}

    def status(self, now: float) -> PaceStatus | None:
        """Show the budget to people.

        Args:
            now: in seconds of the event loop's clock.

        Returns:
            The status, as `/v1/status` shows it; None if there is no budget.
        """
        seconds = self._step_time.seconds
        return self._budget.status(now, self._policy.schedule.mean_period, 1.0 / seconds if seconds else None)

    def _is_slow(self, partner: str) -> bool:
        """Whether its transfers take much longer than others'. How long its steps take does not matter when it asks."""
        return chance_by_time(self._asked.seconds.get(partner, 0.0), self._usual()) < 1.0

    def _usual(self) -> float:
        asked, asking = self._asked.seconds, self._asking.seconds
        quickest = [min(asked.get(p, math.inf), asking.get(p, math.inf)) for p in asked.keys() | asking.keys()]
        step, period = self._step_time.seconds, self._policy.schedule.mean_period
        return usual_time(quickest, max(period * step if step else 0.0, self._budget.exchange_seconds))
