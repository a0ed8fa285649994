"""What the browser tests do in JupyterLab: open, run, find an explorer, move its controls."""

import base64
import io
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Locator, Page, expect

READY = """() => { const w = window.jupyterapp.shell.currentWidget;
    const k = w && w.sessionContext && w.sessionContext.session && w.sessionContext.session.kernel;
    return k && k.status === 'idle'; }"""
CODE = """() => window.jupyterapp.shell.currentWidget.content.widgets
    .filter(w => w.model.type === 'code' && w.model.sharedModel.source.trim())"""
DONE = f"() => ({CODE})().every(w => w.model.executionCount)"
FAILED = f"""() => ({CODE})()
    .filter(w => !(w.model.getMetadata('tags') || []).includes('raises-exception'))
    .flatMap(w => w.model.outputs.toJSON().filter(o => o.output_type === 'error')
    .map(o => o.ename + ': ' + o.evalue))"""


def open_notebook(page: Page, lab: tuple, path: str) -> None:
    """Open a notebook of the folder and wait until its kernel is idle."""
    address, token, _ = lab
    page.goto(f"{address}/lab/tree/{path}?token={token}&reset")
    page.wait_for_function("() => window.jupyterapp && window.jupyterapp.restored !== undefined")
    page.evaluate("() => window.jupyterapp.restored")
    expect(page.locator(".jp-Notebook .jp-CodeCell").first).to_be_visible()
    page.wait_for_function(READY)


def small_notebook(lab: tuple, name: str, code: str) -> str:
    """Write a notebook of one cell into the folder of the lab; its path there."""
    cell = {"cell_type": "code", "id": "one", "metadata": {}, "outputs": [],
            "execution_count": None, "source": code}  # fmt: skip
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    content = {"nbformat": 4, "nbformat_minor": 5, "cells": [cell],
               "metadata": {"kernelspec": kernel}}  # fmt: skip
    (lab[2] / f"{name}.ipynb").write_text(json.dumps(content))
    return f"{name}.ipynb"


def run_all(page: Page, seconds: int) -> None:
    """Clear the outputs, run from top to bottom, and fail on any error of a cell."""
    run = "c => window.jupyterapp.commands.execute(c)"
    page.evaluate(run, "notebook:clear-all-cell-outputs")
    page.evaluate(f"() => void ({run})('notebook:run-all-cells')")
    page.wait_for_function(DONE, timeout=1000 * seconds)
    page.wait_for_function(READY, timeout=1000 * seconds)
    assert page.evaluate(FAILED) == []


def wait_until_settled(box: Locator, seconds: int = 120) -> None:
    """Wait until the explorer has answered everything that was asked of it."""
    quiet = 0
    for _ in range(4 * seconds):
        busy = "Computing" in box.locator('[role="status"]').inner_text()
        quiet = 0 if busy or not box.page.evaluate(READY) else quiet + 1
        if quiet == 6:
            return
        box.page.wait_for_timeout(250)
    raise AssertionError("the explorer does not come to an end")


def explorer(page: Page, word: str) -> Locator:
    """The explorer with a button or label of this text."""
    box = page.locator(".jp-OutputArea-output > .widget-vbox, .jp-OutputArea-output .widget-vbox")
    found = box.filter(has=page.get_by_text(word, exact=True)).first
    expect(found).to_be_visible()
    found.scroll_into_view_if_needed()
    return found


def press(box: Locator, name: str) -> None:
    """Press a button by the keyboard."""
    button(box, name).focus()
    box.page.keyboard.press("Enter")


def button(box: Locator, name: str) -> Locator:
    """A button by its text; its accessible name begins with an icon."""
    return box.locator("button").filter(has_text=re.compile(rf"^\s*{re.escape(name)}\s*$"))


def move_by_keyboard(box: Locator) -> Counter:
    """Move every control once by the keyboard; how many of each kind were moved.

    A control that does not answer fails. The last list is moved first: the first one may make
    others useless, as ResNet18 does the width.
    """
    page, moved = box.page, []
    for select in reversed(box.locator("select").all()):
        if select.is_disabled():
            continue
        before = select.input_value()
        for arrow in ("ArrowDown", "ArrowUp"):  # up, where it was at its end
            select.focus()
            for key in ("Space", arrow, "Enter"):  # closed, JupyterLab takes the arrows for itself
                page.keyboard.press(key)
            if select.input_value() != before:
                break
        assert select.input_value() != before, "a list does not answer to the keyboard"
        moved.append("list")
    for handle in box.locator(".noUi-handle").all():
        if handle.locator("xpath=ancestor::*[@disabled]").count():
            continue
        place = "e => e.closest('.noUi-origin').style.transform"
        before = handle.evaluate(place)
        handle.focus()
        page.keyboard.press("ArrowRight")
        if handle.evaluate(place) == before:
            page.keyboard.press("ArrowLeft")
        assert handle.evaluate(place) != before, "a slider does not answer to the keyboard"
        moved.append("slider")
    for tick in box.locator("input[type=checkbox]").all():
        before = tick.is_checked()
        tick.focus()
        page.keyboard.press("Space")
        assert tick.is_checked() != before, "a tick box does not answer"
        moved.append("tick")
    return Counter(moved)


def picture(box: Locator) -> str:
    """The address of the explorer's picture: it changes with the picture."""
    return box.locator("img:visible").first.get_attribute("src")


def still_above(box: Locator) -> str:
    """The address of the figure that the same cell showed before the explorer."""
    cell = box.locator("xpath=ancestor::*[contains(@class, 'jp-OutputArea ')][1]")
    return cell.locator("figure img").last.get_attribute("src")


def wait_for_new_picture(box: Locator, before: str, seconds: int = 60) -> None:
    """Wait until the explorer shows another picture; also its pixels have to differ."""
    shown = box.locator("img:visible").first
    expect(shown).not_to_have_attribute("src", before, timeout=1000 * seconds)
    old, new = pixels(before), pixels(picture(box))
    # A few numbers in a picture of 1440 × 560 are some hundred pixels.
    assert old.shape != new.shape or (old != new).any(2).sum() > 100


def pixels(address: str) -> np.ndarray:
    """(H, W, 3) of a picture inside its own address."""
    content = base64.b64decode(address.partition("base64,")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def answer(page: Page, code: str) -> str:
    """What the notebook's kernel prints when it is asked something beside the cells."""
    ask = """async code => {
        const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
        const future = kernel.requestExecute({code: code, store_history: false});
        let printed = '';
        future.onIOPub = m => { if (m.header.msg_type === 'stream') printed += m.content.text; };
        await future.done;
        return printed; }"""
    return page.evaluate(ask, code)


def axe_problems(page: Page, selector: str) -> list[str]:
    """Serious and critical findings of axe-core inside the selector."""
    import axe_playwright_python

    script = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text("utf-8")
    page.evaluate(script)
    found = page.evaluate("s => axe.run({include: [[s]]}, {resultTypes: ['violations']})", selector)
    return [
        f"{one['id']}: {node['html'][:200]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]
