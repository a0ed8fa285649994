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


def test_one_figure_grows_while_the_network_trains(lab, page, shot):
    open_notebook(page, lab, small_notebook(lab, "live", CELL))
    page.evaluate("() => void window.jupyterapp.commands.execute('notebook:run-all-cells')")
    seen, end = {}, time.monotonic() + 180
    while not (page.evaluate(DONE) and page.evaluate(READY)):
        assert time.monotonic() < end, f"the cell does not come to an end; seen: {list(seen)}"
        figures = page.evaluate(SHOWN)
        assert len(figures) <= 1
        for caption, size in figures:
            if caption not in seen:
                shot(f"step-{len(seen) + 1}")
            seen[caption] = size
        page.wait_for_timeout(50)
    assert page.evaluate(FAILED) == []
    ((caption, size),) = page.evaluate(SHOWN)
    seen[caption] = size
    assert len(seen) >= 3 and len(set(seen.values())) >= 3, seen  # other words, other pictures
    assert f"After epoch {EPOCHS}:" in caption
    shot("end")
