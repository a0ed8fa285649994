"""A returned notebook: find every cell again, and lay out what is run.

A notebook comes back with cells copied, deleted and moved, from Colab without nbgrader's metadata,
sometimes in a zip, in UTF-16, or as another assignment. Only answers and own cells count; what is
locked is the instructor's. This runs inside the jail, before any cell of the student's does.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Callable

MOST_BYTES = 20 << 20  # of a notebook in a zip
MOST_CHARACTERS = 20_000  # of a cell, where a person reads it
BROKEN = (SyntaxError, ValueError, RecursionError, MemoryError)  # what odd Python text raises
DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def word_pattern(name: str) -> str:
    """Return a pattern that finds a name which is not part of a longer word."""
    return rf"(?<![^\W_]){re.escape(name)}(?![^\W_])"


def plain(source: str) -> str:
    """Return a text with all white space made equal."""
    return " ".join(source.split())


def python_of(source: str) -> str:
    """Return a cell's Python: IPython's commands do nothing."""
    source = source.replace("\r\n", "\n")
    first, _, rest = source.lstrip().partition("\n")
    if first.startswith("%%"):
        return rest if re.match(r"%%(time|timeit|capture)\b", first) else ""
    try:
        ast.parse(source)
        return source
    except BROKEN:
        text = re.sub(r"^([ \t]*)[%!?].*$", r"\1pass", source, flags=re.MULTILINE)
        text = re.sub(r"^([ \t]*[\w., ]+=[ \t]*)[%!].*$", r"\1None", text, flags=re.MULTILINE)
        return re.sub(r"^([ \t]*)[\w.]+\?+[ \t]*$", r"\1pass", text, flags=re.MULTILINE)


def bound_names(source: str) -> list[str]:
    """Return the names that a cell defines at its top level: functions, classes and values."""
    try:
        body = ast.parse(python_of(source)).body
    except BROKEN:
        return re.findall(r"^(?:def|class)[ \t]+(\w+)", source, re.MULTILINE)
    names: list[str] = []
    for node in body:
        if isinstance(node, DEFINITIONS[2:]):
            names.append(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            stored = [n for n in ast.walk(node) if isinstance(n, ast.Name)]
            names += [n.id for n in stored if isinstance(n.ctx, ast.Store)]
    return list(dict.fromkeys(names))


def read_notebook(data: bytes) -> list[dict]:
    """Return a notebook's cells as ``{"code", "source", "id", "printed"}``.

    Raises:
        ValueError: It is not a notebook.
    """
    if not data.strip():
        raise ValueError("The file is empty.")
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return [_cell(cell) for cell in json.loads(data.decode(encoding))["cells"]]
    except (*BROKEN, TypeError, KeyError, AttributeError) as error:
        raise ValueError("The file is not a notebook that can be read.") from error


def _text(value: object) -> str:
    text = "".join(map(str, value)) if isinstance(value, list) else str(value or "")
    return text.encode("utf-8", "replace").decode("utf-8")


def _cell(cell: dict) -> dict:
    metadata = cell.get("metadata")
    mark = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    grade_id = mark.get("grade_id") if isinstance(mark, dict) else None
    outputs = [o for o in cell.get("outputs") or [] if isinstance(o, dict)]
    printed = "".join(_text(o.get("text")) for o in outputs if o.get("name") == "stdout")
    return {
        "code": cell.get("cell_type") == "code",
        "source": _text(cell.get("source")),
        "id": grade_id if isinstance(grade_id, str) else None,
        "printed": printed[-3000:],
    }


def notebooks_in(name: str, data: bytes) -> list[tuple[str, bytes]]:
    """Return the notebooks in a file: itself, or those in a zip. Nothing is written to disk."""
    if not name.lower().endswith(".zip"):
        return [(name, data)]
    found = []
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist()[:1000]:
                inner = info.filename.rsplit("/", 1)[-1]
                hidden = "__MACOSX" in info.filename or inner.startswith(".")
                if inner.endswith(".ipynb") and not hidden and info.file_size <= MOST_BYTES:
                    found.append((f"{name}: {inner}", archive.read(info)))
    except Exception:  # a broken archive is a student's file without a notebook
        pass
    return found


def choose(skeleton: list[dict], files: list[tuple[str, bytes]]) -> dict:
    """Return the layout of the notebook to mark: the newest that holds an answer.

    Args:
        skeleton: The students' copy of the assignment, see `Assignment.skeleton`.
        files: (name, bytes), the newest first.
    """
    layouts, notes = [], []
    for name, data in [each for file in files for each in notebooks_in(*file)]:
        try:
            layouts.append((name, lay_out(skeleton, read_notebook(data))))
        except ValueError as error:
            notes.append(str(error) if len(files) == 1 else f"{name}: {error}")
    if not layouts:
        layout = lay_out(skeleton, [])
        layout["notes"] = notes or ["No notebook was found in what came."]
        return layout
    name, layout = next((each for each in layouts if each[1]["answered"]), layouts[0])
    if len(layouts) > 1:
        others = ", ".join(other for other, _ in layouts if other != name)
        notes.append(f"{len(layouts)} notebooks came; {name} was marked, not {others}.")
        most = max(layouts, key=lambda each: each[1]["answered"])
        if most[1]["answered"] > layout["answered"]:
            notes.append(f"An older one, {most[0]}, holds more answers.")
    layout["notes"] = notes + layout["notes"]
    return layout


class Search:
    """Which cell of the source each returned cell belongs to.

    Attributes:
        at: For each returned cell the place in the source, or None.
    """

    def __init__(self, skeleton: list[dict], cells: list[dict]) -> None:
        self.skeleton = skeleton
        self.cells = cells
        self.plain = [plain(cell["released"]) for cell in skeleton]
        self.places = {cell["id"]: i for i, cell in enumerate(skeleton) if cell["id"]}
        self.at: list[int | None] = [None] * len(cells)
        for matcher in MATCHERS:
            for n, place in enumerate(self.at):
                if place is None:
                    self.at[n] = matcher(self, n)

    def by_id(self, n: int) -> int | None:
        """An answer may have become a text cell by a slip of the keyboard; others may not."""
        cell, place = self.cells[n], self.places.get(self.cells[n]["id"])
        if place is None or not cell["source"].strip():
            return None
        same = cell["code"] == self.skeleton[place]["code"]
        return place if same or self.skeleton[place]["kind"] in ("answer", "by hand") else None

    def by_text(self, n: int) -> int | None:
        """The same words in the same order."""
        text = plain(self.cells[n]["source"])
        same = [i for i, other in enumerate(self.plain) if text and other == text]
        return next((i for i in same if i not in self.at), same[0] if same else None)

    def by_name(self, n: int) -> int | None:
        """An answer, or the cell with the student's id, by what it defines."""
        names = set(bound_names(self.cells[n]["source"]))
        for i, cell in enumerate(self.skeleton):
            defined = re.findall(r"^(?:def|class) +(\w+)", cell["released"], re.MULTILINE)
            wanted = set(defined or cell["names"])
            if cell["kind"] == "answer" and names & wanted:
                return i
            free = cell["kind"] == "free" and i not in self.at and self.cells[n]["code"]
            if free and names & wanted and len(names) <= len(wanted) + 2:
                return i
        return None

    def by_place(self, n: int) -> int | None:
        """A written answer: it stands behind the text that stands before it in the source."""
        place = self.at[n - 1] if n else None
        if place is None or place + 1 >= len(self.skeleton) or place + 1 in self.at:
            return None
        cell = self.skeleton[place + 1]
        fits = cell["kind"] == "by hand" and cell["code"] == self.cells[n]["code"]
        return place + 1 if fits else None


