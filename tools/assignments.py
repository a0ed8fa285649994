"""Assignments: one source notebook each, and the copies made from it.

A source is an ordinary nbgrader source: solutions between ``### BEGIN SOLUTION`` and
``### END SOLUTION``, hidden tests between ``### BEGIN HIDDEN TESTS`` and ``### END HIDDEN TESTS``,
marks for written answers between ``=== BEGIN MARK SCHEME ===`` and ``=== END MARK SCHEME ===``.
``release`` makes the same copy as ``nbgrader generate_assignment``, without nbgrader; a test
compares the two where nbgrader is installed.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
from pathlib import Path

import nbformat

from sff_grade.source import (
    CODE_STUB,
    HIDDEN,
    SCHEME,
    SOLUTION,
    TEXT_STUB,
    regions,
    replace_regions,
    with_stub,
)
from tools.bootstrap_cell import BOOTSTRAP, MARK, with_links

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks" / "assignments"

NO_ID = 'STUDENT_ID = ""'


def sources() -> list[Path]:
    """Return the source notebooks in order."""
    return sorted((FOLDER / "source").glob("*/*.ipynb"))


def copy_path(source: Path, kind: str) -> Path:
    """Return the path of the ``"release"``, ``"solution"`` or ``"teacher"`` copy of a source."""
    return FOLDER / kind / source.parent.name / source.name


def read(path: Path):
    """Return a source with the current bootstrap cell and link to Colab."""
    notebook = nbformat.read(path, as_version=4)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    if not first.source.startswith(MARK):
        raise ValueError(
            f"{path.name}: the first code cell is not the bootstrap cell; put what "
            "`python tools/bootstrap_cell.py` prints there."
        )
    first.source = BOOTSTRAP
    released = copy_path(path, "release").relative_to(ROOT).as_posix()
    notebook.cells[0].source = with_links(notebook.cells[0].source, released)
    return notebook


def text_of(notebook) -> str:
    """Return a notebook as the text of its file."""
    return nbformat.writes(notebook) + "\n"


# ---------------------------------------------------------------- cells and their regions


def grade_id(cell) -> str | None:
    return cell.metadata.get("nbgrader", {}).get("grade_id")


def role(cell, name: str) -> bool:
    """Tell whether a cell's nbgrader metadata calls it "grade", "solution", "locked" or "task"."""
    return bool(cell.metadata.get("nbgrader", {}).get(name))


def is_test(cell) -> bool:
    return role(cell, "grade") and not role(cell, "solution")


def is_marked_by_hand(cell) -> bool:
    """Tell whether a person marks the cell."""
    return role(cell, "task") or (role(cell, "grade") and role(cell, "solution"))


def is_locked(cell) -> bool:
    """Tell whether nbgrader overwrites the cell with the released one before it grades."""
    return not role(cell, "solution") and (role(cell, "grade") or role(cell, "locked"))


def has_region(text: str, kind: str) -> bool:
    """Tell whether a text has a region of this kind."""
    return any(inside for inside, _ in regions(text, kind))


def _drop(lines: list[str]) -> list[str]:
    return []


def _without_marks(lines: list[str]) -> list[str]:
    return lines[1:-1]


# ---------------------------------------------------------------- the copies


def release(notebook):
    """Return the students' copy: no solution, hidden test or mark scheme; cells are locked and have
    checksums as nbgrader writes them."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if is_locked(cell):
            cell.metadata.update(deletable=False, editable=False)
        elif role(cell, "solution"):
            cell.metadata["deletable"] = False
        clear_solution(cell)
        for kind, allowed in ((HIDDEN, "grade"), (SCHEME, "task")):
            if has_region(cell.source, kind) and not role(cell, allowed):
                raise ValueError(f"{kind} in a cell that is no {allowed} cell: {cell.source[:60]}")
            cell.source = replace_regions(cell.source, kind, _drop)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if any(role(cell, name) for name in ("grade", "solution", "locked")):
            cell.metadata.nbgrader["cell_type"] = cell.cell_type
            cell.metadata.nbgrader["checksum"] = checksum(cell)
    return notebook


def clear_solution(cell) -> None:
    """Replace a cell's solution by nbgrader's stub, in place."""
    stub = CODE_STUB if cell.cell_type == "code" else TEXT_STUB
    if has_region(cell.source, SOLUTION):
        if not role(cell, "solution"):
            raise ValueError(f"a solution in a cell that is no solution cell: {cell.source[:60]}")
        cell.source = with_stub(cell.source, stub)
    elif role(cell, "solution"):
        cell.source = "\n".join(stub)


def checksum(cell) -> str:
    """Return nbgrader's checksum of a cell."""
    parts = [cell.source, cell.cell_type]
    parts += [str(role(cell, "grade")), str(role(cell, "solution")), str(is_locked(cell))]
    parts.append(grade_id(cell))
    if role(cell, "grade"):
        parts.append(str(float(cell.metadata.nbgrader["points"])))
    return hashlib.md5("".join(parts).encode(), usedforsecurity=False).hexdigest()


