"""A returned notebook: find every cell again, and lay out what is run.

A notebook comes back with cells copied, deleted and moved, from Colab without nbgrader's metadata,
sometimes in a zip, in UTF-16, or as another assignment. Only answers and own cells count; what is
locked is the instructor's. This runs inside the jail, before any cell of the student's does.
"""

import ast
import io
import json
import re
import zipfile
from collections import defaultdict
from contextlib import suppress
from functools import lru_cache

MOST_BYTES = 20 << 20  # of a notebook in a zip
BROKEN = (SyntaxError, ValueError, RecursionError, MemoryError)  # what odd Python text raises
ANSWERS = ("answer", "by hand")  # kinds of cells
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


@lru_cache
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
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return [_cell(cell) for cell in json.loads(data.decode(encoding))["cells"]]
    except (*BROKEN, TypeError, KeyError, AttributeError) as error:
        raise ValueError("The file is not a notebook that can be read.") from error


def _text(value: object) -> str:
    text = "".join(map(str, value)) if isinstance(value, list) else str(value or "")
    return text.encode("utf-8", "replace").decode("utf-8")


def _cell(cell: dict) -> dict:
    mark = (cell.get("metadata") or {}).get("nbgrader") or {}
    grade_id = mark.get("grade_id")
    prints = [o.get("text") for o in cell.get("outputs") or [] if o.get("name") == "stdout"]
    return {
        "code": cell.get("cell_type") == "code",
        "source": _text(cell.get("source")),
        "id": grade_id if isinstance(grade_id, str) else None,
        "printed": "".join(map(_text, prints))[-3000:],
    }


def notebooks_in(name: str, data: bytes) -> list[tuple[str, bytes]]:
    """Return the notebooks in a file: itself, or those in a zip. Nothing is written to disk."""
    if not name.lower().endswith(".zip"):
        return [(name, data)]
    found = []
    # A broken archive is a student's file without a notebook.
    with suppress(Exception), zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist()[:1000]:
            inner = info.filename.rsplit("/", 1)[-1]
            hidden = "__MACOSX" in info.filename or inner.startswith(".")
            if inner.endswith(".ipynb") and not hidden and info.file_size <= MOST_BYTES:
                found.append((f"{name}: {inner}", archive.read(info)))
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
        return lay_out(skeleton, []) | {"notes": notes or ["No notebook was found in what came."]}
    name, layout = next((each for each in layouts if each[1]["answered"]), layouts[0])
    if len(layouts) > 1:
        others = ", ".join(other for other, _ in layouts if other != name)
        notes.append(f"{len(layouts)} notebooks came; {name} was marked, not {others}.")
        older, most = max(layouts, key=lambda each: each[1]["answered"])
        if most["answered"] > layout["answered"]:
            notes.append(f"An older one, {older}, holds more answers.")
    return layout | {"notes": notes + layout["notes"]}


def match(skeleton: list[dict], cells: list[dict]) -> list[int | None]:
    """Return the place in the source that each returned cell belongs to, or None."""
    at: list[int | None] = [None] * len(cells)
    for fits in (_by_id, _by_text, _by_name, _by_place):
        for n, cell in enumerate(cells):
            if at[n] is None:
                before = at[n - 1] if n else None
                found = [i for i, ours in enumerate(skeleton)
                         if fits(cell, ours, i in at, before == i - 1)]  # fmt: skip
                at[n] = next((i for i in found if i not in at), found[0] if found else None)
    return at


# Whether a returned cell is one of ours, which may be taken already, or follow the cell before it.


def _by_id(cell: dict, ours: dict, taken: bool, follows: bool) -> bool:
    """An answer may have become a text cell by a slip of the keyboard; others may not."""
    same = ours["id"] and ours["id"] == cell["id"] and cell["source"].strip()
    return same and (cell["code"] == ours["code"] or ours["kind"] in ANSWERS)


def _by_text(cell: dict, ours: dict, taken: bool, follows: bool) -> bool:
    """The same words in the same order."""
    words = plain(cell["source"])
    return bool(words) and words == plain(ours["released"])