MATCHERS: list[Callable[[Search, int], int | None]] = [
    Search.by_id, Search.by_text, Search.by_name, Search.by_place,
]  # fmt: skip


def lay_out(skeleton: list[dict], cells: list[dict]) -> dict:
    """Lay a returned notebook out along the source.

    Returns:
        ``steps`` to run, ``answers`` and ``printed`` by the place in the source, the
        student's ``own`` cells by the place they stand behind, how many cells are ``answered``, the
        ``id`` of the student in it, and ``notes`` on what was repaired.
    """
    search = Search(skeleton, cells)
    versions: dict[int, list[str]] = {}
    own: dict[int, list[tuple[str, str]]] = {}
    last = -1
    for n, (cell, place) in enumerate(zip(cells, search.at)):
        if place is not None:
            last = place
            versions.setdefault(place, []).append(cell["source"])
        elif cell["code"] and cell["source"].strip():
            own.setdefault(last, []).append((f"cell {n + 1}", cell["source"]))
    answers: dict[int, list[str]] = {}
    answered = 0
    for i, texts in versions.items():
        if skeleton[i]["kind"] in ("answer", "by hand"):
            filled = [text for text in texts if plain(text) != search.plain[i]]
            answered += bool(filled)
            answers[i] = filled or texts[-1:]
    code = "\n".join(cell["source"] for cell in cells if cell["code"])
    student_id = re.search(r"""STUDENT_ID[ \t]*=[ \t]*(["'])(.{0,200}?)\1""", code)
    return {
        "steps": _steps(skeleton, versions, answers, own),
        "answers": {i: "\n\n".join(texts)[:MOST_CHARACTERS] for i, texts in answers.items()},
        "own": {i: [text[:MOST_CHARACTERS] for _, text in each] for i, each in own.items()},
        "printed": {p: cells[n]["printed"] for n, p in enumerate(search.at) if p is not None},
        "answered": answered,
        "id": student_id[2].strip() if student_id else "",
        "notes": _notes(search, versions) if cells else [],
    }


