"""The browser of these tests. They are a part of their own: `make browser`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from browser.visits import WAIT_MS, launched, program

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")  # no longer: while it is open, no other test of this thread can run an event loop
def browser() -> Iterator[Browser]:
    driver = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed")
    if program() is None:
        pytest.skip("no Chromium is installed")
    driver.expect.set_options(timeout=WAIT_MS)
    with driver.sync_playwright() as playwright:
        browser = launched(playwright)
        yield browser
        browser.close()
