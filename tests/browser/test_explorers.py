"""The explorers in a real browser: by keyboard, with Stop, points that stay until Clear.

One explorer is tried every day, the others nightly.
"""

import io
import re

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("playwright", reason="Playwright is not installed; run make browser-test.")

from playwright.sync_api import expect

from ._lab import (
    READY,
    answer,
    axe_problems,
    button,
    explorer,
    move_by_keyboard,
    open_notebook,
    picture,
    press,
    run_all,
    small_notebook,
    still_above,
    wait_for_new_picture,
    wait_until_settled,
)


def train_and_wait(box, trial):
    press(box, "Train")
    expect(box.locator('[role="status"]')).to_contain_text(f"Trial {trial}:", timeout=120_000)


@pytest.mark.nightly
@pytest.mark.parametrize(
    "name, code, controls, slow",
    [
        (
            "layers",
            "from sff_teach.widgets import layers_explorer\nexplorer = layers_explorer()",
            {"list": 5, "slider": 2},
            {"images": "9,000", "epochs": "40"},
        ),
        (
            "fraction",
            "from sff_teach.widgets import fraction_explorer\n"
            "explorer = fraction_explorer(folder='results')",
            {"list": 3, "slider": 2},
            {},
        ),
    ],
    ids=["layers", "fraction"],
)
def test_explorers_that_train(lab, page, shot, name, code, controls, slow):
    open_notebook(page, lab, small_notebook(lab, name, code))
    run_all(page, 240)
    box = explorer(page, "Train")
    shot("before", box)
    rows = box.locator("table tr")
    trials = rows.count() - 1
    assert trials >= 2  # what the cell started from

    assert move_by_keyboard(box) == controls
    train_and_wait(box, trials + 1)
    wait_for_new_picture(box, still_above(box))
    expect(rows).to_have_count(trials + 2)
    expect(box.locator("img:visible").first).to_have_attribute(
        "alt", re.compile(rf"Trial {trials + 1}:")
    )
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
    assert answer(page, "print(6 * 7)") == "42\n"  # the notebook is alive …
    expect(status).to_contain_text("Training")  # … while it trains
    shot("training", box)
    press(box, "Stop")
    expect(status).to_contain_text("stopped", timeout=60_000)
    expect(rows).to_have_count(trials + 2)
    expect(button(box, "Train")).to_be_enabled()
    assert answer(page, "print(explorer.busy)") == "False\n"

    for place in (".widget-vbox", "figure", ".jp-RenderedHTMLCommon"):
        assert axe_problems(page, place) == []
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


@pytest.mark.parametrize(
    "name, controls, change",
    [
        pytest.param("cost", {"list": 5}, None, marks=pytest.mark.nightly),
        pytest.param("inspector", {"list": 1, "slider": 1, "tick": 1}, "Next mistake",
                     marks=pytest.mark.nightly),
        ("goodness", {"list": 1, "slider": 1}, "θ to the middle"),
    ],
    ids=["cost", "inspector", "goodness"],
)  # fmt: skip
def test_explorers_that_answer_at_once(lab, page, shot, name, controls, change):
    open_notebook(page, lab, small_notebook(lab, name, CELLS[name]))
    run_all(page, 120)
    box = explorer(page, "Keep")
    expect(page.locator(".sff-still")).to_be_hidden()  # the live widget takes its place
    assert move_by_keyboard(box) == controls
    for slider in box.locator(".widget-slider").all():  # what a screen reader says
        handle, readout = slider.locator(".noUi-handle"), slider.locator(".widget-readout")
        expect(handle).to_have_attribute("aria-label", slider.locator("label").inner_text())
        expect(handle).to_have_attribute("aria-valuetext", readout.inner_text())
    wait_until_settled(box)
    expect(box.locator("img:visible").first).to_be_visible()
    wait_for_new_picture(box, still_above(box))
    shot("moved", box)
    rows = box.locator("table tr")
    before = rows.count()
    press(box, "Keep")
    expect(rows).to_have_count(max(before, 1) + 1)
    wait_until_settled(box)
    shown = picture(box)
    if change:
        press(box, change)
    else:
        box.get_by_label("classes", exact=True).select_option(label="1,000")
    wait_for_new_picture(box, shown)
    wait_until_settled(box)
    press(box, "Keep")
    expect(rows).to_have_count(max(before, 1) + 2)
    wait_until_settled(box)
    shot("kept", box)
    for place in (".widget-vbox", "figure"):
        assert axe_problems(page, place) == []
    press(box, "Clear")
    expect(rows).to_have_count(0)


