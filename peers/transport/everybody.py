"""An open run: everybody may take part, and nobody shows a ticket."""

from __future__ import annotations

from p2p_elastic.protocol.roles import Role


class Everybody:
    """`Introducing` and `Access` of an open run."""

    @property
    def access(self) -> Everybody:
        """Who may take part."""
        return self

    def allows(self, _peer: str, _role: Role = Role.OBSERVER) -> bool:
        """Everybody may do everything.

        Returns:
            True.
        """
        return True

    async def ensure(self, _peer: str) -> None:
        """There is nothing to show."""
