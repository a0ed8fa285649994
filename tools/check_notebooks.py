"""Check notebooks and Markdown pages offline: form, links, and the parts of the course.

python tools/check_notebooks.py [FILE …]        without names: the whole course
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbformat.validator import iter_validate

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that this file also runs as a script

from tools.check_course import course_problems  # noqa: E402
from tools.check_form import form_problems  # noqa: E402
from tools.check_links import Page, page_problems  # noqa: E402


def check_markdown(path: Path) -> list[str]:
    """Return what is wrong with a Markdown page, one sentence each."""
    page = Page()
    page.add(path.read_text(encoding="utf-8"))
    return [f"{path.name}: {problem}" for _, problem in page_problems(path, page)]


def check_notebook(path: Path) -> list[str]:
    """Return what is wrong with a notebook, one sentence each; an empty list is a good notebook."""
    try:
        notebook = nbformat.v4.reads(path.read_text(encoding="utf-8"))  # as it is, nothing mended
        if (notebook.nbformat, notebook.nbformat_minor) < (4, 5):
            raise ValueError("older than notebook format 4.5, so without cell ids")
        for error in iter_validate(notebook):
            raise error
    except Exception as error:  # nbformat has many, and each means the same to the reader
        return [f"{path.name}: not a valid notebook: {str(error).strip().splitlines()[0]}"]

    page = Page()
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type == "markdown":
            page.add(cell.source, number)
    problems = [
        *form_problems(path, notebook),
        *page_problems(path, page),
        *course_problems(path, notebook, page),
    ]
    return [
        f"{path.name}{f', cell {number}' if number else ''}: {problem}"
        for number, problem in problems
    ]


def course_files() -> list[Path]:
    """Return the course's notebooks and the repository's Markdown pages."""
    pages = (
        page
        for page in (path.relative_to(ROOT) for path in ROOT.rglob("*.md"))
        if not any(part.startswith(".") and part != ".github" for part in page.parts)
        and not {"build", "dist", "node_modules"} & set(page.parts)
    )
    return [
        *sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")),
        *(ROOT / page for page in sorted(pages)),
    ]


def main(names: list[str]) -> int:
    problems = []
    files = [Path(name).resolve() for name in names] or course_files()
    for path in files:
        problems += check_notebook(path) if path.suffix == ".ipynb" else check_markdown(path)
    print("\n".join(problems), end="\n" if problems else "")
    print(f"{len(files)} files, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
