"""What a peer may do in a private run."""

from __future__ import annotations

from enum import IntEnum


class Role(IntEnum):
    """What a ticket allows; each role includes those before it."""

    OBSERVER = 1  # to read the directory and to fetch parameters
    TRAINER = 2  # and to exchange
    CENTRE = 3  # and to hold the centre variable
    ISSUER = 4  # and to admit others up to CENTRE

    @property
    def word(self) -> str:
        """The role as people write it."""
        return self.name.lower()

    @classmethod
    def of(cls, word: str) -> Role:
        """Read a role that a person wrote.

        Args:
            word: such as "trainer".

        Returns:
            The role.

        Raises:
            ValueError: if there is none of that name.

        Example:
            >>> Role.of("trainer").word
            'trainer'
        """
        try:
            return cls[word.upper()]
        except KeyError:
            raise ValueError(f"one of {', '.join(role.word for role in cls)}") from None
