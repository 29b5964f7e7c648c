"""The table of all that a peer answers: the feature that handles a stream, by the message that the stream begins with.

A feature registers its messages; the responder, which reads them, knows none of the features.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol, TypeVar

from p2p_elastic.peers.session.conversation import Conversation
from p2p_elastic.protocol.messages import Message

M = TypeVar("M", bound=Message)
Handler = Callable[[Conversation, M], Awaitable[None]]
"""Answers a stream that begins with a message of one type, to its last word. Raises ExchangeError."""


class Answers:
    """Message type -> its handler; each type has one."""

    def __init__(self) -> None:
        self._handlers: dict[type, Handler[Any]] = {}

    @property
    def kinds(self) -> tuple[type, ...]:
        """The messages that a stream may begin with, in the order in which they were registered."""
        return tuple(self._handlers)

    def register(self, kind: type[M], handler: Handler[M]) -> None:
        """Let a handler answer the streams that begin with a message of one type.

        Args:
            kind: the type of the first message.
            handler: answers the stream.

        Raises:
            ValueError: if the type has a handler.
        """
        if kind in self._handlers:
            raise ValueError(f"{kind.__name__} has a handler: {self._handlers[kind]}")
        self._handlers[kind] = handler

    async def answer(self, conversation: Conversation, message: Message) -> None:
        """Let the handler of a message answer the stream.

        Args:
            conversation: the stream.
            message: its first message, of one of `kinds`.
        """
        await self._handlers[type(message)](conversation, message)


class Feature(Protocol):
    """Something that a peer answers."""

    def register(self, answers: Answers) -> None:
        """Put the messages that the feature answers into the table.

        Args:
            answers: the table.
        """


def table_of(features: Iterable[Feature]) -> Answers:
    """Make the table of some features.

    Args:
        features: each registers its messages; no two may have the same.

    Returns:
        The table.
    """
    answers = Answers()
    for feature in features:
        feature.register(answers)
    return answers
