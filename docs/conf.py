"""The site: `make docs`. Warnings are errors, links within it are checked, those that lead out of it are listed."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

import p2p_elastic

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE))

from generated import PAGES  # noqa: E402  # of this folder

project = "p2p-elastic"
version = release = p2p_elastic.__version__
copyright = "the authors of p2p-elastic, Apache License 2.0"
language = "en"
highlight_language = "text"
extensions = ["myst_parser"]
myst_heading_anchors = 4
exclude_patterns = ["_build"]
html_theme = "pydata_sphinx_theme"
html_title = f"p2p-elastic {release}"
html_theme_options = {
    "header_links_before_dropdown": 8,
    "navigation_with_keys": False,
    "footer_start": ["copyright"],
    "footer_end": [],
}
# A page on its own, without pages below it, needs no list of them.
html_sidebars = {name: [] for name in ("index", "tutorial", "errors", "glossary", "design", "security", "changelog")}
html_show_sphinx = False
html_show_sourcelink = False
html_copy_source = False

MARK = re.compile(r"<!-- generated: ([a-z-]+) -->")
FILE = re.compile(r"<!-- file: (\S+) -->")
LINK = re.compile(r"(?<=\]\()([^)#:\s]+)(?=[)#])")
PAGES_OF = {
    "README.md": "docs/index.md",
    "CONTRIBUTING.md": "docs/contributing/index.md",
    "SECURITY.md": "docs/security.md",
    "CHANGELOG.md": "docs/changelog.md",
    "api/README.md": "docs/reference/http-examples.md",
    "peers/README.md": "docs/protocol/index.md",
}


def fill(_app: Sphinx, page: str, source: list[str]) -> None:
    """Generated parts, and files from elsewhere in the repository, in the place of their marks."""
    source[0] = FILE.sub(lambda mark: included(mark[1], page), source[0])
    source[0] = MARK.sub(lambda mark: PAGES[mark[1]](), source[0])


def included(name: str, page: str) -> str:
    """A file of the repository, with its links as seen from a page."""

    def seen_from_here(link: re.Match[str]) -> str:
        there = os.path.normpath((ROOT / name).parent / link[1])
        known = PAGES_OF.get(os.path.relpath(there, ROOT))
        return os.path.relpath(ROOT / known if known else there, (HERE / page).parent)

    return LINK.sub(seen_from_here, (ROOT / name).read_text(encoding="utf-8"))


def list_links(app: Sphinx, doctree: nodes.document, _page: str) -> None:
    """Remember each link that leads out of the site."""
    links = app.env.__dict__.setdefault("external_links", set())
    links |= {node["refuri"] for node in doctree.findall(nodes.reference) if "://" in node.get("refuri", "")}


def write_links(app: Sphinx, error: Exception | None) -> None:
    """Nothing is fetched: a build must work without a network."""
    if error is None:
        links = sorted(getattr(app.env, "external_links", ()))
        (Path(app.outdir) / "external-links.txt").write_text("".join(f"{link}\n" for link in links), encoding="utf-8")


def setup(app: Sphinx) -> None:
    """What Sphinx calls."""
    app.connect("source-read", fill)
    app.connect("doctree-resolved", list_links)
    app.connect("build-finished", write_links)
