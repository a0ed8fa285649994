"""Returned notebooks: find every cell again, and lay out what the grader runs.

A notebook comes back with cells copied, deleted and reordered, and from Colab without nbgrader's
metadata. A cell is found again by its grade id, else by its text, else by the names it defines.
What is locked is taken from the source: only answers and own cells come from the student.
"""

from __future__ import annotations

import ast
import difflib
import re
from dataclasses import dataclass, field
from pathlib import Path

SOLUTION = ("### BEGIN SOLUTION", "### END SOLUTION")
HIDDEN = ("### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS")
SCHEME = ("=== BEGIN MARK SCHEME ===", "=== END MARK SCHEME ===")
STUB = "# YOUR CODE HERE\nraise NotImplementedError()"  # nbgrader's own


@dataclass
class Cell:
    """A cell of the instructor's source."""

    source: str
    kind: str  # "text", "given" (locked), "free", "answer", "test", "by hand"
    grade_id: str | None = None
    points: float = 0.0
    names: tuple[str, ...] = ()  # that an answer defines, in order
    code: bool = True
    changeable: bool = True  # a test that fails when the solution's numbers are changed

    @property
    def released(self) -> str:
        """The cell as students get it."""
        if self.kind in ("answer", "by hand") and self.code:
            return _without(self.source, SOLUTION, STUB)
        if self.kind == "by hand":
            return _without(self.source, SCHEME)
        return _without(self.source, HIDDEN)

    @property
    def scheme(self) -> str:
        """The mark scheme of a cell that is marked by hand."""
        return "\n".join(_regions(self.source, SCHEME)).strip()

    def hidden(self, line: int) -> bool:
        """Whether this line of the source, counted from 1, is a hidden test."""
        inside = False
        for number, text in enumerate(self.source.splitlines(), 1):
            inside = (inside or text.strip() == HIDDEN[0]) and text.strip() != HIDDEN[1]
            if number == line:
                return inside
        return False


@dataclass
class Assignment:
    """An instructor's source notebook."""

    name: str
    cells: list[Cell]

    @property
    def tests(self) -> list[Cell]:
        """The cells whose points the grader gives."""
        return [cell for cell in self.cells if cell.kind == "test"]

    @property
    def by_hand(self) -> list[Cell]:
        """The cells whose points the teacher gives."""
        return [cell for cell in self.cells if cell.kind == "by hand"]

    @property
    def answer_names(self) -> list[str]:
        """Every name that an answer defines."""
        return [name for cell in self.cells if cell.kind == "answer" for name in cell.names]


@dataclass
class Returned:
    """A returned notebook, laid out along the source."""

    answers: dict[int, list[str]]  # source cell → the student's versions of it, in order
    extra: dict[int, list[tuple[str, str]]]  # source cell → own cells behind it: (label, source)
    repaired: list[str]
    caught: list[str]
    found: int  # how many cells of the source were found
    printed: dict[int, str] = field(default_factory=dict)  # source cell → what it had printed


def read_source(path: Path, notebook: dict) -> Assignment:
    """The instructor's notebook as an `Assignment`.

    Raises:
        ValueError: a grade id stands twice, or no cell is a test.
    """
    cells = []
    for cell in notebook["cells"]:
        meta = cell["metadata"].get("nbgrader", {})
        code = cell["cell_type"] == "code"
        if meta.get("task") or (meta.get("grade") and meta.get("solution")):
            kind = "by hand"
        elif meta.get("grade"):
            kind = "test"
        elif meta.get("solution"):
            kind = "answer"
        elif not code:
            kind = "text"
        else:
            kind = "given" if meta.get("locked") else "free"
        cells.append(
            Cell(
                source=cell["source"],
                kind=kind,
                grade_id=meta.get("grade_id"),
                points=float(meta.get("points", 0) or 0),
                names=tuple(bound_names(cell["source"])) if code else (),
                code=code,
            )
        )
    ids = [cell.grade_id for cell in cells if cell.grade_id]
    twice = sorted({i for i in ids if ids.count(i) > 1})
    if twice:
        raise ValueError(f"{path} has the grade id {twice[0]} twice; give every cell its own.")
    if not any(cell.kind == "test" for cell in cells):
        raise ValueError(
            f"{path} has no test cell; grade a source notebook, with nbgrader's marks."
        )
    return Assignment(path.stem, cells)


def bound_names(source: str) -> list[str]:
    """The names that a cell defines at its top level: functions, classes and values."""
    try:
        tree = ast.parse(python_of(source))
    except SyntaxError:
        return re.findall(r"^(?:def|class)\s+(\w+)", source, re.MULTILINE)
    names: list[str] = []
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.append(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [
                n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)
                and isinstance(n.ctx, ast.Store)
            ]  # fmt: skip
    return list(dict.fromkeys(names))


