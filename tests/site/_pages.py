"""What the tests read from the built pages: their tags, and what is wrong with their links."""

import re
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

OUTSIDE = re.compile(r"\s*(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
LOADING = {"script", "link", "img", "iframe", "source", "video", "audio", "embed", "object"}
IN_STYLES = re.compile(r"""(?:url\(|@import)\s*["']?\s*((?:https?:)?//[^"')\s]+)""")


class Page(HTMLParser):
    """The tags of a page, in order, and its words."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.tags: list[tuple[str, dict]] = []
        self._words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self._words.append(data)

    @cached_property
    def words(self) -> str:
        return "".join(self._words)

    @cached_property
    def anchors(self) -> set[str]:
        return {attrs[key] for _, attrs in self.tags for key in ("id", "name") if attrs.get(key)}

    @property
    def pictures(self) -> list[dict]:
        return [attrs for tag, attrs in self.tags if tag == "img"]

    @property
    def addresses(self) -> list[tuple[str, str]]:
        """(tag, address) of everything that the page links to or loads."""
        return [
            (tag, attrs[key])
            for tag, attrs in self.tags
            for key in ("href", "src", "data", "poster")
            if attrs.get(key)
        ]


def read_pages(folder: Path) -> dict[Path, Page]:
    """Return every page of a built site by its path; the theme's templates are none."""
    paths = sorted(path for path in folder.rglob("*.html") if "_static" not in path.parts)
    return {path.resolve(): Page(path) for path in paths}


def broken_links(folder: Path, pages: dict[Path, Page]) -> list[str]:
    """Return the links and addresses that lead to no file of the site, or to no anchor there."""
    broken = set()
    for page in pages.values():
        for _, address in page.addresses:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = page.path.parent / unquote(parts.path) if parts.path else page.path
            target = target.resolve()
            here = f"{page.path.relative_to(folder)}: {address}"
            if not target.is_relative_to(folder.resolve()) or not target.is_file():
                broken.add(f"{here} is no file of the site")
                continue
            # "#" alone and "#top" are the top of every page.
            anchors = pages[target].anchors | {"", "top"} if target in pages else set()
            if anchors and unquote(parts.fragment) not in anchors:
                broken.add(f"{here} has no such anchor")
    return sorted(broken)


def loaded_from_outside(folder: Path, pages: dict[Path, Page]) -> list[str]:
    """Return what pages and style sheets would load from another host."""
    found = [
        f"{page.path.relative_to(folder)}: <{tag}> {address}"
        for page in pages.values()
        for tag, address in page.addresses
        if tag in LOADING and OUTSIDE.match(address)
    ]
    for sheet in sorted(folder.rglob("*.css")):
        for address in IN_STYLES.findall(sheet.read_text(encoding="utf-8")):
            found.append(f"{sheet.relative_to(folder)}: {address}")
    return found
