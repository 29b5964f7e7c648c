"""The page while something happens: it loads, numbers change, the peer goes and comes back, keys are pressed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from browser.shown import HOSTILE, OTHERS, admission_of, busy, history_of, log_of, member_of, starting, troubled
from browser.visits import LOOKS, Visit, visited
from helpers.asking import served

from p2p_elastic.api.events_stream import Streams
from p2p_elastic.status.events import KINDS
from p2p_elastic.status.schema import PeerStatus

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, Route

PHONE = LOOKS[2]
PAGES = {
    ("/ip4/192.0.2.1/tcp/31330", "/ip4/192.0.2.1/tcp/8765/http"): "http://192.0.2.1:8765/",
    ("/ip6/2001:db8::1/tcp/8765/http", "/ip4/192.0.2.2/tcp/8765/http"): "http://[2001:db8::1]:8765/",
    ("/dns/peer.example/tcp/80/http",): "http://peer.example/",
    ("/dns4/peer.example/tcp/8765/http",): "http://peer.example:8765/",
}
NO_PAGES = [
    *("/ip4/192.0.2.1/tcp/8765", "/ip4/192.0.2.1/tcp/8765/https", "/ip4/192.0.2.1/tcp/99999/http", "/http"),
    *("/ip4/127.0.0.1/tcp/1/http", "/dns/127.1/tcp/1/http", "/dns/0x7f000001/tcp/1/http", "/dns/localhost/tcp/1/http"),
    *(
        "/ip6/::1/tcp/1/http",
        "/ip6/::ffff:127.0.0.1/tcp/1/http",
        "/ip4/0.0.0.0/tcp/1/http",
        "/dns/a.localhost/tcp/1/http",
    ),
    *("/dns/javascript:alert(1)/tcp/1/http", "/dns/a@b/tcp/1/http", "/dns/a?b/tcp/1/http", "/dns/a#b/tcp/1/http"),
    *(
        '/dns/"onclick="/tcp/1/http',
        "/dns/<a>/tcp/1/http",
        "/dns/a\\b/tcp/1/http",
        "/dns/a/b/tcp/1/http",
        "/ip46/1.2.3.4/tcp/1/http",
    ),
]
DISCONNECTED = {"ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_CONNECTION_RESET"}


def quick() -> Streams:
    return Streams(poll_seconds=0.01, progress_seconds=0.05)


def shows(place: Locator, text: str) -> None:
    """Wait until it does."""
    place.filter(has_text=text).first.wait_for()


def pass_time_until(visit: Visit, condition: Callable[[], bool]) -> None:
    """Let seconds pass on the page's clock."""
    for _ in range(600):
        if condition():
            return
        visit.page.clock.run_for(1000)
    raise AssertionError("ten minutes passed")


def test_it_says_that_it_loads_until_the_first_status_is_there(browser: Browser) -> None:
    held: list[Route] = []
    with served(busy) as url, visited(browser, "about:blank", PHONE) as visit:
        visit.page.route("**/v1/status", lambda route: held.append(route))
        visit.page.goto(url)
        loading = visit.page.get_by_role("status").filter(has_text="Loading")
        loading.wait_for()
        assert not visit.page.get_by_role("main").is_visible()
        assert visit.violations() == []
        held[0].continue_()
        shows(visit.page.get_by_role("main"), "13,390")
        assert not loading.is_visible()


def test_a_peer_that_has_just_started_is_shown_without_an_alarm(browser: Browser) -> None:
    from playwright.sync_api import expect

    with served(starting, history=None, events=None) as url, visited(browser, url) as visit:
        shows(visit.page.locator("#why"), "It has not begun to train yet")
        expect(visit.page).to_have_title(re.compile("✓ starting"))
        expect(visit.page.locator(".pill")).to_have_text("✓ ok")
        assert visit.page.locator(".alarm:visible, .bad:visible").all_text_contents() == []
        for words in ("Nothing to draw yet.", "Nothing happened yet.", "None yet.", "Nobody else yet."):
            assert visit.page.get_by_text(words, exact=True).is_visible()


def test_numbers_and_events_change_without_a_reload(browser: Browser) -> None:
    shown, log = [busy()], log_of()
    with served(lambda: shown[0], events=log, streams=quick()) as url, visited(browser, url) as visit:
        shows(visit.page.locator("#training"), "13,390")
        visit.page.evaluate("window.kept = true")
        visit.page.route("**/v1/status", lambda route: route.abort())  # what comes now comes over the stream
        shown[0] = busy(step=14_001)
        shows(visit.page.locator("#training"), "14,001")
        log.add("left", f"{OTHERS[0]} left")
        shows(visit.page.locator("#events"), "left …other001 left")
        assert visit.page.evaluate("window.kept")


def test_every_kind_of_event_is_shown_and_exchanges_apart_from_all_else(browser: Browser) -> None:
    log = log_of()
    for kind in KINDS:
        log.add(kind, f"news of {kind}")
    with served(busy, events=log) as url, visited(browser, url) as visit:
        shows(visit.page.locator("#exchanges"), "news of exchange")
        events, exchanges = visit.page.locator("#events"), visit.page.locator("#exchanges")
        shows(events, f"news of {KINDS[-1]}")
        assert set(re.findall(r"news of (\w+)", events.inner_text())) == {*KINDS} - {"exchange"}
        assert set(re.findall(r"news of (\w+)", exchanges.inner_text())) == {"exchange"}
        warnings = {words.strip() for words in events.locator("b.warn").all_text_contents()}
        assert warnings == {"suspect", "dead", "drained", "partition", "duplicate", "undone"}


