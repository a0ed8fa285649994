"""Training is visible: one figure that grows while `fit` runs, not a flood of them."""

import time

import pytest

pytest.importorskip("playwright", reason="Playwright is not installed; run make browser-test.")

from ._lab import DONE, FAILED, READY, open_notebook, small_notebook

pytestmark = pytest.mark.nightly

EPOCHS = 6
CELL = f"""\
from sff_teach import cnn, fit, load, localize
from sff_teach.draw import LiveHistory
train, valid, _ = load("fashion-mnist-sample", 0.5)
net = localize(cnn(), 10, cut=2, input_shape=(1, 28, 28))
history = fit(net, train, valid, epochs={EPOCHS}, on_epoch=LiveHistory())"""
SHOWN = """() => [...document.querySelectorAll('.jp-OutputArea-output figure')].map(f =>
    [f.querySelector('figcaption').innerText, f.querySelector('img').src.length])"""


def looks(page, lab, name, cell):
    """Run a cell in a notebook; yield twenty times a second while it runs."""
    open_notebook(page, lab, small_notebook(lab, name, cell))
    page.evaluate("() => void window.jupyterapp.commands.execute('notebook:run-all-cells')")
    end = time.monotonic() + 180
    while not (page.evaluate(DONE) and page.evaluate(READY)):
        assert time.monotonic() < end, "the cell does not come to an end"
        yield
        page.wait_for_timeout(50)
    assert page.evaluate(FAILED) == []


def test_one_figure_grows_while_the_network_trains(lab, page, shot):
    seen = {}
    for _ in looks(page, lab, "live", CELL):
        figures = page.evaluate(SHOWN)
        assert len(figures) <= 1
        for caption, size in figures:
            if caption not in seen:
                shot(f"step-{len(seen) + 1}")
            seen[caption] = size
    ((caption, size),) = page.evaluate(SHOWN)
    seen[caption] = size
    assert len(seen) >= 3 and len(set(seen.values())) >= 3, seen  # other words, other pictures
    assert f"After epoch {EPOCHS}:" in caption
    shot("end")


GOODNESS = """\
import time, torch
from sff_teach.draw import LiveGoodness
start = time.process_time()
live = LiveGoodness(theta=1.0, steps=60)
for step in range(60):
    live(1 + step / 60 + torch.rand(100), 1 - step / 60 * torch.rand(100))
    while time.process_time() < (step + 1) / 20 + start:  # a training computes; so drawing is due
        torch.rand(1000).sum()"""
MOVING = """() => [...document.querySelectorAll('.jp-OutputArea-output svg[role=img]')].map(
    s => s.getAttribute('aria-label'))"""


def test_goodness_moves_and_a_still_takes_its_place(lab, page, shot):
    seen = set()
    for _ in looks(page, lab, "goodness", GOODNESS):
        labels = page.evaluate(MOVING)
        assert len(labels) <= 1
        if labels and not seen:
            shot("moving")
        seen |= set(labels)
    assert len(seen) >= 5, seen
    ((caption, _),) = page.evaluate(SHOWN)
    assert "After step 60:" in caption and page.evaluate(MOVING) == []
