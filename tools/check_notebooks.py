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
from tools.check_form import clean_problems, executed_copy, executed_problems  # noqa: E402
from tools.check_links import Page, page_problems  # noqa: E402


def check_markdown(path: Path) -> list[str]:
    """Return what is wrong with a Markdown page, one sentence each."""
    page = Page()
    page.add(path.read_text(encoding="utf-8"))
    return [f"{path.name}: {problem}" for _, problem in page_problems(path, page)]


def read_notebook(path: Path):
    """Return a notebook as it is, nothing mended.

    Raises:
        ValueError: it is not a valid notebook of format 4.5 or newer.
    """
    try:
        notebook = nbformat.v4.reads(path.read_text(encoding="utf-8"))
        if (notebook.nbformat, notebook.nbformat_minor) < (4, 5):
            raise ValueError("older than notebook format 4.5, so without cell ids")
        for error in iter_validate(notebook):
            raise error
    except Exception as error:  # nbformat has many, and each means the same to the reader
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{path.name}: not a valid notebook: {reason}") from None
    return notebook


def check_notebook(path: Path) -> list[str]:
    """Return what is wrong with the copy that students open, one sentence each."""
    try:
        notebook = read_notebook(path)
    except ValueError as error:
        return [str(error)]
    page = Page()
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type == "markdown":
            page.add(cell.source, number)
    problems = [
        *clean_problems(notebook),
        *page_problems(path, page),
        *course_problems(path, notebook, page),
    ]
    return _messages(path.name, problems)


def check_executed(path: Path) -> list[str]:
    """Return what is wrong with a notebook's executed copy, one sentence each.

    Args:
        path: of the notebook, not of the copy.
    """
    copy = executed_copy(path)
    if not copy.exists():
        return [f"executed/{path.name} is missing; run make notebooks NB=notebooks/{path.name}"]
    try:
        problems = executed_problems(copy, read_notebook(copy), read_notebook(path))
        return _messages(f"executed/{path.name}", problems)
    except ValueError as error:
        return [str(error)]


def _messages(name: str, problems) -> list[str]:
    return [
        f"{name}{f', cell {number}' if number else ''}: {problem}" for number, problem in problems
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
        if path.suffix == ".ipynb":
            problems += [*check_notebook(path), *check_executed(path)]
        else:
            problems += check_markdown(path)
    print("\n".join(problems), end="\n" if problems else "")
    print(f"{len(files)} files, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
