"""Every paper that a notebook or page cites stands in docs/references.md, once, with a link."""

import re

import pytest

from tools.check_notebooks import ROOT, course_files, read_notebook

REFERENCES = ROOT / "docs" / "references.md"
LISTED = REFERENCES.read_text(encoding="utf-8")
PAGES = [
    path
    for path in course_files()
    if path != REFERENCES and path.name not in ("CHANGELOG.md", "SECURITY.md")
]
# "Hinton 2022", "Hinton (2022)", "Wang et al., 2021", "Nøkland & Eidnes 2019", "CwComp, 2024"
NAME = r"[A-ZÅÄÖØÉ][\w\-]+"
CITED = re.compile(rf"\b({NAME})(?:'s|’s)?(?: et al\.?| (?:and|&) {NAME})?,? \(?((?:19|20)\d\d)\b")
NO_AUTHORS = {"In", "Since", "AAAI", "Copyright"}


def citations(text: str) -> set[tuple[str, str]]:
    """The first author, or the method's name, and the year of every citation in a text."""
    text = re.sub(r"(?s)```.*?```|`[^`]*`", "", text)
    return {(who, year) for who, year in CITED.findall(text) if who not in NO_AUTHORS}


def is_listed(who: str, year: str, listed: str = LISTED) -> bool:
    """Whether a line of the references has the name, the year and a link."""
    return any(
        re.search(rf"\b{re.escape(who)}\b", line) and re.search(rf"\b{year}\b", line)
        for line in listed.splitlines()
        if "](https://" in line
    )


def text_of(path) -> str:
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    cells = read_notebook(path).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_what_is_cited_is_listed(path):
    missing = {one for one in citations(text_of(path)) if not is_listed(*one)}
    assert not missing, f"add to docs/references.md, with a link: {sorted(missing)}"


def test_a_notebook_that_cites_leads_to_the_papers():
    for path in PAGES:
        text = text_of(path)
        if path.suffix == ".ipynb" and citations(text):
            assert "docs/references.md" in text or "](https://arxiv.org/" in text, path.name


def test_every_paper_is_listed_once():
    links = re.findall(r"\]\((https://(?!github)[^)]+)\)", LISTED)
    assert len(links) > 30
    assert len(links) == len(set(links))


def test_the_check_can_fail():
    assert citations("see Nobody et al. (2031) and `Wang et al. 2021`") == {("Nobody", "2031")}
    assert citations("Nøkland & Eidnes 2019; Hinton's (2022) paper; CwComp, 2024") == {
        ("Nøkland", "2019"),
        ("Hinton", "2022"),
        ("CwComp", "2024"),
    }
    assert not is_listed("Nobody", "2031")
    assert not is_listed("Hinton", "2022", listed="- Hinton 2022. No link.")