def _by_name(cell: dict, ours: dict, taken: bool, follows: bool) -> bool:
    """An answer, or the cell with the student's id, by what it defines."""
    names = bound_names(cell["source"])
    wanted = re.findall(r"^(?:def|class) +(\w+)", ours["released"], re.MULTILINE) or ours["names"]
    free = ours["kind"] == "free" and cell["code"] and not taken and len(names) <= len(wanted) + 2
    return (free or ours["kind"] == "answer") and not set(names).isdisjoint(wanted)


def _by_place(cell: dict, ours: dict, taken: bool, follows: bool) -> bool:
    """A written answer: it stands behind the text that stands before it in the source."""
    return follows and not taken and ours["kind"] == "by hand" and ours["code"] == cell["code"]


def lay_out(skeleton: list[dict], cells: list[dict]) -> dict:
    """Lay a returned notebook out along the source.

    Returns:
        ``steps`` to run, ``answers`` by grade id, what was ``printed`` by the place in the source,
        the student's ``own`` cells by the place they stand behind, how many cells are ``answered``,
        the ``id`` of the student in it, and ``notes`` on what was repaired.
    """
    at = match(skeleton, cells)
    versions, own, last = defaultdict(list), defaultdict(list), 0
    for n, (cell, place) in enumerate(zip(cells, at)):
        if place is not None:
            last = place
            versions[place].append(cell["source"])
        elif cell["code"] and cell["source"].strip():
            own[last].append((f"cell {n + 1}", cell["source"]))
    answers, answered = {}, 0
    for i, texts in versions.items():
        if skeleton[i]["kind"] in ANSWERS:
            filled = [text for text in texts if plain(text) != plain(skeleton[i]["released"])]
            answered += bool(filled)
            answers[i] = filled or texts[-1:]
    code = "\n".join(cell["source"] for cell in cells if cell["code"])
    student_id = re.search(r"""STUDENT_ID[ \t]*=[ \t]*(["'])(.{0,200}?)\1""", code)
    return {
        "steps": _steps(skeleton, versions, answers, own),
        "answers": {skeleton[i]["id"]: "\n\n".join(texts) for i, texts in answers.items()},
        "own": {str(i): [text for _, text in each] for i, each in own.items()},
        "printed": {place: cell["printed"] for cell, place in zip(cells, at) if place is not None},
        "answered": answered,
        "id": student_id[2].strip() if student_id else "",
        "notes": _notes(skeleton, cells, at) if cells else [],
    }


def _notes(skeleton: list[dict], cells: list[dict], at: list[int | None]) -> list[str]:
    marked = {i: cell for i, cell in enumerate(skeleton) if cell["id"]}
    ids = [cell["id"] for cell in cells if cell["id"]]
    notes = []
    if not any(cell["id"] in ids for cell in marked.values()):
        if not any(c["kind"] == "answer" and i in at for i, c in marked.items()):
            other = f', but of another: it has the cell "{ids[0]}"' if ids else ""
            return [f"The notebook is not of this assignment{other}."]
        notes.append(
            "The notebook had lost nbgrader's marks, as Colab returns it. "
            f"{sum(i in at for i in marked)} of {len(marked)} cells were found again by their text "
            "or their names."
        )
    for i, cell in marked.items():
        if cell["kind"] not in ANSWERS:
            continue
        found = [c for c, place in zip(cells, at) if place == i]
        if not found:
            what = f", none that defines {' or '.join(cell['names'])}" if cell["names"] else ""
            notes.append(f"{cell['id']}: no such cell{what}.")
        elif cell["code"] and not all(c["code"] for c in found):
            notes.append(f"{cell['id']}: the answer stood in a text cell; it was run as code.")
        if len(found) > 1:
            notes.append(f"{cell['id']}: the cell stands {len(found)} times; the last one with an "
                         "answer counts.")  # fmt: skip
    order = [place for place in at if place is not None]
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
    for i, cell in enumerate(skeleton):
        kind, texts, released = cell["kind"], versions.get(i, []), cell["released"]
        label = cell["id"] or "the cell that sets your id"
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
