"""The grader's pages in a real browser: light, dark, narrow; axe-core; nothing hangs over."""

import pytest

pytest.importorskip("playwright", reason="Playwright is not installed; run make browser-test.")

from sff_grade.feedback import by_hand_page, student_page
from sff_grade.source import read_source
from tools import assignments

from ._lab import axe_problems

pytestmark = pytest.mark.nightly

SOURCE = assignments.sources()[3]  # with a task that is marked by hand
LONG = "def verdict(low, high, margin):\n    return " + " or ".join(["low > margin"] * 30)


@pytest.fixture(scope="module")
def pages():
    """One of each kind of line: full, lost, by hand, waiting; answers, repairs, things caught."""
    work = read_source(SOURCE)
    first, second, third, fourth, by_hand = (
        cell.grade_id for cell in work.cells if cell.kind in ("test", "by hand")
    )
    lost = {"points": 0.0, "max": 2.0, "error": "-0.5 … 3.0 holds 0: look at both ends."}
    result = {
        "student": "Jörg_Müller-Lüdenscheidt_with_a_name_that_nothing_can_break_anywhere",
        "tasks": {
            first: {"points": 3.0, "max": 3.0, "error": None},
            second: lost,
            third: {"points": 1.5, "max": 3.0, "error": "", "by_hand": True, "comment": "Half."},
            fourth: lost | {"max": 4.0, "error": "NameError: " + "very_long_name_" * 12},
            by_hand: {"points": None, "max": 8.0, "error": None},
        },
        "answers": {second.removesuffix("-test"): LONG, by_hand: "Ninety images. " * 40},
        "notes": [
            "The notebook had lost nbgrader's marks, as Colab returns it.",
            "cell 12: stopped with OSError: /" + "a/" * 90,
        ],
    }
    done = result | {"student": "ada17", "notes": []}
    result["tasks"][by_hand]["printed"] = "SFF - bp = +1.2 points, 95 % interval -0.5 … +2.9\n" * 3
    return {
        "student": student_page(work, result),
        "untouched": student_page(work, done),
        "by-hand": by_hand_page(work, [(r["student"], r) for r in (result, done)]),
    }


@pytest.mark.parametrize("width", [1280, 360], ids=["laptop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages(page, shot, pages, scheme, width):
    for name, text in pages.items():
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 900})
        page.set_content(text)
        summary = page.locator("summary").first
        if summary.count():  # by keyboard; axe looks at what is open
            summary.focus()
            page.keyboard.press("Enter")
            assert page.locator("details").first.evaluate("e => e.open")
        shot(name)
        assert axe_problems(page, "html") == [], name
        wide = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(wide) <= 0, f"{name} is wider than the window"
        dark = page.evaluate("() => matchMedia('(prefers-color-scheme: dark)').matches")
        assert dark == (scheme == "dark")