def _notes(search: Search, versions: dict[int, list[str]]) -> list[str]:
    marked = [(i, cell) for i, cell in enumerate(search.skeleton) if cell["id"]]
    ids = [cell["id"] for cell in search.cells if cell["id"]]
    known = [i for i in ids if i in search.places]
    if not known and not any(c["kind"] == "answer" and i in versions for i, c in marked):
        other = f', but of another: it has the cell "{ids[0]}"' if ids else ""
        return [f"The notebook is not of this assignment{other}."]
    notes = []
    if not known:
        found = sum(i in versions for i, _ in marked)
        notes.append(
            "The notebook had lost nbgrader's marks, as Colab returns it. "
            f"{found} of {len(marked)} cells were found again by their text or their names."
        )
    for i, cell in marked:
        code = [c["code"] for c, at in zip(search.cells, search.at) if at == i]
        if cell["kind"] not in ("answer", "by hand"):
            continue
        if not code:
            what = f", none that defines {' or '.join(cell['names'])}" if cell["names"] else ""
            notes.append(f"{cell['id']}: no such cell{what}.")
        elif cell["code"] and not all(code):
            notes.append(f"{cell['id']}: the answer stood in a text cell; it was run as code.")
        if len(code) > 1:
            filled = sum(plain(text) != search.plain[i] for text in versions[i])
            counts = "the last one counts" if filled > 1 else "the one with an answer counts"
            notes.append(f"{cell['id']}: the cell stands {len(code)} times; {counts}.")
    order = [place for place in search.at if place is not None]
    if order != sorted(order) and len(set(order)) == len(order):
        notes.append("The cells stood in another order; they were run in the assignment's.")
    return notes


def _steps(skeleton: list[dict], versions: dict, answers: dict, own: dict) -> list[dict]:
    """What is run, in the order of the source; behind the last test only definitions.

    A step has a ``kind`` ("given", "answer", "own"), a ``label`` for people, its ``source``,
    ``quiet`` where it is no news that it stops, and ``definitions`` where nothing else counts.
    """
    steps: list[dict] = []

    def add(kind: str, label: str, source: str, quiet: bool = False, definitions: bool = False):
        steps.append({"kind": kind, "label": label, "source": source, "quiet": quiet,
                      "definitions": definitions})  # fmt: skip

    last = max((i for i, cell in enumerate(skeleton) if cell["kind"] == "test"), default=-1)
    for i, cell in enumerate([{"kind": "start"}, *skeleton], -1):
        kind, texts, released = cell["kind"], versions.get(i, []), cell.get("released", "")
        label = cell.get("id") or "the cell that sets your id"
        if kind in ("given", "adapter"):
            add("given" if kind == "given" else "answer", label, released)
            # An import that was added to a given cell is still there for the student's own code.
            for text in texts:
                if plain(text) != plain(released):
                    add("own", label, text, quiet=True)
        elif kind == "answer":
            for text in answers.get(i, []):
                add("answer", label, text, quiet=plain(text) == plain(released))
        elif kind == "test":  # in Jupyter its functions and imports are there for what follows
            add("own", label, released, quiet=True, definitions=True)
        elif kind == "free":
            for text in texts or [released]:
                add("own", label, text, quiet=True, definitions=i > last)
        for name, source in own.get(i, []):
            add("own", name, source, definitions=i >= last)
    return steps