def test_a_peer_that_goes_is_said_to_be_gone_until_it_is_back(browser: Browser) -> None:
    with contextlib.ExitStack() as rest:
        with served(busy, streams=quick()) as url:
            visit = rest.enter_context(visited(browser, url, PHONE))
            shows(visit.page.locator("#training"), "13,390")
            visit.page.clock.install()
        lost = visit.page.locator("#connection")
        pass_time_until(visit, lost.is_visible)  # the page tries again for some seconds before it says so
        assert "No answer since" in lost.inner_text()
        assert visit.page.title().startswith("✕ no answer")
        assert "13,390" in visit.page.locator("#training").inner_text()
        assert visit.violations() == []
        with served(lambda: busy(step=14_001), port=urlsplit(url).port or 0, streams=quick()):
            pass_time_until(visit, lost.is_hidden)
            shows(visit.page.locator("#training"), "14,001")
            assert visit.page.title().startswith("✓")
        assert {complaint.split("::")[-1] for complaint in visit.complaints} <= DISCONNECTED


def test_strings_of_strangers_are_shown_as_text(browser: Browser) -> None:
    status = troubled(HOSTILE)
    with (
        served(lambda: status, history=history_of(status), events=log_of(HOSTILE)) as url,
        visited(browser, url, PHONE) as visit,
    ):
        visit.page.locator("#chart").wait_for()
        shows(visit.page.locator("#exchanges"), HOSTILE)
        for place in ("#head", "#why", "#weight", "#training", "#readout", "#standing", "#peers", "#events"):
            assert HOSTILE in visit.page.locator(place).inner_text(), place
        assert visit.page.locator("img, iframe, object, form").count() == 0
        assert visit.page.locator("script").count() == 1
        links = {a.get_attribute("href") for a in visit.page.locator("a").all()}
        assert links == {"swarm", "docs", "v1/status", "metrics"}
        assert visit.page.title().startswith("▲ degraded")
        assert (visit.complaints, visit.foreign) == ([], [])


def test_a_member_that_shows_a_page_is_linked_and_no_other_address_becomes_a_link(browser: Browser) -> None:
    shown = [member_of(peer, addresses=addresses) for peer, addresses in zip(OTHERS, PAGES, strict=False)]
    hidden = [member_of(f"{OTHERS[-1]}{i}", addresses=(address,)) for i, address in enumerate(NO_PAGES)]
    status = busy(0, members=(*shown, *hidden))
    with served(lambda: status) as url, visited(browser, url) as visit:
        visit.page.locator("#more").click()
        shows(visit.page.locator("#peers"), "Show fewer")
        links = visit.page.locator("#peers a")
        assert {link.get_attribute("href") for link in links.all()} == set(PAGES.values())
        assert {link.get_attribute("rel") for link in links.all()} == {"noreferrer"}
        named = visit.page.get_by_role("link", name="page of …other002")
        assert named.get_attribute("title") == named.get_attribute("href")
        assert visit.violations() == []


def test_all_that_can_be_done_can_be_done_with_the_keyboard(opened: Visit) -> None:
    page = opened.page
    order = [focused(page)]
    while order[-1] != "BODY" or len(order) == 1:
        page.keyboard.press("Tab")
        order.append(focused(page))
        assert order[-1] == "BODY" or page.evaluate(OUTLINED), order[-1]
    assert len(order) < 40
    reached = set(order)
    controls = page.locator("a, button, summary, [tabindex='0']").all()
    assert {control.evaluate(NAME) for control in controls if control.is_visible()} == reached - {"BODY"}


def test_keys_open_details_pin_a_peer_and_read_the_curve(opened: Visit) -> None:
    page = opened.page
    page.locator("#head summary").focus()
    page.keyboard.press("Enter")
    assert page.locator("#head details").get_attribute("open") is not None
    button = page.locator("#peers button").first
    button.focus()
    page.keyboard.press("Enter")
    page.locator("#peers button[aria-pressed=true]").wait_for()
    shows(page.locator("#told"), "…other004: alive")
    assert button.evaluate("node => node === document.activeElement")
    page.keyboard.press("Space")
    page.locator("#peers button[aria-pressed=true]").wait_for(state="detached")
    page.locator("#chart").focus()
    page.keyboard.press("ArrowLeft")
    shows(page.locator("#readout"), "after 1 min 38 s")
    page.keyboard.press("Escape")
    shows(page.locator("#readout"), "after 1 min 40 s")


@pytest.fixture
def opened(browser: Browser) -> Iterator[Visit]:
    status: PeerStatus = troubled()
    with served(lambda: status, history=history_of(status), events=log_of()) as url, visited(browser, url) as visit:
        visit.page.locator("#chart").wait_for()
        yield visit
        assert visit.complaints == []


NAME = "node => node.tagName + '#' + (node.id || node.textContent)"
OUTLINED = "getComputedStyle(document.activeElement).outlineStyle !== 'none'"


def focused(page: Page) -> str:
    """The control that has the keyboard; `BODY` if none has."""
    name: str = page.evaluate(f"({NAME})(document.activeElement)")
    return "BODY" if name.startswith("BODY") else name


def test_a_private_run_shows_who_was_admitted_by_whom_and_who_is_not_any_more(browser: Browser) -> None:
    one, other = OTHERS[:2]
    admission = admission_of(one, other, problem="the ticket was revoked")
    with served(lambda: busy(admission=admission)) as url, visited(browser, url, PHONE) as visit:
        shows(visit.page.locator("#standing"), "private run, admitted as trainer, for 3 d more")
        shows(visit.page.locator("#standing"), "3 tickets refused")
        shows(visit.page.locator(f'tr[data-peer="{one}"]'), "the ticket was revoked")
        shows(visit.page.locator(f'tr[data-peer="{other}"]'), "trainer by …")
        assert visit.violations() == []
