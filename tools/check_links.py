"""Links, anchors, headings and pictures of Markdown, in pages and in notebooks, checked offline."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from markdown_it import MarkdownIt

_MARKDOWN = MarkdownIt("commonmark").enable("table")


class Heading(NamedTuple):
    cell: int
    level: int
    text: str


class Link(NamedTuple):
    cell: int
    url: str


class Tags(HTMLParser):
    """Collects pictures, links and anchors of a piece of HTML.

    A picture gets the text of its figure's caption as `caption`, empty if it has none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.images: list[dict] = []
        self._figure: list[dict] = []  # pictures of the open <figure>
        self._in_figure = self._in_caption = False
        self.links: list[str] = []
        self.anchors: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        attributes = dict(attrs)
        if tag == "img":
            self.images.append(attributes | {"caption": ""})
            if self._in_figure:
                self._figure.append(self.images[-1])
        if tag == "figure":
            self._in_figure, self._figure = True, []
        if tag == "figcaption":
            self._in_caption = True
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        for key in ("id", "name"):
            if attributes.get(key):
                self.anchors.append(attributes[key])

    def handle_endtag(self, tag: str) -> None:
        if tag == "figure":
            self._in_figure = False
        if tag == "figcaption":
            self._in_caption = False

    def handle_data(self, data: str) -> None:
        if self._in_caption:
            for image in self._figure:
                image["caption"] += data


class Page:
    """The headings, links, anchors and pictures of some Markdown, cell by cell."""

    def __init__(self) -> None:
        self.headings: list[Heading] = []
        self.links: list[Link] = []
        self.anchors: set[str] = set()
        self.no_alt: list[Link] = []

    def add(self, text: str, cell: int = 0) -> None:
        tokens = _MARKDOWN.parse(text)
        for token, following in zip(tokens, [*tokens[1:], None]):
            if token.type == "heading_open":
                words = "".join(
                    t.content
                    for t in following.children
                    if t.type in ("text", "code_inline", "softbreak")
                )
                self.headings.append(Heading(cell, int(token.tag[1]), words))
            elif token.type == "html_block":
                self._add_html(token.content, cell)
            for child in token.children or []:
                if child.type == "image":
                    self.links.append(Link(cell, child.attrs["src"]))
                    if not child.content.strip():
                        self.no_alt.append(Link(cell, child.attrs["src"]))
                elif child.type == "link_open":
                    self.links.append(Link(cell, child.attrs["href"]))
                elif child.type == "html_inline":
                    self._add_html(child.content, cell)

    def _add_html(self, html: str, cell: int) -> None:
        tags = Tags()
        tags.feed(html)
        self.anchors.update(tags.anchors)
        self.links += [Link(cell, url) for url in tags.links]
        for image in tags.images:
            self.links.append(Link(cell, image.get("src", "")))
            if not (image.get("alt") or "").strip():
                self.no_alt.append(Link(cell, image.get("src", "")))


def lab_anchor(heading: str) -> str:
    """Return the anchor that JupyterLab gives a heading."""
    return heading.strip().replace(" ", "-")


def page_anchor(heading: str) -> str:
    """Return the anchor that a Markdown page gets for a heading on a code-hosting site."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors_of(path: Path) -> set[str]:
    """Return the anchors of a notebook or a Markdown page."""
    page = Page()
    if path.suffix == ".ipynb":
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown":
                page.add("".join(cell["source"]))
        anchor = lab_anchor
    else:
        page.add(path.read_text(encoding="utf-8"))
        anchor = page_anchor
    return page.anchors | {anchor(heading.text) for heading in page.headings}


def link_problem(path: Path, url: str) -> str | None:
    """Say what is wrong with a relative link of the file `path`, or return None."""
    if re.match(r"[a-z][a-z0-9+.-]*:", url) or url.startswith("//"):
        return None  # not ours to follow offline
    name, _, fragment = unquote(url).partition("#")
    target = path.parent / name if name else path
    if not target.exists():
        return f"broken link: {url}"
    if fragment and target.suffix in (".ipynb", ".md") and fragment not in anchors_of(target):
        return f"broken anchor: {url}"
    return None


def page_problems(path: Path, page: Page) -> Iterator[tuple[int, str]]:
    """Yield the problems of links, pictures and the order of headings."""
    for link in page.links:
        problem = link_problem(path, link.url)
        if problem:
            yield link.cell, problem
    for picture in page.no_alt:
        yield picture.cell, f"picture without alt text: {picture.url[:60]}"
    for above, heading in zip(page.headings, page.headings[1:]):
        if heading.level > above.level + 1:
            yield (
                heading.cell,
                f"heading jumps from level {above.level} to {heading.level}: {heading.text}",
            )