def upload(box, name, content):
    """Choose a file as a reader does; the status that answers."""
    with box.page.expect_file_chooser() as chooser:
        box.locator("input[type=file]").click()
    chooser.value.set_files({"name": name, "mimeType": "", "buffer": content})
    status = box.locator('[role="status"]')
    expect(status).to_contain_text(name)
    return status


def image_file(kind, width, height):
    """An image of noise, which no format makes small."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, kind)
    return file.getvalue()


@pytest.mark.nightly
def test_uploads(lab, page, shot):
    open_notebook(page, lab, small_notebook(lab, "uploads", CELLS["inspector"]))
    run_all(page, 120)
    box = explorer(page, "Keep")
    expect(upload(box, "bad.png", b"no picture")).to_contain_text("is damaged")
    expect(upload(box, "a.gif", image_file("GIF", 40, 40))).to_contain_text("is a GIF")
    large = image_file("JPEG", 4000, 3000)  # 12 megapixels, and several megabytes
    assert len(large) > 2e6
    expect(upload(box, "large.jpg", large)).to_contain_text("Image large.jpg, true class ?")
    expect(upload(box, "large.gif", image_file("GIF", 1500, 1500))).to_contain_text("is a GIF")
    drawing = io.BytesIO()
    Image.new("RGBA", (30, 20), (0, 0, 0, 0)).save(drawing, "PNG")
    expect(upload(box, "clear.png", drawing.getvalue())).to_contain_text("Image clear.png")
    wait_until_settled(box)
    assert answer(page, "print(answer.result.image.min().item())") == "1.0\n"  # on white
    shot("clear", box)
    upload(box, "bad.png", b"no picture")
    press(box, "Clear")
    expect(box.locator('[role="status"]')).to_contain_text("forgotten")


@pytest.mark.nightly
def test_a_sentence_and_the_still_stand_where_a_saved_explorer_was(lab, page, shot):
    path = small_notebook(lab, "saved", CELLS["goodness"])
    open_notebook(page, lab, path)
    run_all(page, 120)
    expect(page.locator(".sff-still")).to_be_hidden()
    for command in ("docmanager:save", "kernelmenu:shutdown"):
        page.evaluate("c => window.jupyterapp.commands.execute(c)", command)
    open_notebook(page, lab, path)
    still = page.locator(".sff-still")
    expect(still).to_contain_text("Run this cell to use the explorer.")
    expect(still.locator("img")).to_be_visible()
    complaint = page.get_by_text("model not found")  # the front end's, which gives way
    expect(complaint).to_have_count(1)
    expect(complaint).to_be_hidden()
    shot("reopened")
    run_all(page, 120)
    expect(explorer(page, "Keep")).to_be_visible()
    expect(page.locator(".sff-still")).to_be_hidden()


TRAINING = """\
from sff_teach.widgets import layers_explorer
explorers = [*globals().get("explorers", []), layers_explorer(data="digits")]"""


@pytest.mark.nightly
def test_a_trial_trained_twice_and_a_cell_run_again(lab, page, shot):
    open_notebook(page, lab, small_notebook(lab, "again", TRAINING))
    run_all(page, 120)
    box = explorer(page, "Train")
    train_and_wait(box, 4)
    expect(button(box, "Train")).to_be_enabled()
    press(box, "Train")
    expect(box.locator('[role="status"]')).to_contain_text("This is trial 4 already")
    expect(box.locator("table tr")).to_have_count(5)
    box.get_by_label("epochs", exact=True).select_option(label="40")
    press(box, "Train")
    expect(button(box, "Stop")).to_be_enabled()
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_function(READY)
    assert answer(page, "explorers[0].wait(30); print(explorers[0].busy)") == "False\n"
    box = explorer(page, "Train")
    expect(box.locator("table tr")).to_have_count(5)  # the old trials come over
    shot("again", box)
