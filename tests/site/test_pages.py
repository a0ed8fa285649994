"""The built site is whole: all pages, no dead link, no word lost, nothing loaded from outside."""

import html
import json
import re

import pytest

from tools import make_site
from tools.bootstrap_cell import REPOSITORY, TAG
from tools.make_site import ROOT

from ._pages import broken_links, loaded_from_outside, read_pages

NOTEBOOKS = sorted(ROOT.glob("executed/[0-9][0-9]_*.ipynb"))
RELEASED = sorted(ROOT.glob("notebooks/assignments/release/*/*.ipynb"))


def test_every_page_is_there_and_can_be_found(site, pages):
    sources = [*NOTEBOOKS, *RELEASED]
    for folder in ("docs", "results"):
        sources += ROOT.glob(f"{folder}/*.md")
    names = [path.relative_to(ROOT).with_suffix(".html").as_posix() for path in sources]
    names += ["CONTRIBUTING.html", "CHANGELOG.html", "data/README.html", "api/index.html"]
    names += [f"api/{module}.html" for module in make_site.public_modules()]
    assert len(names) > 60
    beside = {
        (site / link.partition("#")[0]).resolve()
        for _, link in pages[(site / "index.html").resolve()].addresses
    }
    reference = pages[(site / "api" / "index.html").resolve()]
    beside |= {(site / "api" / link.partition("#")[0]).resolve() for _, link in reference.addresses}
    for name in names:
        assert (site / name).resolve() in pages, f"{name} is missing"
        assert (site / name).resolve() in beside, f"nothing leads to {name}"


def test_answers_stay_at_home(site):
    published = {path.relative_to(site).as_posix() for path in site.rglob("*")}
    assert "notebooks/assignments/release/a1" in published
    assert not [name for name in published if re.search(r"assignments/(?!release)", name)]
    for path in site.rglob("*.*"):
        if path.suffix in (".html", ".ipynb", ".txt", ".js"):
            # As nbgrader writes it; the guides may name the mark.
            assert not re.search(r"#+ ?BEGIN (SOLUTION|HIDDEN TESTS)", path.read_text("utf-8")), (
                path
            )


def test_links_lead_somewhere(site, pages):
    assert sum(len(page.addresses) for page in pages.values()) > 5_000
    assert broken_links(site, pages) == []


def test_nothing_is_loaded_from_outside(site, pages):
    assert loaded_from_outside(site, pages) == []


def test_pictures_have_words(site, pages):
    pictures = [(page.path, one) for page in pages.values() for one in page.pictures]
    assert len(pictures) > 80
    assert not [str(path) for path, one in pictures if not (one.get("alt") or "").strip()]


def test_checks_see_what_is_wrong(tmp_path):
    (tmp_path / "a.html").write_text(
        '<h1 id="top-of-a">A</h1><a href="b.html#there">1</a><a href="b.html#gone">2</a>'
        '<a href="c.html">3</a><a href="#top-of-a">4</a><a href="../outside.html">5</a>'
        '<a href="https://example.org/">6</a><img src="//example.org/x.png" alt="x">'
        '<script src="https://example.org/x.js"></script><a href="#nowhere">7</a>'
    )
    (tmp_path / "b.html").write_text('<p id="there">B</p><img src="gone.png">')
    (tmp_path / "s.css").write_text(
        "@import 'https://example.org/s.css'; p {background: url(//example.org/p.png)}"
        " a {background: url(own.png)}"
    )
    pages = read_pages(tmp_path)
    assert [line.partition(" ")[2].split()[0] for line in broken_links(tmp_path, pages)] == [
        "#nowhere", "../outside.html", "b.html#gone", "c.html", "gone.png",
    ]  # fmt: skip
    assert len(loaded_from_outside(tmp_path, pages)) == 4


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_shows_its_stored_outputs(site, pages, path):
    """Every stored picture and printed line stands in the page, and no cell was run or lost."""
    page = pages[(site / path.relative_to(ROOT).with_suffix(".html")).resolve()]
    shown = {one["src"] for one in page.pictures}
    words = " ".join(page.words.split())
    pictures = 0
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", ()):
            stored = "".join(output.get("data", {}).get("text/html", ""))
            for address in re.findall(r'<img src="(data:image/png;base64,[^"]+)"', stored):
                assert address in shown
                pictures += 1
            printed = "".join(output.get("text", ""))
            for line in filter(None, (" ".join(line.split()) for line in printed.splitlines())):
                assert line in words, line
        if cell["cell_type"] == "code":
            first = " ".join(html.unescape("".join(cell["source"])).split("\n")[0].split())
            assert first in words, first
    assert pictures


ADDRESS = "https://github.com/an-owner/a-name"


def test_links_are_those_of_the_site(monkeypatch):
    guide = ROOT / "docs" / "teaching.md"
    monkeypatch.setattr(make_site, "REPOSITORY", ADDRESS)
    for folder, link, changed in (
        ("notebooks", "../README.md#the-course", "../index.md#the-course"),
        (".", "data/README.md", "data/README.md"),
        ("notebooks", "b.ipynb#More-to-read", "b.ipynb#more-to-read"),
        ("notebooks", "#Summary", "#summary"),
        ("notebooks", "../docs/teaching.md", "../docs/teaching.md"),
        ("notebooks", "../tests", f"{ADDRESS}/tree/{TAG}/tests"),
        (".", "Makefile", f"{ADDRESS}/blob/{TAG}/Makefile"),
        (".", "https://example.org/B#More", "https://example.org/B#More"),
        (".", "gone.md", "gone.md"),  # Sphinx stops there
    ):
        text = make_site.rewrite_links(
            f"see [x]({link}), f[0](x)", ROOT / folder, {guide, ROOT / "data/README.md"}
        )
        assert text == f"see [x]({changed}), f[0](x)"


def test_a_notebook_s_name_leads_to_its_copy_with_results():
    copies = {path for path in NOTEBOOKS if path.name.startswith("05")}
    text = make_site.rewrite_links("[x](notebooks/05_class_goodness.ipynb#Summary)", ROOT, copies)
    assert text == "[x](executed/05_class_goodness.ipynb#summary)"


def test_without_a_repository_nothing_leads_to_one(site, pages):
    assert REPOSITORY is None
    text = make_site.rewrite_links("see [the tests](tests)", ROOT, set())
    assert text == "see the tests"


def test_what_is_folded_in_a_notebook_is_folded_here(site):
    page = (site / "executed" / "06_an_sff_cnn.html").read_text("utf-8")
    notebook = json.loads((ROOT / "executed" / "06_an_sff_cnn.ipynb").read_text("utf-8"))
    folded = [c for c in notebook["cells"] if c["metadata"].get("jupyter", {}).get("source_hidden")]
    assert len(folded) > 8
    assert page.count('<details class="admonition hide') == len(folded)
