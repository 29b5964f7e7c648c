"""What may be asked of a running peer from outside."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

from pydantic import ConfigDict, Field

from p2p_elastic.values import Frozen

TTL_SECONDS_MAX = 86_400.0

SignalName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]


class Report(Frozen):
    """What an operator or another program says about this machine, until it expires.

    A signal that this peer knows (such as `temperature`) needs a `value` in its own unit only; any other one says
    itself how bad it is, with `health`.
    """

    model_config = ConfigDict(strict=True)  # "1" is no number, and true none either

    value: Annotated[float, Field(allow_inf_nan=False, ge=-1e9, le=1e9)] | None = Field(
        default=None, description="what was measured, in `unit`"
    )
    health: Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)] | None = Field(
        default=None, description="1: nothing speaks against this peer; 0: it copies, is not copied"
    )
    unit: Annotated[str, Field(max_length=16)] = Field(
        default="", description="of the value; for a signal that this peer knows it may be left out"
    )
    text: Annotated[str, Field(max_length=200)] = Field(default="", description="why, for people")
    ttl_seconds: Annotated[float, Field(gt=0.0, le=TTL_SECONDS_MAX, allow_inf_nan=False)] = Field(
        default=60.0, description="seconds after which it is forgotten"
    )


class Controls(Protocol):
    """What an operator may do. All methods may be called from the network's event loop, and do not block."""

    def report(self, name: str, report: Report) -> None:
        """Take a signal from outside. A ConfigError refuses one that says too little, or one too many.

        Args:
            name: of the signal.
            report: what it says, and for how long.
        """

    def forget(self, name: str) -> bool:
        """Forget a signal from outside.

        Args:
            name: of the signal.

        Returns:
            False if there was none.
        """

    def override_weight(self, weight: float | None) -> None:
        """Set how much the peer counts, whatever its signals say. A ConfigError refuses another number.

        A newcomer that has copied no peer yet, or whose parameters or loss are not finite, counts for 0 all the same.

        Args:
            weight: 0 to 1; None: let the signals decide again.
        """

    def drain(self) -> None:
        """End the exchange under way, then begin and answer none; training goes on."""

    def undrain(self) -> None:
        """Exchange again."""


class Invited(Frozen):
    """Whom to let into a private run."""

    model_config = ConfigDict(strict=True)

    role: Literal["observer", "trainer", "centre", "issuer"] = Field(
        default="trainer", description="what it may do; each role includes those before it"
    )
    seconds: Annotated[int, Field(ge=1, le=30 * 86_400)] = Field(
        default=86_400, description="for which the line is good; with `peer`, the life of its ticket unless renewed"
    )
    peer: Annotated[str, Field(min_length=40, max_length=80)] | None = Field(
        default=None, description="peer id of whom it is for; null: whoever uses the line first"
    )


class Revoked(Frozen):
    """Whom to let in no more."""

    what: Annotated[str, Field(min_length=32, max_length=80)] = Field(
        description="a peer id, or the serial of a ticket; an issuer revokes those that it issued"
    )


class Admitting(Protocol):
    """Who may be let in, or no more. All methods may be called from the network's event loop, and do not block."""

    def invite(self, role: str, seconds: int, peer: str | None) -> str:
        """Let somebody in. A ConfigError refuses it.

        Args:
            role: as `Invited` has it.
            seconds: as `Invited` has it.
            peer: as `Invited` has it.

        Returns:
            The line to give away.
        """

    def revoke(self, what: str) -> None:
        """Let somebody in no more. A ConfigError refuses it.

        Args:
            what: as `Revoked` has it.
        """
