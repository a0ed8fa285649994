"""The instructor's source notebook, and its marked regions: solutions, hidden tests, mark schemes.

A region begins and ends with a line that holds ``BEGIN …`` and ``END …``, which is nbgrader's rule.
The tool that makes the students' copies reads regions with these functions, too.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sff_teach.util.checks import SFFError

from .returned import bound_names, word_pattern

ADAPTER = "-adapter"  # a given cell with this ending of its id runs beside the answers
SOLUTION, HIDDEN, SCHEME = "SOLUTION", "HIDDEN TESTS", "MARK SCHEME"
CODE_STUB = ["# YOUR CODE HERE", "raise NotImplementedError()"]  # nbgrader's own
TEXT_STUB = ["YOUR ANSWER HERE"]


def regions(text: str, kind: str) -> Iterator[tuple[bool, list[str]]]:
    """Yield (inside, lines) for the parts of a cell outside and inside regions of a kind.

    The lines with the marks come first and last in an inside part.

    Raises:
        ValueError: The marks do not match.
    """
    begin, end = f"BEGIN {kind}", f"END {kind}"
    inside, part = False, []
    for line in text.split("\n"):
        if (inside and begin in line) or (not inside and end in line):
            raise ValueError(f"{begin} and {end} do not take turns; look at the line {line!r}")
        if begin in line:
            yield False, part
            inside, part = True, []
        part.append(line)
        if end in line:
            yield True, part
            inside, part = False, []
    if inside:
        raise ValueError(f"{begin} without its {end}")
    yield False, part


def replace_regions(text: str, kind: str, make: Callable[[list[str]], list[str]]) -> str:
    """Return a text with the lines of every region of a kind replaced by what ``make`` returns."""
    parts = [make(part) if inside else part for inside, part in regions(text, kind)]
    return "\n".join(line for part in parts for line in part)


def with_stub(text: str, stub: list[str]) -> str:
    """Return a text with a stub in the place of each solution, indented like it."""
    return replace_regions(
        text, SOLUTION, lambda lines: [re.match(r"\s*", lines[0])[0] + line for line in stub]
    )


@dataclass(frozen=True)
class Cell:
    """A cell of the source: its text, and what nbgrader's metadata say about it."""

    source: str
    kind: str  # "text", "given" (locked), "adapter", "free", "answer", "test" or "by hand"
    grade_id: str | None
    points: float
    names: tuple[str, ...]  # what it defines, in order
    code: bool
    heading: str  # that it stands under

    @property
    def released(self) -> str:
        """The cell as students get it."""
        text = self.source
        for kind in (HIDDEN, SCHEME):
            text = replace_regions(text, kind, lambda lines: [])
        return with_stub(text, CODE_STUB if self.code else TEXT_STUB)

    @property
    def scheme(self) -> str:
        """The mark scheme of a cell that is marked by hand."""
        parts = [part for inside, part in regions(self.source, SCHEME) if inside]
        return "\n".join(line for part in parts for line in part[1:-1]).strip()


@dataclass(frozen=True)
class Assignment:
    """An instructor's source notebook."""

    name: str  # of the file, without its ending
    cells: list[Cell]
    absent: tuple[str, ...]  # functions that only raise where answers run, as ``module:name``

    def of(self, *kinds: str) -> list[Cell]:
        """The cells of these kinds."""
        return [cell for cell in self.cells if cell.kind in kinds]

    def skeleton(self) -> list[dict]:
        """What students' code may know of the assignment: the students' copy of each cell."""
        return [
            {"kind": c.kind, "id": c.grade_id, "released": c.released, "names": c.names,
             "code": c.code}
            for c in self.cells
        ]  # fmt: skip


def _kind(cell: dict, meta: dict) -> str:
    if meta.get("task") or (meta.get("grade") and meta.get("solution")):
        return "by hand"
    if meta.get("grade"):
        return "test"
    if meta.get("solution"):
        return "answer"
    if cell["cell_type"] != "code":
        return "text"
    if not meta.get("locked"):
        return "free"
    return "adapter" if meta["grade_id"].endswith(ADAPTER) else "given"


def read_source(path: Path) -> Assignment:
    """Read an instructor's notebook.

    Raises:
        SFFError: A grade id stands twice, or no cell is a test.
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells, heading = [], path.stem
    for cell in notebook["cells"]:
        meta = cell["metadata"].get("nbgrader", {})
        source, code = "".join(cell["source"]), cell["cell_type"] == "code"
        names = tuple(bound_names(source)) if code else ()
        points, kind = float(meta.get("points") or 0), _kind(cell, meta)
        if headings := [] if code else re.findall(r"^#+(.*)", source, re.MULTILINE):
            heading = headings[-1].strip().replace("$", "")
        cells.append(Cell(source, kind, meta.get("grade_id"), points, names, code, heading))
    ids = [cell.grade_id for cell in cells if cell.grade_id]
    if len(set(ids)) < len(ids):
        raise SFFError(f"{path} has a grade id twice: {max(ids, key=ids.count)}")
    if not any(cell.kind == "test" for cell in cells):
        raise SFFError(f"{path} has no test cell: it is no source notebook with nbgrader's marks")
    absent = notebook["metadata"].get("sff_grade", {}).get("absent", [])
    return Assignment(path.stem, cells, tuple(absent))


def find_source(source: Path, folder: Path) -> Path:
    """Find the instructor's notebook: ``source`` itself, or the one that ``folder`` is called by.

    Raises:
        SFFError: The folder's name holds no assignment's, or two.
    """
    if source.is_file():
        return source
    known = sorted(source.glob("*/*.ipynb"))
    name = folder.resolve().name
    fits = [p for p in known if re.search(word_pattern(p.parent.name), name, re.IGNORECASE)]
    if len(fits) != 1:
        listed = ", ".join(map(str, known)) or f"none in {source}"
        raise SFFError(f"which assignment is in {folder}? Say --source and its notebook: {listed}")
    return fits[0]


def without_name(source: str, name: str) -> str:
    """Return a module's text in which a function only raises; ``Class.method`` works as well."""
    tree = node = ast.parse(source)
    for part in name.split("."):
        node = next((n for n in node.body if getattr(n, "name", "") == part), None)
        if node is None:
            raise SFFError(f"the package has no {name}, which the assignment calls absent")
    text = f"{node.name} is not there in this assignment"
    node.body = ast.parse(f"raise NotImplementedError({text!r})").body
    return ast.unparse(tree)
