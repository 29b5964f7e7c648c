"""What a peer keeps over a restart, as its checkpoint has it."""

from __future__ import annotations

import random
from typing import Annotated

from pydantic import Field, JsonValue

from p2p_elastic.health.trust import PARTNERS_MAX
from p2p_elastic.protocol.messages import CLOCK_MAX, Stamp
from p2p_elastic.values import Frozen

Finite = Annotated[float, Field(allow_inf_nan=False)]
Partner = Annotated[str, Field(max_length=128)]
History = Annotated[tuple[Finite, ...], Field(max_length=100)]


class RandomMemory(Frozen):
    """The state of Python's `random.Random`, as `getstate` gives it.

    Attributes:
        version: the version of the state's format.
        numbers: the 32-bit words of the generator.
        gauss: the next normal number, if one is kept; else None.
    """

    version: int
    numbers: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(max_length=625)]
    gauss: Finite | None

    @classmethod
    def of(cls, rng: random.Random) -> RandomMemory:
        """Copy the state of a generator.

        Args:
            rng: the generator; it does not change.

        Returns:
            Its state.
        """
        version, numbers, gauss = rng.getstate()
        return cls(version=version, numbers=numbers, gauss=gauss)

    def recall(self, rng: random.Random) -> None:
        """Set a generator to this state.

        Args:
            rng: the generator that goes on from here.
        """
        rng.setstate((self.version, self.numbers, self.gauss))


class CentreMemory(Frozen):
    """The centre variable as this peer knew it; the value itself is a tensor.

    Attributes:
        stamp: how fresh the value is.
        seated: True if this peer held the centre.
    """

    stamp: Stamp
    seated: bool
    since: Annotated[int, Field(ge=0, le=CLOCK_MAX)] | None = Field(
        default=None, description="the clock when it became the centre; null: not known"
    )
    behind: Annotated[int, Field(ge=0, le=CLOCK_MAX)] = Field(
        default=0, description="exchanges behind the value since then"
    )


class PeerMemory(Frozen):
    """All that a peer keeps over a restart, but for the centre's value.

    Rule states are numbers in lists; one that is not finite is left out.

    Attributes:
        step: steps trained so far.
        rule: the rule's own state.
        partners: the rule's state for each partner, or each part of it, by key.
        of_all: that of exchanges with the best of all groups; None without such a rule.
        distances: the judge's log-distances by history, the oldest first.
        usual: by how much a partner's parameters usually do worse here, nats.
        initial: the peer's own loss at the first trial, nats; None before it.
        centre: the centre variable; None in other topologies.
    """

    step: Annotated[int, Field(ge=0, lt=2**53)]
    first_loss: Finite | None = Field(description="of the untrained model, nats")
    newcomer: bool = Field(description="had not copied anybody yet")
    sequence: Annotated[int, Field(ge=0, lt=2**53)] = Field(description="of its last record")
    coin: RandomMemory = Field(description="of the schedule")
    rule: JsonValue = None
    partners: Annotated[dict[Partner, JsonValue], Field(max_length=PARTNERS_MAX)]
    of_all: JsonValue = None
    distances: Annotated[dict[Partner, History], Field(max_length=PARTNERS_MAX)]
    usual: Finite = 0.0
    initial: Finite | None = None
    centre: CentreMemory | None = None
