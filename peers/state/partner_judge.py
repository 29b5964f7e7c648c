"""How far to trust partners: their parameters are tried on this peer's examples before it moves towards them."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Mapping

from torch import Tensor

from p2p_elastic.health.trust import Judge, JudgeMemory, Scale, Verdict
from p2p_elastic.parameters.vector import Part
from p2p_elastic.peers.exchange.barrier import guards, landing, with_barrier
from p2p_elastic.peers.state.current_run import CurrentRun
from p2p_elastic.peers.state.own_state import OwnState
from p2p_elastic.protocol.chunks import Vectors
from p2p_elastic.rules.base import Facts
from p2p_elastic.rules.trial import Trial
from p2p_elastic.status.events import EventLog

log = logging.getLogger(__name__)

Examine = Callable[[Tensor, Tensor], Awaitable[Trial | None]]
"""(the partner's parameters [D], this peer's [D]) -> how both do on its latest examples; None if it has none."""


class PartnerJudge:
    """Trials and verdicts of partners, if the run weighs by them. Belongs to the network thread.

    Args:
        run: the run that this peer is in.
        own: what this peer says of itself.
        events: where it is written down which partners are trusted no more, or again.
    """

    def __init__(self, run: CurrentRun, own: OwnState, events: EventLog) -> None:
        self._run, self._own, self._events = run, own, events
        self._examine: Examine | None = None
        self._pairs = Judge()  # of exchanges between equals

    def examine_with(self, examine: Examine | None) -> None:
        """Try partners' parameters in this way from now on.

        Args:
            examine: tries them; None: none are tried.
        """
        self._examine = examine

    # -- what is remembered -------------------------------------------------------------------------------------------

    @property
    def verdicts(self) -> Mapping[str, Verdict]:
        """Of each partner, the last one."""
        return self._pairs.verdicts

    @property
    def trust(self) -> dict[str, float]:
        """How far each partner is trusted, 0 to 1."""
        return {peer: verdict.trust for peer, verdict in self._pairs.verdicts.items()}

    def forget(self) -> None:
        """Forget all partners: another run begins."""
        self._pairs = Judge()

    def forget_distances(self, partner: str) -> None:
        """Forget the distances to a partner: after a merge they say nothing any more.

        Args:
            partner: its id.
        """
        self._pairs.forget_distances(partner)

    def memory(self) -> JudgeMemory:
        """Gather what is kept over a restart.

        Returns:
            What `recall` goes on from.
        """
        return self._pairs.memory()

    def recall(self, memory: JudgeMemory) -> None:
        """Go on from what was kept over a restart.

        Args:
            memory: what `memory` gave then.
        """
        self._pairs = Judge()
        self._pairs.recall(memory)

    # -- trials -------------------------------------------------------------------------------------------------------

    async def try_ours(self, both: Vectors | None, theirs: Facts, mine: Facts | None = None) -> Trial | None:
        """Try a partner's parameters in the exchange under way, unless some of this peer's own are not finite.

        Args:
            both: the two vectors of the exchange; None if they are not here both: then nothing is tried.
            theirs, mine: as for `try_out`.

        Returns:
            As `try_out`.
        """
        if both is None or both.lost or self._own.broken:
            return None
        return await self.try_out(both, theirs, mine)

    async def try_out(self, vectors: Vectors, theirs: Facts, mine: Facts | None = None) -> Trial | None:
        """Try a partner's parameters and this peer's on this peer's examples.

        Args:
            vectors: the partner's parameters and this peer's.
            theirs: what the partner says of itself.
            mine: what this peer says of itself, after a partition: then a barrier is looked for at the place to which
                the exchange would lead. None: it is not looked for.

        Returns:
            How both do; None if this run does not weigh by that, or if it has no examples or memory for a trial.
        """
        if self._examine is None or not self._judges(theirs):
            return None
        rule = self._run.policy.rule
        try:
            trial = await self._examine(vectors.theirs, vectors.mine)
            if trial is None or mine is None or not guards(rule, mine, theirs):
                return trial
            where = landing(rule, self._run.rules.states.own, vectors, mine, theirs)
            return await with_barrier(self._examine, where, vectors, trial, self._own.progress.first_loss)
        except RuntimeError as error:  # such as no memory left on the device
            log.warning("a partner's parameters could not be tried: %s", error)
            return None

    def _judges(self, theirs: Facts) -> bool:
        """Whether a partner is judged: one that counts for nothing may have sent zeros, and moves no other peer."""
        return self._run.policy.weighting == "dynamic" and theirs.weight > 0.0

    # -- verdicts -----------------------------------------------------------------------------------------------------

    def verdict(
        self,
        partner: str,
        theirs: Facts,
        distance: float,
        trial: Trial | None,
        part: Part | None = None,
        *,
        scale: Scale | None = None,
        judge: Judge | None = None,
    ) -> Verdict | None:
        """Judge a partner by one exchange, and write down if trust in it ends or comes back.

        Args:
            partner: its id.
            theirs: what it says of itself.
            distance: L2 distance between the two models before the move.
            trial: how its parameters did here; None if they were not tried.
            part: of the vector, that was exchanged; None for all of it.
            scale: what the distance is compared with; None if a great one says nothing.
            judge: the one whose measurements count; None: that of exchanges between equals.

        Returns:
            The verdict; None if the exchange shows nothing, or if all peers count the same in this run.
        """
        judge = judge or self._pairs
        if not self._judges(theirs) or not math.isfinite(distance):
            return None
        first_loss = self._own.progress.first_loss
        if first_loss is not None:  # a peer that trained alone before is far below it at its first trial
            judge.begins_at(first_loss)
        known = judge.verdicts.get(partner)
        verdict = judge.judge(partner, distance, trial, part, scale=scale)
        before = 1.0 if known is None else known.trust
        if (verdict.trust == 0.0) != (before == 0.0):
            why = "; ".join(verdict.reasons) or "it does as well as others again"
            text = f"trust in {partner} {before:.2g} -> {verdict.trust:.2g}: {why}"
            self._events.add("trust", text, partner=partner)
        return verdict
