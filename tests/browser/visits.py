"""A headless Chromium that opens the page of a peer, and what it must not do there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Playwright

PROGRAMS = ("chromium", "google-chrome-stable", "google-chrome")
OPTIONS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
WAIT_MS = 60_000  # for what the page shows within a second: a busy machine may take long


class Look(NamedTuple):
    """What the page is drawn for: a colour scheme, and the size of a screen in CSS pixels."""

    scheme: Literal["light", "dark"]
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.scheme}-{self.width}"


DESKTOP, PHONE = (1280, 900), (390, 844)
LOOKS = [Look("light", *DESKTOP), Look("dark", *DESKTOP), Look("light", *PHONE), Look("dark", *PHONE)]


def program() -> str | None:
    """The path of a Chromium on this machine; None if it has none."""
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


def launched(playwright: Playwright) -> Browser:
    """A browser without a window."""
    return playwright.chromium.launch(executable_path=program(), args=OPTIONS)


@dataclass
class Visit:
    """An open page, and all that it complained of.

    Attributes:
        page: in the browser.
        complaints: errors on the console, refused by the Content-Security-Policy, or thrown.
        foreign: addresses of other hosts that it asked for.
    """

    page: Page
    complaints: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def scrolls_sideways(self) -> bool:
        """Say whether the page is wider than the screen."""
        return bool(self.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))

    def cut_labels(self) -> list[str]:
        """The visible texts of which a part is outside their box, their picture or the screen."""
        found: list[str] = self.page.evaluate(CUT_LABELS)
        return found

    def faint_labels(self) -> list[str]:
        """The texts in pictures with less contrast than 4.5 to their card; axe-core leaves those out."""
        found: list[str] = self.page.evaluate(FAINT_LABELS)
        return found

    def violations(self) -> list[str]:
        """What axe-core finds against WCAG 2.1 A and AA, one line each."""
        from axe_playwright_python.sync_playwright import Axe

        run_only = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
        found = Axe().run(self.page, options={"runOnly": run_only}).response["violations"]
        return [
            f"{each['id']}: {node['html'][:160]} {node['failureSummary']}" for each in found for node in each["nodes"]
        ]


@contextmanager
def visited(browser: Browser, url: str, look: Look = LOOKS[0]) -> Iterator[Visit]:
    """Open a page in a session of its own, with motion reduced so that nothing is half way.

    Args:
        browser: that opens it.
        url: of the page.
        look: colour scheme and size.

    Yields:
        The visit.
    """
    context = browser.new_context(
        color_scheme=look.scheme, viewport={"width": look.width, "height": look.height}, reduced_motion="reduce"
    )
    context.set_default_timeout(WAIT_MS)
    visit = Visit(context.new_page())
    visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    visit.page.on("console", lambda message: _note(visit, message))
    visit.page.on(
        "request", lambda request: request.url.startswith(("data:", url)) or visit.foreign.append(request.url)
    )
    try:
        visit.page.goto(url)
        yield visit
    finally:
        context.close()


def _is_own(address: str, url: str) -> bool:
    return address.startswith("data:") or urlsplit(address).netloc == urlsplit(url).netloc


def _note(visit: Visit, message: Any) -> None:
    if message.type in ("error", "warning"):
        visit.complaints.append(message.text)


# Not cut: a text in a box that scrolls, one for screen readers alone, and one shortened with all of it in `title`.
CUT_LABELS = """() => {
  const cut = [], wide = document.documentElement.clientWidth;
  const flows = node => getComputedStyle(node).overflowX + getComputedStyle(node).overflowY;
  const scrolls = node => node && (/auto|scroll/.test(flows(node)) || scrolls(node.parentElement));
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = walker.nextNode(); text; text = walker.nextNode()) {
    const owner = text.parentElement, say = text.data.trim();
    if (!say || owner.closest('script, style, noscript, title, thead, [title]') || !owner.checkVisibility()) continue;
    const range = document.createRange();
    range.selectNodeContents(text);
    const box = range.getBoundingClientRect(), picture = owner.closest('svg')?.getBoundingClientRect();
    if (!box.width) continue;
    const outside = frame => box.left < frame.left - 1 || box.right > frame.right + 1
      || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
    if (picture && outside(picture)) cut.push(`${say} (outside its picture)`);
    if (box.left < -1 || box.right > wide + 1) cut.push(`${say} (outside the screen)`);
    for (let node = owner; node && node !== document.body; node = node.parentElement) {
      const hides = /hidden|clip/.test(flows(node)) && !scrolls(node);
      if (hides && outside(node.getBoundingClientRect())) cut.push(`${say} (cut)`);
    }
  }
  return cut;
}"""

FAINT_LABELS = """() => {
  const parts = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const linear = c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
  const light = colour => parts(colour).map(c => linear(c / 255))
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const ratio = (a, b) => (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  return [...document.querySelectorAll('svg text')].filter(text => {
    const face = text.matches('.worth') && text.parentElement.querySelector('.face');
    const behind = face ? getComputedStyle(face).fill : getComputedStyle(text.closest('.card')).backgroundColor;
    return ratio(light(getComputedStyle(text).fill), light(behind)) < 4.5;
  }).map(text => text.textContent);
}"""
