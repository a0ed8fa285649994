"""Write the bootstrap cell and the Colab links of tools/bootstrap_cell.py into what shows them.

    python tools/stamp.py [notebooks/05_….ipynb …]      without names: all notebooks and README.md

Needed after a change of that file, for instance of the repository's address or tag. No notebook is
run anew for it: the new cell is run once, in a fresh kernel beside the notebooks, and takes its
place with what it printed. The recorded hash of the code that ran is renewed where it was true
before, and only if no later cell uses a name that the old cell bound and the new one does not; for
such a notebook, `make notebooks` is the way.
"""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that this file also runs as a script

import nbformat  # noqa: E402
from IPython.core.inputtransformer2 import TransformerManager  # noqa: E402
from nbformat.v4 import new_code_cell, new_notebook  # noqa: E402

from tools.bootstrap_cell import BOOTSTRAP, colab_address  # noqa: E402
from tools.check_notebooks import source_sha256  # noqa: E402
from tools.run_notebooks import NotebookError, execute, prepare, tidy_output  # noqa: E402

README = ROOT / "README.md"
ROW = re.compile(
    r"(?m)^(\| \d\d \| \[[^\]]+\]\((notebooks/[^)]+\.ipynb)\))(?: · \[Colab\]\([^)]*\))?"
)


def stamp_readme(text: str) -> str:
    """Return the README with a Colab link behind each notebook of its table."""
    return ROW.sub(lambda row: f"{row[1]} · [Colab]({colab_address(row[2])})", text)


def stamp_notebook(notebook, path: Path) -> None:
    """Write the bootstrap cell and the Colab link into a notebook, and keep its record true."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    kept = [(cell.outputs, cell.execution_count) for cell in code]
    was_true = recorded(notebook) == source_sha256(notebook)
    old = code[0].source if code else ""
    prepare(notebook, path)
    for cell, (outputs, count) in zip(code, kept):
        cell.outputs, cell.execution_count = outputs, count
    if old == BOOTSTRAP:
        return
    missing = needed_later(code[1:]) & (bound(old) - bound(BOOTSTRAP))
    if missing:
        raise NotebookError(
            f"later cells use {', '.join(sorted(missing))} of the old bootstrap cell; mend them "
            "and run make notebooks."
        )
    code[0].outputs = bootstrap_outputs(path.parent)
    if was_true:
        notebook.metadata["sff_teach"]["source_sha256"] = source_sha256(notebook)


def recorded(notebook) -> str | None:
    """Return the recorded hash of the code that ran."""
    return notebook.metadata.get("sff_teach", {}).get("source_sha256")


@cache
def bootstrap_outputs(folder: Path) -> list:
    """Run the bootstrap cell in a fresh kernel in the folder; return what it printed."""
    notebook = new_notebook(cells=[new_code_cell(BOOTSTRAP)])
    execute(notebook, folder)
    for output in notebook.cells[0].outputs:
        tidy_output(output)
    return notebook.cells[0].outputs


def names(source: str, context: type) -> set[str]:
    """Return the names of a cell in a context: ast.Store (imports count) or ast.Load."""
    nodes = list(ast.walk(ast.parse(TransformerManager().transform_cell(source))))
    found = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, context)}
    if context is ast.Store:
        for node in nodes:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                found |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
    return found


def bound(source: str) -> set[str]:
    return names(source, ast.Store)


def needed_later(code: list) -> set[str]:
    """Return the names that cells use before any of them binds them."""
    needed, here = set(), set()
    for cell in code:
        here |= bound(cell.source)
        needed |= names(cell.source, ast.Load) - here
    return needed


def main(arguments: list[str]) -> int:
    """Stamp, say what changed, and return 1 where something could not be stamped."""
    named = [Path(argument).resolve() for argument in arguments]
    bad = 0
    for path in named or sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        before = path.read_text(encoding="utf-8")
        notebook = nbformat.reads(before, as_version=4)
        try:
            stamp_notebook(notebook, path)
        except NotebookError as error:
            print(f"{path.name}: NOT STAMPED: {error}")
            bad += 1
            continue
        write(path, before, nbformat.writes(notebook) + "\n")
    if not named:
        before = README.read_text(encoding="utf-8")
        write(README, before, stamp_readme(before))
    return 1 if bad else 0


def write(path: Path, before: str, after: str) -> None:
    if after != before:
        path.write_text(after, encoding="utf-8")
        print(f"{path.name}: stamped")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
