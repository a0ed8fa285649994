"""Write what all notebooks share into them: bootstrap cell, link to Colab, metadata.

    python tools/stamp.py [notebooks/05_….ipynb …]      without names: all notebooks and README.md

Needed after a change of tools/bootstrap_cell.py. No notebook is run for it, and outputs stay. The
recorded hash of the code that ran is renewed where it was true before.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that this file also runs as a script

import nbformat  # noqa: E402

from tools import run_notebooks  # noqa: E402
from tools.bootstrap_cell import colab_address  # noqa: E402
from tools.check_form import source_sha256  # noqa: E402

README = ROOT / "README.md"
ROW = re.compile(
    r"(?m)^(\| \d\d \| \[[^\]]+\]\((notebooks/[^)]+\.ipynb)\))(?: · \[Colab\]\([^)]*\))?"
)


def stamp_readme(text: str) -> str:
    """Return the README with a link to Colab for each notebook of its table, or without links."""

    def stamped(row: re.Match) -> str:
        address = colab_address(row[2])
        return row[1] + (f" · [Colab]({address})" if address else "")

    return ROW.sub(stamped, text)


def stamp_notebook(text: str, path: Path) -> str:
    """Return a notebook's file, stamped."""
    notebook = nbformat.reads(text, as_version=4)
    record = notebook.metadata.get("sff_teach", {})
    was_true = record.get("source_sha256") == source_sha256(notebook)
    run_notebooks.stamp(notebook, path)
    if was_true:
        record["source_sha256"] = source_sha256(notebook)
    return nbformat.writes(notebook) + "\n"


def main(arguments: list[str]) -> int:
    """Stamp, and say what changed; 1 if a notebook could not be stamped."""
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
    return bad


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
