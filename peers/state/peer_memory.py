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
    """The state of Python's `random.Random`."""

    version: int
    numbers: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(max_length=625)]
    gauss: Finite | None

    @classmethod
    def of(cls, rng: random.Random) -> RandomMemory:
        version, numbers, gauss = rng.getstate()
        return cls(version=version, numbers=numbers, gauss=gauss)

    def recall(self, rng: random.Random) -> None:
        rng.setstate((self.version, self.numbers, self.gauss))


class CentreMemory(Frozen):
    """The centre variable as this peer knew it; the value itself is a tensor."""

    stamp: Stamp
    seated: bool
    since: Annotated[int, Field(ge=0, le=CLOCK_MAX)] | None = Field(
        default=None, description="the clock when it became the centre; null: not known"
    )
    behind: Annotated[int, Field(ge=0, le=CLOCK_MAX)] = Field(
        default=0, description="exchanges behind the value since then"
    )


class PeerMemory(Frozen):
    """All of it but the centre's value. Rule states are numbers in lists; one that is not finite is left out."""

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