def python_of(source: str) -> str:
    """A cell's Python: without IPython's commands, and without a first line such as %%time."""
    if re.match(r"\s*%%(time|timeit|capture)\b", source):
        source = source.lstrip().partition("\n")[2]
    elif source.lstrip().startswith("%%"):
        return ""
    if not re.search(r"^\s*[%!?]|\?\s*$|=\s*[%!]", source, re.MULTILINE):
        return source
    try:
        from IPython.core.inputtransformer2 import TransformerManager
    except ImportError:
        return re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.MULTILINE)
    return TransformerManager().transform_cell(source)


def definitions_of(source: str) -> str:
    """Imports, functions and classes of a cell, and nothing that runs."""
    try:
        tree = ast.parse(python_of(source))
    except SyntaxError:
        return ""
    kept = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    tree.body = [node for node in tree.body if isinstance(node, kept)]
    return ast.unparse(tree)


def _regions(source: str, marks: tuple[str, str]) -> list[str]:
    pattern = re.escape(marks[0]) + r"[^\n]*\n(.*?)^[ \t]*" + re.escape(marks[1])
    return re.findall(pattern, source, re.DOTALL | re.MULTILINE)


def _without(source: str, marks: tuple[str, str], instead: str = "") -> str:
    out, inside = [], False
    for line in source.splitlines():
        if line.strip() == marks[0]:
            inside = True
            indent = line[: len(line) - len(line.lstrip())]
            out += [indent + text for text in instead.splitlines()]
        elif line.strip() == marks[1]:
            inside = False
        elif not inside:
            out.append(line)
    return "\n".join(out)


def _plain(source: str) -> str:
    return re.sub(r"\s+", " ", source).strip()


def lay_out(assignment: Assignment, notebook: dict) -> Returned:
    """Find the source's cells in a returned notebook; what is left are the student's own cells."""
    cells = notebook["cells"]
    sources = [cell["source"] for cell in cells]
    code = [cell["cell_type"] == "code" for cell in cells]
    place = {c.grade_id: i for i, c in enumerate(assignment.cells) if c.grade_id}
    ids = [c.get("metadata", {}).get("nbgrader", {}).get("grade_id") for c in cells]
    belongs: list[int | None] = [place.get(i) for i in ids]
    repaired, caught = [], []
    how: dict[int, str] = {}

    released = [c.released for c in assignment.cells]
    plain = [_plain(text) for text in released]
    # 1. A cell's id counts only while it is still that kind of cell.
    for n, at in enumerate(belongs):
        if at is not None and code[n] != assignment.cells[at].code:
            belongs[n] = None
    # 2. by text
    for n, at in enumerate(belongs):
        if at is None and sources[n].strip():
            same = [i for i, text in enumerate(plain) if text == _plain(sources[n])]
            free = [i for i in same if i not in belongs]
            if same:
                belongs[n] = (free or same)[0]
                if assignment.cells[belongs[n]].grade_id:
                    how.setdefault(belongs[n], "its text")
    # 3. an answer by the names that it defines; a locked cell by most of its text
    for n, at in enumerate(belongs):
        if at is not None or not code[n]:
            continue
        names = bound_names(sources[n])
        for i, cell in enumerate(assignment.cells):
            functions = [x for x in cell.names if re.search(rf"(def|class)\s+{x}\b", cell.source)]
            wanted = functions or cell.names
            if cell.kind == "answer" and wanted and set(wanted) & set(names):
                belongs[n] = i
                how.setdefault(i, f"the name {next(x for x in wanted if x in names)}")
                break
            free = cell.kind == "free" and i not in belongs and cell.names
            if free and set(cell.names) & set(names) and len(names) <= len(cell.names) + 2:
                belongs[n] = i
                break
            if cell.kind in ("test", "given") and _alike(released[i], sources[n]):
                belongs[n] = i
                how.setdefault(i, "most of its text")
                break
    # 4. a written answer, by its place: behind the text that stands before it in the source
    for i, cell in enumerate(assignment.cells):
        if cell.kind == "by hand" and i not in belongs:
            before = [n for n, at in enumerate(belongs) if at == i - 1]
            if before and before[-1] + 1 < len(cells):
                n = before[-1] + 1
                if belongs[n] is None and code[n] == cell.code:
                    belongs[n] = i
                    how[i] = "its place"

    answers: dict[int, list[str]] = {}
    extra: dict[int, list[tuple[str, str]]] = {}
    last = -1
    for n, at in enumerate(belongs):
        if at is not None:
            last = at
            answers.setdefault(at, []).append(sources[n])
        elif code[n] and sources[n].strip():
            extra.setdefault(last, []).append((f"cell {n + 1}", sources[n]))

    marked = [c for c in assignment.cells if c.grade_id]
    if not any(i in place for i in ids):
        found = sum(place[c.grade_id] in answers for c in marked)
        repaired.append(
            "The notebook had lost nbgrader's marks, as Colab returns it. "
            f"{found} of {len(marked)} cells were found again by their text or their names."
        )
    for i, cell in enumerate(assignment.cells):
        label = cell.grade_id
        if label is None:
            continue
        got = answers.get(i, [])
        if not got:
            if cell.kind == "answer":
                what = f", none that defines {' or '.join(cell.names)}" if cell.names else ""
                repaired.append(f"{label}: no such cell{what}.")
            elif cell.kind == "by hand":
                repaired.append(f"{label}: the cell for the written answer is missing.")
            elif cell.kind in ("test", "given"):
                repaired.append(f"{label}: the cell was missing; the instructor's was used.")
            continue
        if i in how and any(x in place for x in ids):
            repaired.append(f"{label}: the cell had lost its mark and was found by {how[i]}.")
        if cell.kind in ("answer", "by hand"):
            filled = [text for text in got if _plain(text) != plain[i]]
            if len(got) > 1:
                repaired.append(
                    f"{label}: the cell stands {len(got)} times; "
                    + (
                        "the last one counts."
                        if len(filled) > 1
                        else "the one with an answer counts."
                    )
                )
            answers[i] = filled or got[-1:]
            if cell.kind == "by hand":
                answers[i] = answers[i][-1:]
        elif len(got) > 1:
            repaired.append(
                f"{label}: the cell stands {len(got)} times; the instructor's was used."
            )
        elif _plain(got[0]) not in (plain[i], _plain(cell.source)):
            caught.append(f"{label}: the cell was changed; the instructor's was used.")
        if cell.kind == "answer" and cell.names:
            defined = {name for text in answers[i] for name in bound_names(text)}
            missing = [name for name in cell.names if name not in defined]
            others = [name for name in defined if name not in cell.names]
            if missing and others:
                caught.append(
                    f"{label}: the tests ask for {missing[0]}, and the cell defines {others[0]}."
                )
    order = [at for at in belongs if at is not None]
    if any(a > b for a, b in zip(order, order[1:])) and len(set(order)) == len(order):
        repaired.append("The cells stood in another order; they were run in the assignment's.")
    printed = {at: cells[n].get("printed", "") for n, at in enumerate(belongs) if at is not None}
    return Returned(answers, extra, repaired, caught, len(answers), printed)


