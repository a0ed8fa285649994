"""Clean the notebooks and write their generated parts: first cell, links, minutes, metadata.

    python tools/stamp.py [notebooks/05_….ipynb …]      without names: all notebooks and README.md

No notebook is run. Outputs are removed; those of a run are in executed/ (`make notebooks`), whose
copies get the notebooks' current prose if the code has not changed. The README gets each notebook's
minutes, and links to Colab once there is an address.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that this file also runs as a script

import nbformat  # noqa: E402

from tools import run_notebooks  # noqa: E402
from tools.bootstrap_cell import MARK, colab_address, with_links  # noqa: E402
from tools.check_form import executed_copy  # noqa: E402
from tools.reading_time import core_minutes  # noqa: E402

README = ROOT / "README.md"
ROW = re.compile(  # number and link · Colab? | what it teaches | minutes |
    r"(?m)^(\| \d\d \| \[[^\]]+\]\((notebooks/[^)]+\.ipynb)\))(?: · \[Colab\]\([^)]*\))?"
    r"( \|.*\| )\d+ \|$"
)


def stamp_readme(text: str) -> str:
    """Return the README with each notebook's minutes, and its link to Colab if there is one."""

    def stamped(row: re.Match) -> str:
        address = colab_address(row[2])
        minutes = core_minutes(nbformat.read(ROOT / row[2], as_version=4))
        return row[1] + (f" · [Colab]({address})" if address else "") + f"{row[3]}{minutes} |"

    return ROW.sub(stamped, text)


def stamp_notebook(text: str, path: Path) -> str:
    """Return a notebook's file, stamped."""
    notebook = nbformat.reads(text, as_version=4)
    run_notebooks.stamp(notebook, path)
    return nbformat.writes(notebook) + "\n"


def refresh_executed(clean, executed):
    """Return the executed copy with the notebook's current prose, or None if the code differs.

    A different bootstrap cell does not count: it only finds the package.
    """

    def code(notebook):
        cells = [c for c in notebook.cells if c.cell_type == "code"]
        return [(c.id, MARK if c.source.startswith(MARK) else c.source) for c in cells]

    if code(clean) != code(executed):
        return None
    ran = {cell.id: cell for cell in executed.cells}
    fresh = nbformat.from_dict({**clean, "metadata": executed.metadata})
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs = ran[cell.id].outputs
            cell.execution_count = ran[cell.id].execution_count
    return fresh


def stamp_executed(path: Path) -> str | None:
    """Return the executed copy's file with the current prose, or None if it must run."""
    target = executed_copy(path)
    if not target.exists():
        return None
    clean = nbformat.read(path, as_version=4)
    fresh = refresh_executed(clean, nbformat.read(target, as_version=4))
    if fresh is None:
        return None
    fresh.cells[0].source = with_links(fresh.cells[0].source, f"executed/{path.name}")
    return nbformat.writes(fresh) + "\n"


def main(arguments: list[str]) -> int:
    """Stamp the files and print what changed; 1 if a notebook could not be stamped."""
    paths = [Path(argument).resolve() for argument in arguments]
    bad = 0
    for path in paths or [*sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")), README]:
        before = path.read_text(encoding="utf-8")
        try:
            after = stamp_readme(before) if path == README else stamp_notebook(before, path)
        except run_notebooks.NotebookError as error:
            print(f"{path.name}: NOT STAMPED: {error}")
            bad = 1
            continue
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(f"{path.name}: stamped")
        if path != README:
            executed = stamp_executed(path)
            if executed is None:
                print(f"{path.name}: must run; make notebooks NB=notebooks/{path.name}")
            else:
                executed_copy(path).write_text(executed, encoding="utf-8")
    return bad


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