def solution(notebook):
    """Return the copy to hand out after the deadline: answers, but no hidden tests or marks."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        for kind in (HIDDEN, SCHEME):
            cell.source = replace_regions(cell.source, kind, _drop)
        cell.source = replace_regions(cell.source, SOLUTION, _without_marks)
        cell.metadata.pop("nbgrader", None)
    set_student(notebook, "solution")
    return notebook


def answered(notebook):
    """Return the students' copy with the instructor's code as its answers."""
    copied = release(notebook)
    for cell, ours in zip(copied.cells, notebook.cells, strict=True):
        if is_answer(ours):
            cell.source = replace_regions(ours.source, SOLUTION, _without_marks)
    return copied


def is_answer(cell) -> bool:
    """Tell whether students write code into the cell."""
    return role(cell, "solution") and cell.cell_type == "code"


def teacher(notebook, table: str):
    """Return the copy to mark by: all of the source, and the mark scheme after the title."""
    notebook = copy.deepcopy(notebook)
    set_student(notebook, "teacher")
    page = nbformat.v4.new_markdown_cell(table)
    page.id = "mark-scheme"
    notebook.cells.insert(1, page)
    return notebook


def set_student(notebook, student_id: str) -> None:
    """Fill in the student's id, in place."""
    cell = next(cell for cell in notebook.cells if cell.source.startswith(NO_ID))
    cell.source = cell.source.replace(NO_ID, f'STUDENT_ID = "{student_id}"', 1)


def points(notebook) -> dict[str, float]:
    """Return the points of every graded cell by grade id, in order."""
    return {
        grade_id(cell): cell.metadata.nbgrader["points"]
        for cell in notebook.cells
        if role(cell, "grade") or role(cell, "task")
    }


def leaks(source, released) -> list[str]:
    """Return the parts of solutions, hidden tests and mark schemes that are in the release."""
    secret: set[str] = set()
    public: set[str] = set()
    for cell in source.cells:
        shown = cell.source
        for kind in (SOLUTION, HIDDEN, SCHEME):
            for inside, part in regions(cell.source, kind):
                if inside:
                    secret.update(line.strip() for line in part[1:-1])
            shown = replace_regions(shown, kind, _drop)
        public.update(line.strip() for line in shown.split("\n"))
    secret = {line for line in secret - public if len(line) > 8}
    text = text_of(released)
    marks = [f"{end} {kind}" for end in ("BEGIN", "END") for kind in (SOLUTION, HIDDEN, SCHEME)]
    found = [mark for mark in marks if mark in text]
    lines = {line.strip() for cell in released.cells for line in cell.source.split("\n")}
    found += sorted(secret & lines)
    for cell in released.cells:
        if cell.get("outputs") or cell.get("attachments"):
            found.append(f"an output or attachment of the cell {cell.id}")
    return found


# ---------------------------------------------------------------- running without a kernel


def is_bootstrap(cell) -> bool:
    return cell.cell_type == "code" and cell.source.startswith(MARK)


def run_cell(cell, namespace: dict) -> Exception | None:
    """Execute a code cell without its printed output; return the exception it raised, if any."""
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            exec(compile(cell.source, f"<{cell.id}>", "exec"), namespace)
        except Exception as error:
            return error
    return None


def run(notebook, student_id: str, to_the_end: bool = False) -> dict[str, str | None]:
    """Run a notebook cell by cell, past errors, as nbgrader does, up to its last test or its end.

    Returns:
        For every test cell by grade id: None if it passed, else what was raised. To the end: the
        same for every other cell that raised something, by its id.
    """
    notebook = copy.deepcopy(notebook)
    set_student(notebook, student_id)
    namespace: dict = {"__name__": "__main__"}
    code = [c for c in notebook.cells if c.cell_type == "code" and not is_bootstrap(c)]
    last = max(i for i, cell in enumerate(code) if is_test(cell))
    results: dict[str, str | None] = {}
    for cell in code if to_the_end else code[: last + 1]:
        error = run_cell(cell, namespace)
        if is_test(cell) or (to_the_end and error):
            results[grade_id(cell) or cell.id] = error and f"{type(error).__name__}: {error}"
    return results


def visible(cell):
    """Return a copy of a cell without its hidden tests."""
    cell = copy.deepcopy(cell)
    cell.source = replace_regions(cell.source, HIDDEN, _drop)
    return cell
