"""A notebook that is opened, read and saved stays as it was: its file, and what is hidden in it."""

import shutil

import pytest

pytest.importorskip("playwright", reason="Playwright is not installed; run make browser-test.")

from playwright.sync_api import expect

from ._lab import READY, open_notebook
from .conftest import ROOT

pytestmark = pytest.mark.nightly
SAVE = "() => window.jupyterapp.commands.execute('docmanager:save')"


@pytest.mark.parametrize("path", ["notebooks/06_an_sff_cnn.ipynb", "executed/00_start_here.ipynb"])
def test_opening_and_saving_changes_no_file(lab, page, path):
    copied = lab[2] / path
    copied.parent.mkdir(exist_ok=True)
    shutil.copy(ROOT / path, copied)
    open_notebook(page, lab, path)
    page.wait_for_timeout(2000)  # what the front end changes by itself, it has changed by now
    page.evaluate(SAVE)
    page.wait_for_function(READY)
    assert copied.read_bytes() == (ROOT / path).read_bytes()


CLOSED = """() => window.jupyterapp.shell.currentWidget.content.widgets
    .filter(w => (w.model.getMetadata('tags') || []).includes('solution'))
    .map(w => [w.inputHidden, w.outputHidden])"""


def test_solutions_are_closed_with_what_they_printed(lab, page, shot):
    executed = lab[2] / "executed" / "00_start_here.ipynb"
    executed.parent.mkdir(exist_ok=True)
    shutil.copy(ROOT / "executed" / executed.name, executed)
    open_notebook(page, lab, f"executed/{executed.name}")
    assert page.evaluate(CLOSED) == [[True, True]] * 2
    shown = page.locator("pre", has_text="the other way round:")  # of the first solution
    expect(shown).to_be_hidden()
    cell = page.locator(".jp-CodeCell").filter(has=page.locator(".jp-OutputPlaceholder")).first
    shot("closed", cell)
    for part in ("Input", "Output"):  # a click on each opens it
        cell.locator(f".jp-{part}Placeholder").click()
    expect(shown).to_be_visible()
