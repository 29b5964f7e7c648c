"""The connections of one exchange that are awaited."""

from __future__ import annotations

import asyncio

from p2p_elastic.peers.direct.expected import Expected
from p2p_elastic.peers.direct.sealing import Agreed
from p2p_elastic.protocol.messages import Direct

TOKEN = "0" * 32
AGREED = Agreed(*(Direct(secret=half * 64, aes=True, token=TOKEN, dials=False) for half in "ab"))


def expected_of(count: int) -> Expected[str]:
    expected = Expected[str]("b", TOKEN)
    expected.agree(AGREED, count)
    return expected


def test_each_number_is_wanted_once_from_the_partner_alone() -> None:
    expected = expected_of(2)
    assert expected.wants(0)
    assert not expected.wants(2)
    expected.take(0, "first")
    assert not expected.wants(0)
    assert expected.wants(1)


def test_all_are_given_in_their_order_and_then_none_is_wanted() -> None:
    async def main() -> None:
        expected = expected_of(2)
        waiting = asyncio.ensure_future(expected.all_here())
        expected.take(1, "second")
        await asyncio.sleep(0)
        assert not waiting.done()
        expected.take(0, "first")
        assert await waiting == ["first", "second"]
        assert not expected.wants(0)
        assert expected.leave() == []

    asyncio.run(main())


def test_what_came_and_was_not_taken_is_left_to_be_closed() -> None:
    expected = expected_of(2)
    expected.take(1, "second")
    assert expected.leave() == ["second"]
    assert not expected.wants(0)


def test_until_both_ends_have_told_it_nothing_is_wanted() -> None:
    async def main() -> None:
        expected = Expected[str]("b", TOKEN)
        asking = asyncio.ensure_future(expected.agreed())
        await asyncio.sleep(0)
        assert not asking.done()
        assert not expected.wants(0)
        expected.agree(AGREED, 1)
        assert await asking is AGREED
        assert expected.wants(0)

    asyncio.run(main())