def _alike(one: str, other: str) -> bool:
    lines, others = ([x.strip() for x in t.splitlines() if x.strip()] for t in (one, other))
    if min(len(lines), len(others)) < 2:
        return False
    return difflib.SequenceMatcher(None, lines, others, autojunk=False).ratio() > 0.6


def steps_of(assignment: Assignment, returned: Returned) -> list[dict]:
    """What is run, in the order of the source and up to its last test.

    A step has a ``kind`` ("given", "student", "test"), a ``label`` for people, its ``source``, and
    ``cell``, the place in the source.
    """
    steps: list[dict] = []

    def add(kind: str, label: str, source: str, cell: int) -> None:
        if kind != "test":
            source = python_of(source)
        if source.strip():
            steps.append({"kind": kind, "label": label, "source": source, "cell": cell})

    last = max(i for i, cell in enumerate(assignment.cells) if cell.kind == "test")
    for label, source in returned.extra.get(-1, []):
        add("student", label, source, -1)
    for i, cell in enumerate(assignment.cells[: last + 1]):
        label = cell.grade_id or (f"the cell that sets {cell.names[0]}" if cell.names else "a cell")
        got = returned.answers.get(i, [])
        if cell.kind == "test":
            add("test", label, cell.source, i)
        elif cell.kind == "given":
            add("given", label, cell.source, i)
            # An import that was added to a given cell is still there for the student's own code.
            for text in got:
                if _plain(text) != _plain(cell.released):
                    add("student", label, text, i)
        elif cell.kind in ("answer", "free", "by hand") and cell.code:
            for text in got or ([cell.source] if cell.kind == "free" else []):
                add("student", label, text, i)
        for name, source in returned.extra.get(i, []):
            add("student", name, source, i)
    return steps


def imports_of(assignment: Assignment) -> list[str]:
    """The modules that the instructor's cells import: loaded before any student code runs."""
    names = []
    for cell in assignment.cells:
        if not cell.code or cell.kind not in ("given", "test", "free", "answer"):
            continue
        try:
            tree = ast.parse(python_of(cell.source))
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.append(node.module)
                names += [f"{node.module}.{alias.name}" for alias in node.names]
    return list(dict.fromkeys(names))
