"""A returned notebook: find every cell again, and lay out what is run.

A notebook comes back with cells copied, deleted and moved, from Colab without nbgrader's metadata,
sometimes in a zip, in UTF-16, or as another assignment. Only answers and own cells count; what is
locked is the instructor's. This runs inside the jail, before any cell of the student's does.
"""

from __future__ import annotations

import ast
import difflib
import io
import json
import re
import zipfile
from collections.abc import Callable

MOST_BYTES = 20 << 20  # of a notebook in a zip
MOST_LINES = 500  # of a cell that is compared line by line
BROKEN = (SyntaxError, ValueError, RecursionError, MemoryError)  # what odd Python text raises
DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


# ---------------------------------------------------------------- text


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
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.append(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            stored = [n for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
            names += [n.id for n in stored if isinstance(n.ctx, ast.Store)]
    return list(dict.fromkeys(names))


# ---------------------------------------------------------------- files


def read_notebook(data: bytes) -> list[dict]:
    """Return a notebook's cells as ``{"code", "source", "id", "printed"}``.

    Raises:
        ValueError: It is not a notebook.
    """
    if not data.strip():
        raise ValueError("The file is empty.")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        data = data.decode("utf-16").encode("utf-8", "replace")
    try:
        notebook = json.loads(data.decode("utf-8-sig"))
        return [_cell(cell) for cell in notebook["cells"]]
    except (*BROKEN, TypeError, KeyError, AttributeError, UnicodeError) as error:
        text = "The file is not a notebook that can be read."
        raise ValueError(text) from error


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
                    with archive.open(info) as file:
                        found.append((f"{name}: {inner}", file.read(MOST_BYTES)))
    except Exception:  # a broken archive is a student's file without a notebook
        return found
    return found


def choose(skeleton: list[dict], files: list[tuple[str, bytes]]) -> tuple[dict, list[str]]:
    """Choose the notebook to mark: the newest that holds an answer.

    Args:
        skeleton: The students' copy of the assignment, see `Assignment.skeleton`.
        files: (name, bytes), the newest first.

    Returns:
        Its layout, and notes for the student and the teacher.
    """
    layouts, problems = [], []
    for name, data in [each for file in files for each in notebooks_in(*file)]:
        try:
            layouts.append((name, lay_out(skeleton, read_notebook(data))))
        except ValueError as error:
            problems.append(str(error) if len(files) == 1 else f"{name}: {error}")
    if not layouts:
        return lay_out(skeleton, []), problems or ["No notebook was found in what came."]
    answered = [each for each in layouts if each[1]["answered"]] or layouts
    name, layout = answered[0]
    notes = problems
    if len(layouts) > 1:
        others = ", ".join(other for other, _ in layouts if other != name)
        notes = [
            *notes,
            f"{len(layouts)} notebooks came; {name} was marked, not {others}.",
        ]
        most = max(answered, key=lambda each: each[1]["answered"])
        if most[1]["answered"] > layout["answered"]:
            notes.append(f"An older one, {most[0]}, holds more answers.")
    return layout, notes


# ---------------------------------------------------------------- finding cells again


class Search:
    """Which cell of the source each returned cell belongs to.

    Attributes:
        at: For each returned cell the place in the source, or None.
        how: For each place how its cell was found, where its id did not tell.
    """

    def __init__(self, skeleton: list[dict], cells: list[dict]) -> None:
        self.skeleton = skeleton
        self.cells = cells
        self.plain = [plain(cell["released"]) for cell in skeleton]
        self.places = {cell["id"]: i for i, cell in enumerate(skeleton) if cell["id"]}
        self.at: list[int | None] = [None] * len(cells)
        self.how: dict[int, str] = {}
        for words, matcher in MATCHERS:
            for n, place in enumerate(self.at):
                if place is None and (found := matcher(self, n)) is not None:
                    self.at[n] = found
                    if words and skeleton[found]["id"]:
                        self.how.setdefault(found, words)

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
        free = [i for i in same if i not in self.at]
        return next(iter(free or same), None)

    def by_name(self, n: int) -> int | None:
        """An answer, or the cell with the student's id, by what it defines."""
        source = self.cells[n]["source"]
        names = set(bound_names(source))
        for i, cell in enumerate(self.skeleton):
            wanted = functions_of(cell) or cell["names"]
            if cell["kind"] == "answer" and names & set(wanted):
                return i
            free = cell["kind"] == "free" and i not in self.at and self.cells[n]["code"]
            if free and names & set(wanted) and len(names) <= len(wanted) + 2:
                return i
        return None

    def by_lines(self, n: int) -> int | None:
        """A locked cell by most of its lines."""
        if not self.cells[n]["code"]:
            return None
        for i, cell in enumerate(self.skeleton):
            locked = cell["kind"] in ("test", "given", "adapter")
            if locked and _alike(cell["released"], self.cells[n]["source"]):
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


MATCHERS: list[tuple[str, Callable[[Search, int], int | None]]] = [
    ("", Search.by_id),
    ("its text", Search.by_text),
    ("the name that it defines", Search.by_name),
    ("most of its text", Search.by_lines),
    ("its place", Search.by_place),
]


def functions_of(cell: dict) -> list[str]:
    """Return the functions and classes among the names that a cell of the source defines."""
    text = cell["released"]
    return [x for x in cell["names"] if re.search(rf"(?:def|class)[ \t]+{re.escape(x)}\b", text)]


def _alike(one: str, other: str) -> bool:
    lines, others = ([x.strip() for x in t.splitlines() if x.strip()] for t in (one, other))
    if min(len(lines), len(others)) < 2 or len(others) > MOST_LINES:
        return False
    return difflib.SequenceMatcher(None, lines, others, autojunk=False).ratio() > 0.6


# ---------------------------------------------------------------- the layout


def lay_out(skeleton: list[dict], cells: list[dict]) -> dict:
    """Lay a returned notebook out along the source.

    Returns:
        ``steps`` to run, ``answers`` and ``printed`` by the place in the source, how many cells
        are ``answered``, the ``id`` of the student in it, and ``notes`` on what was repaired.
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
    notes = _notes(search, versions) if cells else []
    answers: dict[int, list[str]] = {}
    answered = 0
    for i, cell in enumerate(skeleton):
        if cell["kind"] in ("answer", "by hand") and i in versions:
            filled = [text for text in versions[i] if plain(text) != search.plain[i]]
            answers[i] = filled or versions[i][-1:]
            answered += bool(filled)
            if cell["kind"] == "by hand":
                answers[i] = answers[i][-1:]
    printed = {str(p): cells[n]["printed"] for n, p in enumerate(search.at) if p is not None}
    return {
        "steps": _steps(skeleton, versions, answers, own),
        "answers": {str(i): texts for i, texts in answers.items()},
        "own": {str(i): [text for _, text in cells] for i, cells in own.items()},
        "printed": printed,
        "answered": answered,
        "id": _student_id(skeleton, versions),
        "notes": notes,
    }


def _student_id(skeleton: list[dict], versions: dict[int, list[str]]) -> str:
    for i, cell in enumerate(skeleton):
        if cell["kind"] == "free" and "STUDENT_ID" in cell["names"] and i in versions:
            found = re.search(r"""STUDENT_ID[ \t]*=[ \t]*(["'])(.{0,200}?)\1""", versions[i][-1])
            return found[2].strip() if found else ""
    return ""


def _notes(search: Search, versions: dict[int, list[str]]) -> list[str]:
    marked = [(i, cell) for i, cell in enumerate(search.skeleton) if cell["id"]]
    found = sum(i in versions for i, _ in marked)
    ids = [cell["id"] for cell in search.cells if cell["id"]]
    known = [i for i in ids if i in search.places]
    if not found or (ids and not known):
        other = f', but of another: it has the cell "{ids[0]}"' if ids else ""
        if not any(c["kind"] == "answer" and i in versions for i, c in marked):
            return [f"The notebook is not of this assignment{other}."]
    notes = []
    if not known:
        notes.append(
            "The notebook had lost nbgrader's marks, as Colab returns it. "
            f"{found} of {len(marked)} cells were found again by their text or their names."
        )
    for i, cell in marked:
        notes += [f"{cell['id']}: {note}" for note in _notes_on(search, i, versions.get(i, []))
                  if known or "had lost" not in note]  # fmt: skip
    order = [place for place in search.at if place is not None]
    if any(a > b for a, b in zip(order, order[1:])) and len(set(order)) == len(order):
        notes.append("The cells stood in another order; they were run in the assignment's.")
    return notes


def _notes_on(search: Search, place: int, texts: list[str]) -> list[str]:
    cell, notes = search.skeleton[place], []
    locked = cell["kind"] in ("test", "given", "adapter")
    if not texts:
        if locked:
            return ["the cell was missing; the instructor's was used."]
        if cell["kind"] == "by hand":
            return ["the cell for the written answer is missing."]
        what = f", none that defines {' or '.join(cell['names'])}" if cell["names"] else ""
        return [f"no such cell{what}."] if cell["kind"] == "answer" else []
    if place in search.how:
        notes.append(f"the cell had lost its mark and was found by {search.how[place]}.")
    returned = [search.cells[n] for n, at in enumerate(search.at) if at == place]
    if cell["code"] and cell["kind"] == "answer" and not all(c["code"] for c in returned):
        notes.append("the answer stood in a text cell; it was run as code.")
    if len(texts) > 1:
        filled = sum(plain(text) != search.plain[place] for text in texts)
        counts = "the last one counts" if filled > 1 else "the one with an answer counts"
        notes.append(
            f"the cell stands {len(texts)} times; "
            f"{'the instructor’s was used' if locked else counts}."
        )
    elif locked and plain(texts[0]) != search.plain[place]:
        notes.append("the cell was changed; the instructor's was used.")
    if cell["kind"] == "answer" and cell["names"]:
        defined = list(dict.fromkeys(name for text in texts for name in bound_names(text)))
        missing = [name for name in cell["names"] if name not in defined]
        others = [name for name in defined if name not in cell["names"]]
        if missing and others:
            notes.append(f"the tests ask for {missing[0]}, and the cell defines {others[0]}.")
    return notes


def _steps(skeleton: list[dict], versions: dict, answers: dict, own: dict) -> list[dict]:
    """What is run, in the order of the source; behind the last test only definitions.

    A step has a ``kind`` ("given", "adapter", "answer", "own"), a ``label`` for people, its
    ``source``, and ``quiet`` where it is no news that it stops.
    """
    steps: list[dict] = []

    def add(kind: str, label: str, source: str, **more) -> None:
        steps.append({"kind": kind, "label": label, "source": source, "quiet": False, **more})

    def add_own(place: int) -> None:
        for label, source in own.get(place, []):
            add("own", label, source, definitions=place >= last)

    last = max((i for i, cell in enumerate(skeleton) if cell["kind"] == "test"), default=-1)
    add_own(-1)
    for i, cell in enumerate(skeleton):
        kind, label = cell["kind"], cell["id"] or "the cell that sets your id"
        if kind in ("given", "adapter"):
            add(kind, label, cell["released"])
            # An import that was added to a given cell is still there for the student's own code.
            for text in versions.get(i, []):
                if plain(text) != plain(cell["released"]):
                    add("own", label, text, quiet=True)
        elif kind == "answer":
            for text in answers.get(i, []):
                add("answer", label, text, quiet=plain(text) == plain(cell["released"]))
        elif kind == "test":  # in Jupyter its functions and imports are there for what follows
            add("own", label, cell["released"], quiet=True, definitions=True)
        elif kind in ("free", "by hand") and cell["code"]:
            for text in versions.get(i, [cell["released"]] if kind == "free" else []):
                add("own", label, text, quiet=True, definitions=i > last)
        add_own(i)
    return steps
