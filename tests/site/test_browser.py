"""The site in a browser: formulas, phone width, dark colours, search, no request to outside."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

LANDING, MATHS, FIGURES = (
    "index.html",
    "executed/05_class_goodness.html",
    "executed/09_small_data.html",
)
CLAIMS, CORE = "results/claims.html", "api/sff_teach.core.html"
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


def show(page, address, name, size=DESK):
    """Open a page of the site and wait until its scripts and formulas are ready."""
    page.set_viewport_size(size)
    page.goto(f"{address}/{name}")
    page.evaluate("() => window.MathJax ? MathJax.startup.promise : null")


@pytest.mark.parametrize("name", [LANDING, MATHS, FIGURES, CLAIMS, CORE])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_page_opens(page, address, shot, name, size):
    """Errors of scripts and requests to other machines fail in the fixture `page`."""
    failed = []
    page.on("response", lambda reply: failed.append(reply.url) if reply.status >= 400 else None)
    show(page, address, name, size)
    assert page.locator("article h1").count() == 1
    assert page.locator("article h1").is_visible()
    shot("top")
    # A browser asks for an icon by itself.
    assert [url for url in failed if not url.endswith("/favicon.ico")] == []


def test_formulas_are_set(page, address, shot):
    show(page, address, MATHS)
    formulas = page.locator("article .math")
    assert formulas.count() > 50
    assert page.locator("article .math:not(:has(mjx-container))").count() == 0
    assert page.locator("article mjx-merror").count() == 0
    # MathJax without its fonts would leave boxes.
    fonts = page.evaluate(
        "() => [...document.fonts].filter(f => f.status === 'loaded').map(f => f.family)"
    )
    assert sum("MJX" in name for name in fonts) >= 3
    block = page.locator("article div.math").first
    block.scroll_into_view_if_needed()
    shot("formula", block)


def test_no_page_is_wider_than_a_phone(page, address, site, pages):
    """Wide tables, formulas and code scroll in their own boxes."""
    wide, looked_at = [], 0
    for path in pages:
        name = path.relative_to(site.resolve()).as_posix()
        if name.startswith("_modules/"):
            continue
        show(page, address, name, PHONE)
        looked_at += 1
        if page.evaluate("() => document.documentElement.scrollWidth > window.innerWidth"):
            wide.append(name)
    assert looked_at > 60
    assert wide == []


def test_wide_tables_scroll_in_their_own_box(page, address):
    show(page, address, CLAIMS, PHONE)
    box = page.locator("article table").first.locator("xpath=..")
    assert box.evaluate("e => e.scrollWidth > e.clientWidth")
    box.evaluate("e => e.scrollTo(200, 0)")
    assert box.evaluate("e => e.scrollLeft") == 200


def test_figures_fit_a_phone_and_stay_light_in_the_dark(page, address, shot):
    page.emulate_media(color_scheme="dark")
    show(page, address, FIGURES, PHONE)
    assert page.evaluate("() => document.documentElement.dataset.theme") == "dark"
    figures = page.locator("article figure img")
    assert figures.count() >= 3
    for figure in figures.all():
        box = figure.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= PHONE["width"]
    figure = figures.first
    figure.scroll_into_view_if_needed()
    shot("figure")
    corner = np.asarray(Image.open(io.BytesIO(figure.screenshot())).convert("RGB"))[5, 5]
    # The theme dims pictures to 0.8 of their brightness; dark would be below 60.
    assert corner.min() > 150
    text = page.locator("article p").first.evaluate("e => getComputedStyle(e).color")
    assert min(int(part) for part in text.removeprefix("rgb(").rstrip(")").split(",")) > 150


def test_picture_of_the_page_is_that_of_the_notebook(page, address):
    show(page, address, MATHS)
    stored = page.locator("article figure img").first
    content = base64.b64decode(stored.get_attribute("src").partition("base64,")[2])
    size = stored.evaluate("e => [e.naturalWidth, e.naturalHeight]")
    assert size == list(Image.open(io.BytesIO(content)).size)


def test_search_answers_offline(page, address):
    show(page, address, "search.html?q=checkpointing")
    found = page.locator("#search-results li a")
    found.first.wait_for()
    links = [link.get_attribute("href") for link in found.all()]
    assert any("08_memory_and_speed" in link for link in links)
    excerpts = page.locator("#search-results p.context")
    excerpts.nth(len(links) // 2).wait_for()
    assert not [text for text in excerpts.all_inner_texts() if "System Settings" in text]


def test_answers_of_the_self_check_open(page, address):
    show(page, address, MATHS)
    answers = page.locator("article details").filter(has_text="Right.")
    assert answers.count() >= 3
    first = answers.first
    assert not first.get_by_text("Right.").is_visible()
    first.locator("summary").focus()
    page.keyboard.press("Space")
    assert first.get_by_text("Right.").is_visible()


@pytest.mark.parametrize("name", [LANDING, MATHS, CLAIMS, CORE])
def test_accessible(page, address, name):
    from tests.browser._lab import axe_problems  # needs Playwright, as the page above

    show(page, address, name)
    assert axe_problems(page, "body") == []
