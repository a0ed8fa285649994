"""Remove from a notebook's outputs what differs from run to run or from machine to machine.

Progress bars, paths and addresses are removed. A live widget is replaced by a static copy.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import nbformat

from tools.check_form import EMBEDDED_DATA, WIDGET_VIEW

ROOT = Path(__file__).resolve().parent.parent
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
PROGRESS_BAR = re.compile(r"\d+%\||\d+(?:it|/\d+) \[\d\d:")


def tidy(notebook) -> None:
    """Tidy every cell of a notebook that has just been run, in place."""
    state = notebook.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            has_still = any("sff-still" in str(o.get("data", {})) for o in cell.outputs)
            outputs = [
                still(output, state)
                for output in cell.outputs
                if not (has_still and WIDGET_VIEW in output.get("data", {}))
            ]
            cell.outputs = merge_streams([o for o in outputs if not is_progress_bar(o)])
            for output in cell.outputs:
                tidy_output(output)


def is_progress_bar(output) -> bool:
    """Tell whether an output is a progress bar."""
    if output.output_type == "stream":
        return output.name == "stderr" and bool(PROGRESS_BAR.search(output.text))
    return bool(PROGRESS_BAR.search(output.get("data", {}).get("text/plain", "")))


def still(output, state: dict):
    """Replace a live widget by its pictures and tables at the end of the run."""
    data = output.get("data", {})
    if WIDGET_VIEW not in data or is_progress_bar(output):
        return output
    shown = "".join(widget_html(data[WIDGET_VIEW]["model_id"], state))
    then = "; this is a still of it" if shown else ""
    fresh = {
        "text/html": f"<p><em>Run this cell for the interactive version{then}.</em></p>{shown}",
        "text/plain": "[interactive: run this cell]",
    }
    return nbformat.from_dict({**output, "data": fresh, "metadata": {}})


def widget_html(model: str, state: dict) -> list[str]:
    """Return the pictures and tables, as HTML, that a widget and its children show, in order."""
    fields = state.get(model, {}).get("state", {})
    found = [output.get("data", {}).get("text/html", "") for output in fields.get("outputs", [])]
    value = fields.get("value")
    if isinstance(value, str) and re.search("<(figure|img|table)", value):
        found.append(value)
    for child in fields.get("children", []):
        found += widget_html(child.removeprefix("IPY_MODEL_"), state)
    return found


def merge_streams(outputs: list) -> list:
    """Merge neighbouring outputs of the same stream, which is split at random."""
    merged: list = []
    for output in outputs:
        last = merged[-1] if merged else None
        if (
            last is not None
            and output.output_type == last.output_type == "stream"
            and output.name == last.name
        ):
            last.text += output.text
        else:
            merged.append(output)
    return merged


def tidy_output(output) -> None:
    """Remove paths and addresses from every text of an output, in place."""
    if output.output_type == "stream":
        output.text = tidy_text(output.text)
    elif output.output_type == "error":
        output.evalue = tidy_text(output.evalue)
        output.traceback = [tidy_text(line) for line in output.traceback]
    else:
        for kind, content in output.data.items():
            if kind.startswith("text/") and isinstance(content, str):
                output.data[kind] = tidy_text(content)


def tidy_text(text: str) -> str:
    """Make paths relative to the course or to what is installed, and drop memory addresses."""
    pictures = EMBEDDED_DATA.findall(text)
    parts = [_tidy(part) for part in EMBEDDED_DATA.split(text)]
    return "".join(part for pair in zip(parts, [*pictures, ""]) for part in pair)


def _tidy(text: str) -> str:
    text = re.sub(r"/[^\s\"'<>\x1b]*/site-packages/", "site-packages/", text)
    text = re.sub(r"/[^\s\"'<>\x1b]*/lib/python3\.\d+/", "python/", text)
    text = text.replace(str(ROOT), "sff-teach")
    text = text.replace(os.path.realpath(tempfile.gettempdir()) + os.sep, "temporary/")
    text = text.replace(tempfile.gettempdir() + os.sep, "temporary/")
    text = text.replace(str(Path.home()) + os.sep, "~/")
    return re.sub(r"\bat 0x[0-9a-fA-F]{6,}", "at 0x…", text)
