"""The form of a notebook's two files: the students' clean copy and the executed copy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tools.check_links import Tags

MAX_BYTES = 1_500_000
MAX_SECONDS = 90  # of one run of a notebook, on two cores
MAX_LINE = 100
TAGS = {"raises-exception", "hide-input", "exercise", "solution", "check", "gpu"}
NOTEBOOK_METADATA = {"kernelspec", "language_info"}
CELL_METADATA = {"tags", "jupyter", "collapsed", "cellView", "nbgrader", "editable", "deletable"}
# As Jupyter writes it, so that opening a notebook does not change its file, but without the version
# of Python, which `make lab` does not save (tools/saving.py).
LANGUAGE = {
    "codemirror_mode": {"name": "ipython", "version": 3},
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3",
}
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"

# Picture data in HTML, in which any pattern may occur by chance.
EMBEDDED_DATA = re.compile(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=\s]+")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # of a traceback in a terminal or notebook
_TOP_FOLDERS = "home|Users|root|work|tmp|var|private|opt|usr|mnt|srv|builds|content"
MACHINE_PATH = re.compile(rf"(?<![\w.~/…-])(?:/(?:{_TOP_FOLDERS})/|[A-Z]:\\+Users\\)[^\s\"'<>]*")


def executed_copy(path: Path) -> Path:
    """Return the path of a notebook's executed copy: executed/ beside notebooks/."""
    return path.parent.parent / "executed" / path.name


def clean_problems(notebook) -> Iterator[tuple[int, str]]:
    """Yield everything that is wrong with a students' copy: the cell's number, 0 for the file."""
    yield from format_problems(notebook)
    yield from source_problems(notebook)
    for key in sorted(set(notebook.metadata) - NOTEBOOK_METADATA):
        yield 0, f"unneeded metadata: {key}"
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type == "code" and (cell.outputs or cell.execution_count is not None):
            yield number, "an output or a count is kept; run make stamp"


def executed_problems(path: Path, notebook, clean) -> Iterator[tuple[int, str]]:
    """Yield everything that is wrong with an executed copy, given the notebook it is a copy of."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        yield 0, f"{size:,} bytes; at most {MAX_BYTES:,}"
    if [_source(c) for c in notebook.cells[1:]] != [_source(c) for c in clean.cells[1:]]:
        yield 0, "its cells are not those of the notebook; run make notebooks"
    yield from run_problems(notebook)
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type == "code":
            for problem in output_problems(cell):
                yield number, problem


def _source(cell) -> tuple:
    return cell.id, cell.cell_type, cell.source, cell.metadata


def format_problems(notebook) -> Iterator[tuple[int, str]]:
    """Yield problems of metadata, ids and tags."""
    ids = [cell.id for cell in notebook.cells]
    for repeated in sorted({i for i in ids if ids.count(i) > 1}):
        yield 0, f"two cells have the id {repeated}"
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        yield 0, "the kernel is not python3"
    if notebook.metadata.get("language_info") != LANGUAGE:
        yield 0, "language_info is not what Jupyter writes; run make stamp"
    for number, cell in enumerate(notebook.cells, 1):
        for key in sorted(set(cell.metadata) - CELL_METADATA):
            yield number, f"unneeded metadata: {key}"
        for tag in cell.metadata.get("tags", []):
            if tag not in TAGS:
                yield number, f"unknown tag {tag!r}; known: {', '.join(sorted(TAGS))}"


def source_problems(notebook) -> Iterator[tuple[int, str]]:
    """Yield empty cells and long lines of code."""
    for number, cell in enumerate(notebook.cells, 1):
        if not cell.source.strip():
            yield number, "empty cell"
        if cell.cell_type == "code":
            for line in cell.source.splitlines():
                if len(line) > MAX_LINE:
                    yield number, f"a line of {len(line)} characters; at most {MAX_LINE}"


def run_problems(notebook) -> Iterator[tuple[int, str]]:
    """Yield signs that the notebook was not run once from top to bottom."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in code]
    if counts != list(range(1, len(code) + 1)):
        yield 0, f"not run once from top to bottom: the cells' counts are {counts}"
    if not any(cell.outputs for cell in code):
        yield 0, "no outputs are kept"
    record = notebook.metadata.get("sff_teach", {})
    for key in ("version", "seconds"):
        if key not in record:
            yield 0, f"metadata.sff_teach.{key} is missing; run make notebooks"
    seconds = record.get("seconds", 0)
    if seconds > MAX_SECONDS:
        yield 0, f"one run took {seconds} s; at most {MAX_SECONDS}"
    said = re.search(r"runs in\s+about\s+(a minute|(\d+) seconds)", notebook.cells[0].source)
    if said and seconds > 1.5 * int(said[2] or 60):
        yield 0, f"one run took {seconds} s; the opening says {said[1]}"


def output_problems(cell) -> Iterator[str]:
    """Yield problems of a code cell's outputs."""
    should_raise = "raises-exception" in cell.metadata.get("tags", [])
    raised = [output for output in cell.outputs if output.output_type == "error"]
    if raised and not should_raise:
        yield f"error output: {raised[0].ename}: {raised[0].evalue}"
    if should_raise and not raised:
        yield "tagged raises-exception, but nothing was raised"
    for output in cell.outputs:
        if output.output_type == "stream" and output.name == "stderr":
            yield f"text on stderr (a warning?): {output.text.strip()[:60]!r}"
        data = output.get("data", {})
        if WIDGET_VIEW in data:
            yield "a live widget is stored; run make notebooks, which keeps a still of it"
        pictures = [kind for kind in data if kind.startswith("image/")]
        if pictures and "text/html" not in data:
            yield f"{pictures[0]} without alt text; use draw.show(fig, alt=…, caption=…)"
        tags = Tags()
        tags.feed(data.get("text/html", ""))
        for image in tags.images:
            if not (image.get("alt") or "").strip():
                yield "<img> without alt text in an output"
            if not image["caption"].strip():
                yield "a picture without a caption; use draw.show(fig, alt=…, caption=…)"
        for text in output_texts(output):
            text = COLOUR.sub("", EMBEDDED_DATA.sub("", text))
            for path in MACHINE_PATH.findall(text)[:1]:
                yield f"a path of somebody's machine: {path}"
            if output.output_type != "error" and "Traceback (most recent call last)" in text:
                yield "a traceback was printed"


def output_texts(output) -> Iterator[str]:
    """Yield every text of an output that may contain a path."""
    if output.output_type == "stream":
        yield output.text
    elif output.output_type == "error":
        yield output.evalue
        yield from output.traceback
    else:
        for kind, content in output.data.items():
            if kind.startswith("text/") and isinstance(content, str):
                yield content
