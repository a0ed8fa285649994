"""The self-check questions in a real JupyterLab: closed, opened by keyboard, no cell edited."""

import pytest

pytest.importorskip("playwright", reason="Playwright is not installed; run make browser-test.")

from playwright.sync_api import expect

from ._lab import axe_problems, open_notebook

pytestmark = pytest.mark.nightly


def test_answers_open_by_keyboard(lab, page, shot):
    open_notebook(page, lab, "notebooks/06_an_sff_cnn.ipynb")
    heading = page.get_by_role("heading", name="Check yourself")
    cell = page.locator(".jp-MarkdownCell").filter(has=heading)
    answers = cell.locator("details")
    assert answers.count() == 9
    cell.scroll_into_view_if_needed()
    shot("closed", cell)
    for answer in answers.all():
        assert not answer.evaluate("e => e.open")
        expect(answer.locator("strong").first).to_be_hidden()

    summaries = cell.locator("summary")
    summaries.nth(0).focus()
    page.keyboard.press("Space")
    assert answers.nth(0).evaluate("e => e.open")
    for number in range(1, 9):
        page.keyboard.press("Tab")
        assert summaries.nth(number).evaluate("e => e === document.activeElement")
        page.keyboard.press("Space")
        assert answers.nth(number).evaluate("e => e.open"), f"answer {number} stays closed"
        assert answers.nth(number).locator("strong").first.inner_text() in (
            "Right.", "No.", "Not quite.",
        )  # fmt: skip
    assert not page.locator(".jp-MarkdownCell.jp-mod-active .jp-InputArea-editor:visible").count()
    shot("open", cell)
    # The answers only: the button that folds a heading is JupyterLab's, and it has no name.
    assert axe_problems(page, ".jp-MarkdownCell details[open]") == []
