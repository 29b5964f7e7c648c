"""The page in light and dark, on a desktop and on a phone: nothing foreign, nothing cut, no objection of axe-core."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from browser.shown import busy, history_of, log_of, starting, troubled
from browser.visits import LOOKS, Look, visited
from helpers.asking import served

from p2p_elastic.status.schema import PeerStatus

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PEERS = {"starting": starting, "busy": busy, "troubled": troubled, "forty": lambda: busy(39)}


@pytest.mark.parametrize("look", LOOKS, ids=str)
@pytest.mark.parametrize("peer", PEERS.values(), ids=PEERS.keys())
def test_the_page_is_whole_readable_and_asks_no_other_host(
    browser: Browser, peer: Callable[[], PeerStatus], look: Look
) -> None:
    status = peer()
    history = history_of(status) if status.training.step else None
    events = log_of() if status.training.step else None
    with served(peer, history=history, events=events) as url, visited(browser, url, look) as visit:
        visit.page.get_by_role("heading", name="This peer", exact=True).wait_for()
        visit.page.locator(".pill:not(.muted)").wait_for()
        if history is not None:
            visit.page.locator("#chart").wait_for()
        assert not visit.scrolls_sideways()
        assert visit.cut_labels() == []
        assert visit.faint_labels() == []
        for details in visit.page.locator("details").all():
            details.evaluate("node => node.open = true")
        assert visit.violations() == []
        assert not visit.scrolls_sideways()
        assert (visit.complaints, visit.foreign) == ([], [])


@pytest.mark.parametrize("look", LOOKS, ids=str)
def test_the_docs_of_the_window_are_readable_and_ask_no_other_host(browser: Browser, look: Look) -> None:
    with served(busy) as url, visited(browser, f"{url}/docs", look) as visit:
        visit.page.get_by_role("heading").first.wait_for()
        assert visit.violations() == []
        assert not visit.scrolls_sideways()
        assert (visit.complaints, visit.foreign) == ([], [])
