"""The connections of one exchange that are awaited."""

from __future__ import annotations

import asyncio

from p2p_elastic.peers.direct.expected import Expected

TOKEN, CERTIFICATE = "0" * 32, b"certificate"


def test_each_number_is_wanted_once_from_the_partner_alone() -> None:
    expected = Expected[str]("b", CERTIFICATE, TOKEN, 2)
    assert expected.wants(0, CERTIFICATE)
    assert not expected.wants(2, CERTIFICATE)
    assert not expected.wants(0, b"another")
    expected.take(0, "first")
    assert not expected.wants(0, CERTIFICATE)
    assert expected.wants(1, CERTIFICATE)


def test_all_are_given_in_their_order_and_then_none_is_wanted() -> None:
    async def main() -> None:
        expected = Expected[str]("b", CERTIFICATE, TOKEN, 2)
        waiting = asyncio.ensure_future(expected.all_here())
        expected.take(1, "second")
        await asyncio.sleep(0)
        assert not waiting.done()
        expected.take(0, "first")
        assert await waiting == ["first", "second"]
        assert not expected.wants(0, CERTIFICATE)
        assert expected.leave() == []

    asyncio.run(main())


def test_what_came_and_was_not_taken_is_left_to_be_closed() -> None:
    expected = Expected[str]("b", CERTIFICATE, TOKEN, 2)
    expected.take(1, "second")
    assert expected.leave() == ["second"]
    assert not expected.wants(0, CERTIFICATE)
