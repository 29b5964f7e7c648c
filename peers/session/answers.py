"""The table of all that a peer answers: which feature handles a stream, by the message that the stream begins with.

A feature registers its messages; the responder, which reads them, knows none of the features.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol, TypeVar

from p2p_elastic.peers.session.conversation import Conversation
from p2p_elastic.protocol.messages import Message

M = TypeVar("M", bound=Message)
Handler = Callable[[Conversation, M], Awaitable[None]]
"""Answers a stream that begins with that message, to its last word. Raises ExchangeError."""


class Answers:
    """Message type -> its handler; each type has one."""

    def __init__(self) -> None:
        self._handlers: dict[type, Handler[Any]] = {}

    @property
    def kinds(self) -> tuple[type, ...]:
        """The messages that a stream may begin with, in the order in which they were registered."""
        return tuple(self._handlers)

    def register(self, kind: type[M], handler: Handler[M]) -> None:
        """From now on streams that begin with a message of that type are for `handler`.

        Raises:
            ValueError: the type has a handler.
        """
        if kind in self._handlers:
            raise ValueError(f"{kind.__name__} has a handler: {self._handlers[kind]}")
        self._handlers[kind] = handler

    async def answer(self, conversation: Conversation, message: Message) -> None:
        """Let the handler of that message, which was one of `kinds`, answer the stream."""
        await self._handlers[type(message)](conversation, message)


class Feature(Protocol):
    """Something that a peer answers."""

    def register(self, answers: Answers) -> None:
        """Put the messages that it answers into the table."""


def table_of(features: Iterable[Feature]) -> Answers:
    """The table of these features."""
    answers = Answers()
    for feature in features:
        feature.register(answers)
    return answers
