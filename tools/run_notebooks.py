"""Run notebooks and write the executed copies; students' copies stay without outputs.

    python tools/run_notebooks.py [notebooks/05_….ipynb …]      without names: all of them

Each notebook is stamped (tools/stamp.py) and run from top to bottom in a fresh kernel. Both copies
are written only if no cell failed, each cell tagged raises-exception raised, and the file is not
too large. What differs from run to run or from machine to machine is removed
(tools/tidy_outputs.py). The version of the package and the seconds are stored in the executed
copy's `metadata.sff_teach`; the guard compares the two copies cell by cell.
"""

from __future__ import annotations

import copy
import os
import sys
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
from tools.bootstrap_cell import BOOTSTRAP, MARK, with_links  # noqa: E402
from tools.check_course import place_in_repository  # noqa: E402
from tools.check_form import (  # noqa: E402
    CELL_METADATA,
    COLOUR,
    LANGUAGE,
    MAX_BYTES,
    executed_copy,
)
from tools.check_notebooks import check_executed, check_notebook  # noqa: E402
from tools.reading_time import write_minutes  # noqa: E402
from tools.tidy_outputs import tidy  # noqa: E402

CELL_TIMEOUT = 120  # seconds, as in `make test`
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


class NotebookError(Exception):
    """A notebook that cannot be kept as it ran; the message is one sentence."""


def stamp(notebook, path: Path) -> None:
    """Make a notebook the copy that students open: without outputs, with its generated parts.

    Generated are the bootstrap cell, the links below the title, the minutes and the metadata.
    """
    notebook.nbformat_minor = max(notebook.nbformat_minor, 5)
    first = next((cell for cell in notebook.cells if cell.cell_type == "code"), None)
    if first is None or not first.source.startswith(MARK):
        raise NotebookError(
            "the first code cell is not the bootstrap cell; put what "
            "`python tools/bootstrap_cell.py` prints there."
        )
    first.source = BOOTSTRAP
    opening = notebook.cells[0]
    opening.source = with_links(opening.source, place_in_repository(path))
    write_minutes(notebook)
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": LANGUAGE})
    for cell in notebook.cells:
        cell.metadata = {k: v for k, v in cell.metadata.items() if k in CELL_METADATA}
        if cell.metadata.get("jupyter", {}).get("outputs_hidden"):
            cell.metadata["collapsed"] = True  # as JupyterLab writes it beside the other
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None


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


def record(notebook, seconds: float) -> None:
    """Reduce the metadata to the package's version and the seconds of the run."""
    record = {"version": sff_teach.__version__, "seconds": round(seconds, 1)}
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNEL, "language_info": LANGUAGE, "sff_teach": record}
    )


def run_notebook(path: Path) -> float:
    """Run one notebook and write both copies; return the seconds taken."""
    clean = nbformat.read(path, as_version=4)
    stamp(clean, path)
    notebook = copy.deepcopy(clean)
    seconds = execute(notebook, path.parent)
    tidy(notebook)
    record(notebook, seconds)
    target = executed_copy(path)
    opening = notebook.cells[0]
    opening.source = with_links(opening.source, place_in_repository(target))
    size = len(nbformat.writes(notebook).encode())
    if size > MAX_BYTES:
        raise NotebookError(
            f"it would be {size:,} bytes; at most {MAX_BYTES:,}. Show fewer pictures."
        )
    target.parent.mkdir(exist_ok=True)
    for copied, place in ((notebook, target), (clean, path)):
        temporary = place.with_suffix(".ipynb.new")
        temporary.write_text(nbformat.writes(copied) + "\n", encoding="utf-8")
        temporary.replace(place)
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
        problems = [*check_notebook(path), *check_executed(path)]
        bad += bool(problems)
        for problem in problems:
            print(f"  {problem}", flush=True)
    print(f"{len(paths)} notebooks, {bad} with something to mend")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
