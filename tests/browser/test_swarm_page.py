"""The page of the run as a whole: readable everywhere, with numbers that change, and nothing of others as markup."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from browser.shown import HOSTILE, OTHERS, busy, member_of
from browser.visits import LOOKS, Look, visited
from helpers.asking import served

from p2p_elastic.status.schema import PeerStatus

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NO_PAGES = tuple(f"{where}/tcp/1/http" for where in ("/ip4/127.0.0.1", "/dns/localhost.", "/dns/javascript:alert(1)"))
PAGE = "/ip4/192.0.2.1/tcp/8765/http"


def large(loss: float = 0.25) -> PeerStatus:
    """A peer of a large run, that sees members of all kinds."""
    rng = random.Random(1)
    members = [
        member_of(
            peer,
            loss=loss + 0.1 * rng.random(),
            step=10_000 + rng.randrange(3000),
            steps_per_second=5.0 + 10.0 * rng.random(),
            version="0.1.0",
            protocol=4,
        )
        for peer in OTHERS
    ]
    odd = [
        {"loss": 7.5, "addresses": (PAGE,)},
        {"weight": 0.1, "state": "suspect"},
        {"drained": True},
        {"version": HOSTILE[:40]},
        {"state": "dead"},
        {"addresses": NO_PAGES, "steps_per_second": 0.1},
    ]
    changed = [one.model_copy(update=changes) for one, changes in zip(members, odd, strict=False)]
    members = [*changed, *members[len(odd) :]]
    return busy(0, members=tuple(members), protocol=4, network={"attached": True, "members_about": 12_345})


@pytest.mark.parametrize("look", LOOKS, ids=str)
def test_it_is_whole_readable_and_asks_no_other_host(browser: Browser, look: Look) -> None:
    with served(large) as url, visited(browser, f"{url}/swarm", look) as visit:
        visit.page.get_by_text("About 12,345 members").wait_for()
        for name in ("Loss", "Steps", "Steps per second", "Weight"):
            assert visit.page.get_by_role("heading", name=name, exact=True).is_visible()
        assert not visit.scrolls_sideways()
        assert visit.cut_labels() == []
        assert visit.violations() == []
        foreign = [address for address in visit.foreign if not address.startswith(url)]
        assert (visit.complaints, foreign) == ([], [])


def test_who_needs_attention_is_named_with_the_reasons_and_a_page_if_there_is_one(browser: Browser) -> None:
    with served(large) as url, visited(browser, f"{url}/swarm") as visit:
        rows = visit.page.locator("#attention li")
        rows.first.wait_for()
        told = rows.all_inner_texts()
        assert len(told) == 6
        assert any("suspect; weight 0.1" in text for text in told)
        assert any(HOSTILE[:40] in text for text in told)
        links = {one.get_attribute("href") for one in visit.page.locator("#attention a").all()}
        assert links == {"http://192.0.2.1:8765/"}
        assert visit.page.title() != "1"


def test_numbers_change_and_a_peer_that_is_gone_is_said(browser: Browser) -> None:
    told = [large()]
    with served(lambda: told[0]) as url, visited(browser, f"{url}/swarm") as visit:
        visit.page.get_by_text("About 12,345 members").wait_for()
        told[0] = busy(0)
        visit.page.get_by_text("1 member.").wait_for()
        visit.page.get_by_text("Nobody.").wait_for()
        visit.page.route("**/v1/swarm", lambda route: route.abort())
        visit.page.get_by_role("alert").filter(has_text="does not answer").wait_for()
        visit.page.unroute("**/v1/swarm")
        visit.page.get_by_role("alert").wait_for(state="hidden")
        with served(busy) as other:
            visit.page.goto(f"{other}/")
            visit.page.get_by_role("link", name="The run as a whole").click()
            visit.page.get_by_text("3 members.").wait_for()
