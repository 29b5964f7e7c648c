"""What a peer does again and again."""

from __future__ import annotations

import asyncio

import pytest

from p2p_elastic.errors import DirectoryError
from p2p_elastic.peers.membership.periodic import attempt, every
from p2p_elastic.testing.virtual_time import run_virtual


def test_an_action_is_repeated_after_each_end_whatever_the_directory_says() -> None:
    begun = list[float]()

    async def action() -> None:
        begun.append(asyncio.get_running_loop().time())
        await asyncio.sleep(1.0)
        raise DirectoryError("nobody answers")

    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(every(2.0, action), 7.5)

    run_virtual(main())
    assert begun == [0.0, 3.0, 6.0]


def test_any_other_error_is_a_bug_and_ends_it() -> None:
    async def action() -> None:
        raise ZeroDivisionError

    for repeated in (attempt(action), every(1.0, action)):
        with pytest.raises(ZeroDivisionError):
            run_virtual(repeated)
