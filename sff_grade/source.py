"""The instructor's source notebook, as the grader sees it."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from pathlib import Path

from sff_teach.util.checks import SFFError, check_known

from .regions import (
    CODE_STUB,
    HIDDEN,
    SCHEME,
    SOLUTION,
    TEXT_STUB,
    has_region,
    inside_regions,
    only_regions,
    replace_regions,
    with_stub,
)
from .returned import bound_names, word_pattern

ADAPTER = "-adapter"  # a given cell with this ending of its id runs beside the answers


@dataclass(frozen=True)
class Cell:
    """A cell of the source.

    Attributes:
        source: Its text.
        kind: "text", "given" (locked), "adapter", "free", "answer", "test" or "by hand".
        grade_id: nbgrader's name of it.
        points: What it is worth.
        names: What it defines, in order.
        code: Whether it is a code cell.
    """

    source: str
    kind: str
    grade_id: str | None = None
    points: float = 0.0
    names: tuple[str, ...] = ()
    code: bool = True

    @property
    def released(self) -> str:
        """The cell as students get it."""
        text = replace_regions(self.source, HIDDEN, lambda lines: [])
        text = replace_regions(text, SCHEME, lambda lines: [])
        stub = CODE_STUB if self.code else TEXT_STUB
        if (self.kind in ("answer", "by hand") and self.code) or has_region(text, SOLUTION):
            return with_stub(text, stub)
        return text

    @property
    def scheme(self) -> str:
        """The mark scheme of a cell that is marked by hand."""
        return inside_regions(self.source, SCHEME).strip()

    @property
    def parts(self) -> list[tuple[bool, str]]:
        """The visible and the hidden part of a test, with the line numbers of the whole."""
        visible = only_regions(self.source, HIDDEN, inside=False)
        hidden = only_regions(self.source, HIDDEN, inside=True)
        return [(False, visible), (True, hidden)] if hidden.strip() else [(False, visible)]


@dataclass(frozen=True)
class Assignment:
    """An instructor's source notebook.

    Attributes:
        name: The file's name without its ending.
        cells: All its cells.
        absent: Names of the package that solve a task, as ``module:name``. Students' code finds
            functions there that only raise.
    """

    name: str
    cells: list[Cell]
    absent: tuple[str, ...] = ()

    @property
    def tests(self) -> list[Cell]:
        """The cells whose points the grader gives."""
        return [cell for cell in self.cells if cell.kind == "test"]

    @property
    def by_hand(self) -> list[Cell]:
        """The cells whose points the teacher gives."""
        return [cell for cell in self.cells if cell.kind == "by hand"]

    @property
    def asked_names(self) -> list[str]:
        """What tests may ask for: the names that answers and adapters define."""
        asked = [cell for cell in self.cells if cell.kind in ("answer", "adapter")]
        return [name for cell in asked for name in cell.names]

    @property
    def wants_id(self) -> bool:
        """Whether students write an id into the notebook."""
        return any(c.kind == "free" and "STUDENT_ID" in c.names for c in self.cells)

    @property
    def title(self) -> str:
        """The first heading, or the file's name."""
        for cell in self.cells:
            for line in cell.source.splitlines() if not cell.code else ():
                if line.startswith("# "):
                    return line[2:].strip()
        return self.name

    def answer_of(self, grade_id: str) -> str | None:
        """The id of the answer that a test belongs to: the last one before it."""
        last = None
        for cell in self.cells:
            if cell.kind == "answer":
                last = cell.grade_id
            if cell.grade_id == grade_id:
                return last
        return None

    def skeleton(self) -> list[dict]:
        """What students' code may know of the assignment: the students' copy of each cell."""
        return [
            {
                "kind": cell.kind,
                "id": cell.grade_id,
                "released": cell.released,
                "names": list(cell.names),
                "code": cell.code,
            }
            for cell in self.cells
        ]


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
    return "adapter" if str(meta.get("grade_id")).endswith(ADAPTER) else "given"


def read_source(path: Path) -> Assignment:
    """Read an instructor's notebook.

    Raises:
        SFFError: A grade id stands twice, no cell is a test, or marks of regions do not match.
    """
    notebook = json.loads(Path(path).read_text(encoding="utf-8"))
    cells = []
    for cell in notebook["cells"]:
        meta = cell["metadata"].get("nbgrader", {})
        source = cell["source"]
        source = "".join(source) if isinstance(source, list) else source
        code = cell["cell_type"] == "code"
        names = tuple(bound_names(source)) if code else ()
        points = float(meta.get("points", 0) or 0)
        kind = _kind(cell, meta)
        cells.append(Cell(source, kind, meta.get("grade_id"), points, names, code))
    try:
        for cell in cells:
            assert cell.released is not None
    except ValueError as error:
        raise SFFError(f"{path}: {error}") from error
    ids = [cell.grade_id for cell in cells if cell.grade_id]
    twice = sorted({i for i in ids if ids.count(i) > 1})
    if twice:
        raise SFFError(f"{path} has the grade id {twice[0]} twice")
    if not any(cell.kind == "test" for cell in cells):
        raise SFFError(
            f"{path} has no test cell: it is not a source notebook with nbgrader's marks"
        )
    absent = notebook["metadata"].get("sff_grade", {}).get("absent", [])
    return Assignment(Path(path).stem, cells, tuple(absent))


def find_source(source: Path, name: str | None, folder: Path) -> Path:
    """Find the instructor's notebook: ``source`` itself, or the one that the folder belongs to.

    Raises:
        SFFError: None or several fit.
    """
    if source.is_file():
        return source
    found = sorted(source.glob("*/*.ipynb")) or sorted(source.glob("*.ipynb"))
    if not found:
        raise SFFError(f"source={source} holds no notebooks")
    known = {path.parent.name if path.parent != source else path.stem: path for path in found}
    if name is not None:
        check_known(name, known, "assignment")
        return known[name]
    stems = {p.stem.lower() for p in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts}
    fits = [p for p in known.values() if any(p.stem.lower() in stem for stem in stems)]
    fits = fits or [
        p for n, p in known.items() if any(re.search(word_pattern(n), s) for s in stems)
    ]
    if len(known) == 1 or len(fits) == 1:
        return (fits or list(known.values()))[0]
    raise SFFError(
        f"the notebooks in {folder} do not say which assignment they are; give --assignment, one "
        f"of {', '.join(known)}"
    )


def without_names(source: str, names: list[str]) -> str:
    """Return a module's text in which some functions only raise; ``Class.method`` works as well.

    Their signatures stay, so that importing them works.
    """
    lines = source.split("\n")
    found: list[ast.AST] = []
    for name in names:
        node: ast.AST | None = ast.parse(source)
        for part in name.split("."):
            node = next(
                (n for n in ast.iter_child_nodes(node) if getattr(n, "name", "") == part), None
            )
            if node is None:
                raise SFFError(f"the package has no {name}, which the assignment calls absent")
        found.append(node)
    for node in sorted(found, key=lambda node: -node.lineno):
        first, last = node.body[0].lineno, node.body[-1].end_lineno
        text = f'raise NotImplementedError("{node.name} is not there in this assignment")'
        lines[first - 1 : last] = [" " * node.body[0].col_offset + text]
    return "\n".join(lines)
