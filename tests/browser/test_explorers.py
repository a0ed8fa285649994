"""The explorers in a real browser: by keyboard, with Stop, points that stay until Clear."""

import json

import pytest

pytest.importorskip("playwright", reason="Playwright is not installed; run make browser-test.")

from playwright.sync_api import expect

from ._lab import (
    axe_problems,
    button,
    explorer,
    move_by_keyboard,
    open_notebook,
    picture,
    press,
    run_all,
    wait_for_new_picture,
    wait_until_settled,
)

# ipywidgets gives the handle of its slider no name, which no page can mend from outside.
KNOWN = ("aria-input-field-name", "noUi-handle")


def ours(problems):
    return [p for p in problems if not (p.startswith(KNOWN[0]) and KNOWN[1] in p)]


def train_and_wait(box, trial):
    press(box, "Train")
    expect(box.locator('[role="status"]')).to_contain_text(f"Trial {trial}:", timeout=120_000)


@pytest.mark.parametrize(
    "notebook, seconds, slow",
    [
        ("06_an_sff_cnn.ipynb", 300, {"images": "9,000", "epochs": "40"}),
        ("09_small_data.ipynb", 300, {}),
    ],
)
def test_notebook_runs_and_its_explorer_trains(lab, page, shot, notebook, seconds, slow):
    open_notebook(page, lab, f"notebooks/{notebook}")
    run_all(page, seconds)
    box = explorer(page, "Train")
    shot("before", box)
    rows = box.locator("table tr")
    trials = rows.count() - 1
    assert trials >= 2  # what the cell started from

    moved = move_by_keyboard(box)
    assert {"list", "slider"} <= set(moved)
    before = picture(box) if box.locator("img:visible").count() else ""
    train_and_wait(box, trials + 1)
    wait_for_new_picture(box, before)
    expect(rows).to_have_count(trials + 2)
    shot("trained", box)

    # Stop, while it trains: no trial is added, and the notebook goes on.
    for name, text in slow.items():
        box.get_by_label(name, exact=True).select_option(label=text)
    if not slow:  # all images, whatever the slider is at
        handle = box.locator(".noUi-handle").first
        handle.focus()
        page.keyboard.press("End")
    press(box, "Train")
    status = box.locator('[role="status"]')
    expect(status).to_contain_text("Training")
    press(box, "Stop")
    expect(status).to_contain_text("Stopped", timeout=60_000)
    expect(rows).to_have_count(trials + 2)
    expect(button(box, "Train")).to_be_enabled()
    assert page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session"
                         ".kernel.status") in ("idle", "busy")  # fmt: skip

    with page.expect_download() as saved:
        box.get_by_role("link", name="Save as CSV").click()
    lines = saved.value.path().read_text().strip().splitlines()
    assert len(lines) == trials + 2
    assert ours(axe_problems(page, ".widget-vbox")) == []
    press(box, "Clear")
    expect(rows).to_have_count(0)
    shot("cleared", box)


CELLS = {  # explorers that answer at once, each in a cell of its own
    "cost": "from sff_teach.widgets import cost_explorer\nanswer = cost_explorer()",
    "goodness": "import torch\nfrom sff_teach.widgets import goodness_explorer\n"
    "torch.manual_seed(0)\n"
    "answer = goodness_explorer(torch.rand(200, 50) * 2, torch.rand(200, 50))",
    "inspector": "import torch\nfrom sff_teach import cnn, fit, load, localize\n"
    "from sff_teach.widgets import inspector\n"
    "train, _, test = load('fashion-mnist-sample', 0.05)\nnets = {}\n"
    "for rule in ('sff', 'deepsup'):\n"
    "    nets[rule] = localize(cnn(), 10, cut='layer', input_shape=(1, 28, 28))\n"
    "    fit(nets[rule], train, rule=rule, epochs=1, progress=False)\n"
    "answer = inspector(nets, test)",
}


@pytest.fixture
def small_notebook(lab):
    """Write a notebook of one cell into the folder of the lab; returns its path."""

    def write(name: str) -> str:
        cell = {"cell_type": "code", "id": "one", "metadata": {}, "outputs": [],
                "execution_count": None, "source": CELLS[name]}  # fmt: skip
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        content = {"nbformat": 4, "nbformat_minor": 5, "cells": [cell],
                   "metadata": {"kernelspec": kernel}}  # fmt: skip
        (lab[2] / f"{name}.ipynb").write_text(json.dumps(content))
        return f"{name}.ipynb"

    return write


@pytest.mark.parametrize("name, word", [("cost", "Keep"), ("inspector", "Keep"),
                                        ("goodness", "θ to the middle")])  # fmt: skip
def test_explorers_that_answer_at_once(lab, page, shot, small_notebook, name, word):
    open_notebook(page, lab, small_notebook(name))
    run_all(page, 120)
    box = explorer(page, word)
    count = len(move_by_keyboard(box))
    assert count >= 2
    wait_until_settled(box)
    expect(box.locator("img:visible").last).to_be_visible()
    shot("moved", box)
    if word == "Keep":
        rows = box.locator("table tr")
        before = rows.count()
        press(box, "Keep")
        expect(rows).to_have_count(max(before, 1) + 1)
        shown = picture(box)
        if name == "inspector":
            press(box, "Next mistake")
        else:
            box.get_by_label("classes", exact=True).select_option(label="1,000")
        wait_for_new_picture(box, shown)
        wait_until_settled(box)
        press(box, "Keep")
        expect(rows).to_have_count(max(before, 1) + 2)
        shot("kept", box)
    if name == "inspector":
        with page.expect_file_chooser() as chooser:
            box.locator("button", has_text="Upload").click()
        chooser.value.set_files(
            {"name": "no.png", "mimeType": "image/png", "buffer": b"not a picture"}
        )
        expect(box.locator('[role="status"]')).to_contain_text("Error: no.png cannot be read")
        shot("error", box)
    assert ours(axe_problems(page, ".widget-vbox")) == []
