"""What the vectors of one exchange travel over."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from p2p_elastic.peers.direct.meeting import PARTNER_OFF
from p2p_elastic.peers.session.carriers import Carriers
from p2p_elastic.protocol.messages import Direct
from p2p_elastic.status.schema import Way

TERMS = Direct(secret="a" * 64, aes=True, token="0" * 32, dials=True)


class Meeting:
    def __init__(self) -> None:
        self.terms, self.ended = TERMS, list[bool]()

    async def connect(self, _theirs: Direct, streams: int) -> list[Any]:
        return [f"connection {number}" for number in range(streams)]

    def end(self, *, whole: bool) -> None:
        self.ended.append(whole)


class Stream:
    def __init__(self) -> None:
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


def carriers() -> tuple[Carriers, Stream, list[Stream]]:
    stream, opened = Stream(), list[Stream]()
    made = Carriers(stream)  # type: ignore[arg-type]

    async def widening(_number: int) -> Any:
        opened.append(Stream())
        return opened[-1]

    made.widening = widening
    return made, stream, opened


@pytest.mark.parametrize("reason", ["off", "small"])
def test_without_a_meeting_vectors_go_over_streams_and_the_reason_is_kept(reason: str) -> None:
    async def main() -> None:
        made, stream, opened = carriers()
        assert made.meet(reason) is None
        assert made.way == Way(why=reason)
        assert await made.of(0) is stream  # type: ignore[comparison-overlap]
        assert await made.of(1) is opened[0]  # type: ignore[comparison-overlap]
        made.abort()
        assert stream.aborted
        assert opened[0].aborted
        made.end(whole=True)

    asyncio.run(main())


def test_once_connected_vectors_go_directly_and_connections_are_given_back_once() -> None:
    async def main() -> None:
        made, _, opened = carriers()
        meeting = Meeting()
        assert made.meet(meeting) == TERMS  # type: ignore[arg-type]
        assert made.way == Way(why=PARTNER_OFF)
        await made.connect(TERMS, 2)
        assert made.way == Way(direct=True)
        assert made.count == 2
        assert [await made.of(number) for number in range(2)] == ["connection 0", "connection 1"]
        assert not opened
        made.end(whole=True)
        made.end(whole=False)
        assert meeting.ended == [True]

    asyncio.run(main())


def test_if_that_fails_vectors_go_over_streams() -> None:
    async def main() -> None:
        made, stream, _ = carriers()
        meeting = Meeting()
        made.meet(meeting)  # type: ignore[arg-type]
        made.not_connected("not in time")
        assert made.way == Way(why="not in time")
        assert await made.of(0) is stream  # type: ignore[comparison-overlap]
        made.end(whole=False)
        assert meeting.ended == [False]

    asyncio.run(main())
