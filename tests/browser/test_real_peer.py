"""The page of a real peer, in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser.visits import Look, visited
from helpers.running import START_SECONDS

from p2p_elastic.demo.processes import Swarm

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def test_a_peer_that_trains_is_watched_as_it_gets_on(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from playwright.sync_api import expect

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with Swarm(tmp_path) as swarm:
        peer = swarm.start("peer", ["--epochs", "100000"])
        swarm.listen_until(lambda: "progress" in peer.said, "training", START_SECONDS)
        with visited(browser, peer.said["listening"]["http"], Look("dark", 390, 844)) as visit:
            step = visit.page.locator("#training b").first
            step.wait_for()
            expect(step).not_to_have_text(step.inner_text())
            visit.page.locator("#chart").wait_for()
            assert visit.violations() == []
            assert (visit.scrolls_sideways(), visit.cut_labels(), visit.faint_labels()) == (False, [], [])
            assert (visit.complaints, visit.foreign) == ([], [])
