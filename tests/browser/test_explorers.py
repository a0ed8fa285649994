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

CELLS = {  # each explorer in a cell of its own
    "layers": "from sff_teach.widgets import layers_explorer\nanswer = layers_explorer()",
    "fraction": "from sff_teach.widgets import fraction_explorer\n"
    "answer = fraction_explorer(folder='results')",
    "cost": "from sff_teach.widgets import cost_explorer\nanswer = cost_explorer()",
    "reach": "from sff_teach.widgets import reach_explorer\nanswer = reach_explorer()",
    "schedule": "from sff_teach.widgets import schedule_explorer\nanswer = schedule_explorer()",
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


def status_of(box):
    """The one status line, the same element of the page as before whatever it says."""
    found = box.locator('[role="status"]')
    expect(found).to_have_count(1)
    found.evaluate("e => { e.dataset.seen = 'yes'; }")
    return found


def check_what_is_said(box):
    """A slider is called by its label, and what it displays is spoken; the status line stayed."""
    for slider in box.locator(".widget-slider").all():
        handle, readout = slider.locator(".noUi-handle"), slider.locator(".widget-readout")
        expect(handle).to_have_attribute("aria-label", slider.locator("label").inner_text())
        expect(handle).to_have_attribute("aria-valuetext", readout.inner_text())
    expect(box.locator('[role="status"]')).to_have_attribute("data-seen", "yes")
    for place in (".widget-vbox", "figure", ".jp-RenderedHTMLCommon"):
        assert axe_problems(box.page, place) == []


def places(box):
    """Upper edges of buttons, status, picture and what is below it, and the picture's height."""
    return box.evaluate(
        """box => {
        const parts = [...box.children].slice(1, 5).map(e => e.getBoundingClientRect());
        return [...parts.map(part => Math.round(part.top)), Math.round(parts[2].height)]; }"""
    )


def second_column(box):
    return box.locator("table th").nth(1).inner_text()


def train_and_wait(box, trial):
    press(box, "Train")
    expect(box.locator('[role="status"]')).to_contain_text(f"Trial {trial}:", timeout=120_000)


@pytest.mark.nightly
@pytest.mark.parametrize(
    "name, controls, result",
    [
        ("layers", {"list": 5, "slider": 2}, "last block %"),
        ("fraction", {"list": 3, "slider": 2}, "test accuracy %"),
    ],
    ids=["layers", "fraction"],
)
def test_explorers_that_train(lab, page, shot, name, controls, result):
    open_notebook(page, lab, small_notebook(lab, name, CELLS[name]))
    run_all(page, 240)
    box = explorer(page, "Train")
    expect(page.locator(".sff-still")).to_be_hidden()  # the live widget takes its place
    shot("before", box)
    rows, status, before = box.locator("table tr"), status_of(box), places(box)
    trials = rows.count() - 1
    assert trials >= 2  # what the cell started from
    assert before == sorted(before[:4]) + before[4:] and before[2] - before[0] < 110
    assert second_column(box) == result

    assert move_by_keyboard(box) == controls
    train_and_wait(box, trials + 1)
    wait_for_new_picture(box, still_above(box))
    expect(rows).to_have_count(trials + 2)
    expect(box.locator("img:visible").first).to_have_attribute(
        "alt", re.compile(rf"Trial {trials + 1}:")
    )
    if name == "layers":  # the network is last, and says whose it is
        network = box.locator("img:visible").last
        expect(network).to_have_attribute("alt", re.compile(rf"Network of trial {trials + 1}"))
        assert network.bounding_box()["y"] > box.locator("table").bounding_box()["y"]
    shot("trained", box)

    # Stop, while it trains: no trial is added, and the notebook goes on.
    if name == "layers":
        box.get_by_label("images", exact=True).select_option(label="9,000")
        box.get_by_label("epochs", exact=True).select_option(label="40")
    else:  # all images, whatever the slider is at
        box.locator(".noUi-handle").first.focus()
        page.keyboard.press("End")
    press(box, "Train")
    expect(status).to_contain_text("epoch 1 of")  # what comes now are pictures of the training
    live = picture(box)
    expect(box.locator("img:visible").first).not_to_have_attribute("src", live)
    assert places(box) == before  # nothing has moved
    assert answer(page, "print(6 * 7)") == "42\n"  # the notebook is alive …
    expect(status).to_contain_text("Training")  # … while it trains
    shot("training", box)
    press(box, "Stop")
    expect(status).to_contain_text("stopped", timeout=60_000)
    expect(rows).to_have_count(trials + 2)
    expect(button(box, "Train")).to_be_enabled()
    assert places(box) == before
    check_what_is_said(box)
    press(box, "Clear")
    expect(rows).to_have_count(0)
    shot("cleared", box)


@pytest.mark.parametrize(
    "name, controls, change, result",
    [
        pytest.param("cost", {"list": 5}, "classes: 1,000",
                     "backprop, checkpointing: FLOPs", marks=pytest.mark.nightly),
        pytest.param("reach", {"list": 1, "tick": 4}, "rule: backprop", "reach",
                     marks=pytest.mark.nightly),
        pytest.param("schedule", {"list": 1, "slider": 2}, "first stage: 3 times",
                     "backprop, GPipe: idle %", marks=pytest.mark.nightly),
        pytest.param("inspector", {"list": 1, "slider": 1, "tick": 1}, "Next mistake",
                     "sff: prediction", marks=pytest.mark.nightly),
        ("goodness", {"list": 1, "slider": 1}, "θ to the middle", "right %"),
    ],
    ids=["cost", "reach", "schedule", "inspector", "goodness"],
)  # fmt: skip
def test_explorers_that_answer_at_once(lab, page, shot, name, controls, change, result):
    open_notebook(page, lab, small_notebook(lab, name, CELLS[name]))
    run_all(page, 120)
    box = explorer(page, "Keep")
    expect(page.locator(".sff-still")).to_be_hidden()
    status_of(box)
    assert move_by_keyboard(box) == controls
    wait_until_settled(box)
    expect(box.locator("img:visible").first).to_be_visible()
    wait_for_new_picture(box, still_above(box))
    before = places(box)
    assert before == sorted(before[:4]) + before[4:] and before[2] - before[0] < 110
    shot("moved", box)
    rows = box.locator("table tr")
    kept = max(rows.count(), 1)
    for _ in range(2):  # the second time it is kept already
        press(box, "Keep")
        wait_until_settled(box)
    expect(rows).to_have_count(kept + 1)
    assert second_column(box) == result
    shown = picture(box)
    if ": " in change:
        label, _, text = change.partition(": ")
        box.get_by_label(label, exact=True).select_option(label=text)
    else:
        press(box, change)
    wait_for_new_picture(box, shown)
    wait_until_settled(box)
    press(box, "Keep")
    expect(rows).to_have_count(kept + 2)
    wait_until_settled(box)
    assert places(box)[:3] == before[:3] and places(box)[4] == before[4]
    shot("kept", box)
    check_what_is_said(box)
    press(box, "Clear")
    expect(rows).to_have_count(0)


@pytest.mark.nightly
def test_a_threshold_is_read_as_it_is_written(lab, page):
    cell = CELLS["goodness"].replace("200, 50))", "200, 50), theta=2.09)")
    open_notebook(page, lab, small_notebook(lab, "spoken", cell))
    run_all(page, 120)
    handle = explorer(page, "Keep").locator(".noUi-handle")
    expect(handle).to_have_attribute("aria-valuetext", "2.09")
    expect(handle).to_have_attribute("aria-label", "threshold θ")
    handle.focus()
    page.keyboard.press("ArrowRight")
    expect(handle).to_have_attribute("aria-valuetext", "2.19")


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
    heic = bytes(4) + b"ftypheic" + bytes(20)
    expect(upload(box, "photo.heic", heic)).to_contain_text("is a HEIC picture")
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


BAR = """
net = localize(cnn(), 10, cut=2, input_shape=(1, 28, 28))
fit(net, load("fashion-mnist-sample", 0.3).train, epochs=3);"""


@pytest.mark.nightly
def test_text_stands_where_saved_explorers_and_bars_were(lab, page, shot):
    path = small_notebook(lab, "saved", CELLS["inspector"] + BAR)
    open_notebook(page, lab, path)
    run_all(page, 240)
    expect(page.locator(".sff-still")).to_be_hidden()
    bar = page.get_by_text(re.compile(r"sff epoch 3/3: 100%\|"))
    expect(bar).to_be_visible()
    for command in ("docmanager:save", "kernelmenu:shutdown"):
        page.evaluate("c => window.jupyterapp.commands.execute(c)", command)
    open_notebook(page, lab, path)
    still = page.locator(".sff-still")
    expect(still).to_contain_text("Run this cell to use the explorer.")
    expect(still.locator("img")).to_be_visible()
    expect(bar).to_be_visible()
    complaint = page.get_by_text("model not found")  # the front end's, which gives way
    expect(complaint).to_have_count(1)
    expect(complaint).to_be_hidden()
    shot("reopened")
    run_all(page, 240)
    expect(explorer(page, "Keep")).to_be_visible()
    expect(page.locator(".sff-still")).to_be_hidden()


TRAINING = """\
from sff_teach.widgets import layers_explorer
explorers = [*globals().get("explorers", []), layers_explorer()]"""


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
