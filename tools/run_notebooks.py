"""Run notebooks in place and keep their outputs, so that a second run changes as little as it can.

    python tools/run_notebooks.py [notebooks/05_….ipynb …]      without names: all of them

Each notebook gets the bootstrap cell and the Colab link of tools/bootstrap_cell.py, is run from top
to bottom in a fresh kernel, and is written back only if every cell did what it should: an error
(except in a cell tagged raises-exception, which must raise) or a file that grew too large leaves it
as it was.
Cell ids stay. What differs from run to run or from machine to machine goes: progress bars, widget
state, paths, addresses. A live widget is replaced by a still of what it showed. The version of the
package, the seconds taken and the hash of the source that ran are kept in `metadata.sff_teach`, and
the guard test holds the hash against the committed source.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that this file also runs as a script
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")  # this environment's kernel, no other

import nbformat  # noqa: E402
from nbclient import NotebookClient  # noqa: E402
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError  # noqa: E402
from nbformat.reader import NotJSONError  # noqa: E402

import sff_teach  # noqa: E402
from tools.bootstrap_cell import BOOTSTRAP, MARK, with_colab_link  # noqa: E402
from tools.check_notebooks import (  # noqa: E402
    CELL_METADATA,
    COLOUR,
    EMBEDDED_DATA,
    MAX_BYTES,
    WIDGET_VIEW,
    check_notebook,
    place_in_repository,
    source_sha256,
)

CELL_TIMEOUT = 120  # seconds, as in `make test`
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE = {"name": "python", "pygments_lexer": "ipython3"}
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
PROGRESS_BAR = re.compile(r"\d+%\||\d+(?:it|/\d+) \[\d\d:")


class NotebookError(Exception):
    """A notebook that cannot be kept as it ran; the message is one sentence."""


def prepare(notebook, path: Path) -> None:
    """Write the bootstrap cell and the Colab link in, and clear what an old run left."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if not code or not code[0].source.startswith(MARK):
        raise NotebookError(
            "the first code cell is not the bootstrap cell; put what "
            "`python tools/bootstrap_cell.py` prints there."
        )
    code[0].source = BOOTSTRAP
    for cell in code:
        cell.outputs, cell.execution_count = [], None
    for cell in notebook.cells:
        cell.metadata = {k: v for k, v in cell.metadata.items() if k in CELL_METADATA}
    opening = notebook.cells[0]
    opening.source = with_colab_link(opening.source, place_in_repository(path))


def execute(notebook, folder: Path) -> float:
    """Run the notebook in `folder`; return the seconds. A failing cell raises NotebookError."""
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        extra_arguments=["--log-level=40"],  # errors only
        record_timing=False,
        store_widget_state=True,
    )
    started = time.perf_counter()
    try:
        client.execute()
    except CellExecutionError as error:
        number = next(i for i, cell in enumerate(notebook.cells, 1) if _failed(cell))
        traceback = COLOUR.sub("", error.traceback)
        raise NotebookError(
            f"cell {number} failed: {error.ename}: {error.evalue}\n{traceback}"
        ) from None
    except CellTimeoutError:
        raise NotebookError(f"a cell took more than {CELL_TIMEOUT} s.") from None
    except DeadKernelError:
        raise NotebookError("the kernel died.") from None
    seconds = time.perf_counter() - started
    for number, cell in enumerate(notebook.cells, 1):
        if "raises-exception" in cell.metadata.get("tags", []) and not _raised(cell):
            raise NotebookError(f"cell {number} is tagged raises-exception and raised nothing.")
    return seconds


def _raised(cell) -> bool:
    return any(output.output_type == "error" for output in cell.get("outputs", []))


def _failed(cell) -> bool:
    return _raised(cell) and "raises-exception" not in cell.metadata.get("tags", [])


def tidy(notebook, seconds: float) -> None:
    """Drop from outputs and metadata what differs from run to run or from machine to machine."""
    state = notebook.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            outputs = [still(output, state) for output in cell.outputs]
            cell.outputs = merge_streams([o for o in outputs if not is_progress_bar(o)])
            for output in cell.outputs:
                tidy_output(output)
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": KERNEL,
            "language_info": LANGUAGE,
            "sff_teach": {
                "version": sff_teach.__version__,
                "seconds": round(seconds, 1),
                "source_sha256": source_sha256(notebook),
            },
        }
    )


def is_progress_bar(output) -> bool:
    """Tell whether an output is a progress bar, which means nothing once the work is done."""
    if output.output_type == "stream":
        return output.name == "stderr" and bool(PROGRESS_BAR.search(output.text))
    return bool(PROGRESS_BAR.search(output.get("data", {}).get("text/plain", "")))


def still(output, state: dict):
    """Replace a live widget by what it showed when the run ended: its pictures and tables."""
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
    """Join neighbouring pieces of the same stream: where they were cut is chance."""
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
    """Take paths and addresses out of every text of an output, in place."""
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


def run_notebook(path: Path) -> float:
    """Run one notebook and write it back; return the seconds taken."""
    notebook = nbformat.read(path, as_version=4)
    notebook.nbformat_minor = max(notebook.nbformat_minor, 5)
    prepare(notebook, path)
    seconds = execute(notebook, path.parent)
    tidy(notebook, seconds)
    text = nbformat.writes(notebook) + "\n"
    if len(text.encode()) > MAX_BYTES:
        raise NotebookError(
            f"it would be {len(text.encode()):,} bytes; at most {MAX_BYTES:,}. Show fewer pictures."
        )
    temporary = path.with_suffix(".ipynb.new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    return seconds


def main(names: list[str]) -> int:
    paths = [Path(name).resolve() for name in names]
    paths = paths or sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    bad = 0
    for path in paths:
        print(f"{path.name} …", end=" ", flush=True)
        try:
            seconds = run_notebook(path)
        except (NotebookError, NotJSONError, FileNotFoundError) as error:
            print(f"NOT KEPT: {error}", flush=True)
            bad += 1
            continue
        print(f"{seconds:.0f} s", flush=True)
        problems = check_notebook(path)
        bad += bool(problems)
        for problem in problems:
            print(f"  {problem}", flush=True)
    print(f"{len(paths)} notebooks, {bad} with something to mend")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
