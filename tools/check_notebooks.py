"""Check, offline, the form of notebooks and Markdown pages: what a reader meets must be whole.

    python tools/check_notebooks.py [FILE …]        without names: the whole course

A notebook is checked for: valid format and cell ids; executed top to bottom with the committed
source; outputs kept, without errors, warnings, machine paths, or widget state; alt text on every
picture; headings in order; links and anchors that lead somewhere; and the parts every notebook of
the course has (see CONTRIBUTING.md). A Markdown page is checked for links, anchors and alt text.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import nbformat
from markdown_it import MarkdownIt
from nbformat.validator import iter_validate

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that this file also runs as a script

from tools.bootstrap_cell import BOOTSTRAP, COLAB, colab_address  # noqa: E402

MAX_BYTES = 1_500_000
MAX_SECONDS = 90  # of one run of a notebook, on two cores
MAX_LINE = 100
TAGS = {"raises-exception", "nbval-check-output", "hide-input", "exercise", "solution", "gpu"}
NOTEBOOK_METADATA = {"kernelspec", "language_info", "sff_teach"}
CELL_METADATA = {"tags", "jupyter", "cellView", "nbgrader", "editable", "deletable"}
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"

# Picture data in HTML: random letters, in which any pattern may turn up by chance.
EMBEDDED_DATA = re.compile(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=\s]+")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # of a traceback in a terminal or notebook
_TOP_FOLDERS = "home|Users|root|work|tmp|var|private|opt|usr|mnt|srv|builds|content"
MACHINE_PATH = re.compile(rf"(?<![\w.~/…-])(?:/(?:{_TOP_FOLDERS})/|[A-Z]:\\+Users\\)[^\s\"'<>]*")

# A self-check answer; without the empty line Markdown would not see what stands inside.
ANSWER = re.compile(
    r"(?s)<details><summary>(?=\S)(.+?)</summary>\n\n\*\*(Right|No|Not quite)\.\*\* (.*?)</details>"
)

_MARKDOWN = MarkdownIt("commonmark").enable("table")


class Heading(NamedTuple):
    cell: int
    level: int
    text: str


class Link(NamedTuple):
    cell: int
    url: str


class _Tags(HTMLParser):
    """Collects pictures, links and anchors of a piece of HTML.

    A picture gets the text of its figure's caption as `caption`, empty if it has none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.images: list[dict] = []
        self._figure: list[dict] = []  # pictures of the open <figure>
        self._in_figure = self._in_caption = False
        self.links: list[str] = []
        self.anchors: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        attributes = dict(attrs)
        if tag == "img":
            self.images.append(attributes | {"caption": ""})
            if self._in_figure:
                self._figure.append(self.images[-1])
        if tag == "figure":
            self._in_figure, self._figure = True, []
        if tag == "figcaption":
            self._in_caption = True
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        for key in ("id", "name"):
            if attributes.get(key):
                self.anchors.append(attributes[key])

    def handle_endtag(self, tag: str) -> None:
        if tag == "figure":
            self._in_figure = False
        if tag == "figcaption":
            self._in_caption = False

    def handle_data(self, data: str) -> None:
        if self._in_caption:
            for image in self._figure:
                image["caption"] += data


class Page:
    """The headings, links, anchors and pictures of some Markdown, cell by cell."""

    def __init__(self) -> None:
        self.headings: list[Heading] = []
        self.links: list[Link] = []
        self.anchors: set[str] = set()
        self.no_alt: list[Link] = []

    def add(self, text: str, cell: int = 0) -> None:
        tokens = _MARKDOWN.parse(text)
        for token, following in zip(tokens, [*tokens[1:], None]):
            if token.type == "heading_open":
                words = "".join(
                    t.content
                    for t in following.children
                    if t.type in ("text", "code_inline", "softbreak")
                )
                self.headings.append(Heading(cell, int(token.tag[1]), words))
            elif token.type == "html_block":
                self._add_html(token.content, cell)
            for child in token.children or []:
                if child.type == "image":
                    self.links.append(Link(cell, child.attrs["src"]))
                    if not child.content.strip():
                        self.no_alt.append(Link(cell, child.attrs["src"]))
                elif child.type == "link_open":
                    self.links.append(Link(cell, child.attrs["href"]))
                elif child.type == "html_inline":
                    self._add_html(child.content, cell)

    def _add_html(self, html: str, cell: int) -> None:
        tags = _Tags()
        tags.feed(html)
        self.anchors.update(tags.anchors)
        self.links += [Link(cell, url) for url in tags.links]
        for image in tags.images:
            self.links.append(Link(cell, image.get("src", "")))
            if not (image.get("alt") or "").strip():
                self.no_alt.append(Link(cell, image.get("src", "")))


def lab_anchor(heading: str) -> str:
    """Return the anchor that JupyterLab gives a heading."""
    return heading.strip().replace(" ", "-")


def page_anchor(heading: str) -> str:
    """Return the anchor that a Markdown page gets for a heading on a code-hosting site."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors_of(path: Path) -> set[str]:
    """Return the anchors of a notebook or a Markdown page."""
    page = Page()
    if path.suffix == ".ipynb":
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown":
                page.add("".join(cell["source"]))
        anchor = lab_anchor
    else:
        page.add(path.read_text(encoding="utf-8"))
        anchor = page_anchor
    return page.anchors | {anchor(heading.text) for heading in page.headings}


def link_problem(path: Path, url: str) -> str | None:
    """Say what is wrong with a relative link of the file `path`, or return None."""
    if re.match(r"[a-z][a-z0-9+.-]*:", url) or url.startswith("//"):
        return None  # not ours to follow offline
    name, _, fragment = unquote(url).partition("#")
    target = path.parent / name if name else path
    if not target.exists():
        return f"broken link: {url}"
    if fragment and target.suffix in (".ipynb", ".md") and fragment not in anchors_of(target):
        return f"broken anchor: {url}"
    return None


def page_problems(path: Path, page: Page) -> Iterator[tuple[int, str]]:
    """Yield the problems of links, pictures and the order of headings."""
    for link in page.links:
        problem = link_problem(path, link.url)
        if problem:
            yield link.cell, problem
    for picture in page.no_alt:
        yield picture.cell, f"picture without alt text: {picture.url[:60]}"
    for above, heading in zip(page.headings, page.headings[1:]):
        if heading.level > above.level + 1:
            yield (
                heading.cell,
                f"heading jumps from level {above.level} to {heading.level}: {heading.text}",
            )


def check_markdown(path: Path) -> list[str]:
    """Return what is wrong with a Markdown page, one sentence each."""
    page = Page()
    page.add(path.read_text(encoding="utf-8"))
    return [f"{path.name}: {problem}" for _, problem in page_problems(path, page)]


def source_sha256(notebook) -> str:
    """Return the SHA-256 of the notebook's code, cell by cell: what was executed."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def check_notebook(path: Path) -> list[str]:
    """Return what is wrong with a notebook, one sentence each; an empty list is a good notebook."""
    problems = []
    if path.stat().st_size > MAX_BYTES:
        problems.append((0, f"{path.stat().st_size:,} bytes; at most {MAX_BYTES:,}"))
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
    problems += format_problems(notebook)
    problems += source_problems(notebook)
    problems += run_problems(notebook)
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type == "code":
            problems += ((number, problem) for problem in output_problems(cell))
    problems += page_problems(path, page)
    problems += course_problems(path, notebook, page)
    return [
        f"{path.name}{f', cell {number}' if number else ''}: {problem}"
        for number, problem in problems
    ]


def format_problems(notebook) -> Iterator[tuple[int, str]]:
    """Yield problems of metadata, ids and tags."""
    ids = [cell.id for cell in notebook.cells]
    for repeated in sorted({i for i in ids if ids.count(i) > 1}):
        yield 0, f"two cells have the id {repeated}"
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        yield 0, "the kernel is not python3"
    for key in sorted(set(notebook.metadata) - NOTEBOOK_METADATA):
        yield 0, f"stored metadata nobody needs: {key}"
    for number, cell in enumerate(notebook.cells, 1):
        for key in sorted(set(cell.metadata) - CELL_METADATA):
            yield number, f"stored metadata nobody needs: {key}"
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
    """Yield signs that the notebook was not run top to bottom with this very source."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in code]
    if counts != list(range(1, len(code) + 1)):
        yield 0, f"not run once from top to bottom: the cells' counts are {counts}"
    if not any(cell.outputs for cell in code):
        yield 0, "no outputs are kept"
    record = notebook.metadata.get("sff_teach", {})
    for key in ("version", "seconds", "source_sha256"):
        if key not in record:
            yield 0, f"metadata.sff_teach.{key} is missing; run make notebooks"
    if record.get("source_sha256", "") not in ("", source_sha256(notebook)):
        yield 0, "the code was changed after it was run; run make notebooks"
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
    if "nbval-check-output" in cell.metadata.get("tags", []) and not cell.outputs:
        yield "tagged nbval-check-output, but no output is kept"
    for output in cell.outputs:
        if output.output_type == "stream" and output.name == "stderr":
            yield f"text on stderr (a warning?): {output.text.strip()[:60]!r}"
        data = output.get("data", {})
        if WIDGET_VIEW in data:
            yield "a live widget is stored; run make notebooks, which keeps a still of it"
        pictures = [kind for kind in data if kind.startswith("image/")]
        if pictures and "text/html" not in data:
            yield f"{pictures[0]} without alt text; use plots.show(fig, alt=…, caption=…)"
        tags = _Tags()
        tags.feed(data.get("text/html", ""))
        for image in tags.images:
            if not (image.get("alt") or "").strip():
                yield "<img> without alt text in an output"
            if not image["caption"].strip():
                yield "a picture without a caption; use plots.show(fig, alt=…, caption=…)"
        for text in output_texts(output):
            text = COLOUR.sub("", EMBEDDED_DATA.sub("", text))
            for path in MACHINE_PATH.findall(text)[:1]:
                yield f"a path of somebody's machine: {path}"
            if output.output_type != "error" and "Traceback (most recent call last)" in text:
                yield "a traceback was printed"


def output_texts(output) -> Iterator[str]:
    """Yield every text of an output in which a path may stand."""
    if output.output_type == "stream":
        yield output.text
    elif output.output_type == "error":
        yield output.evalue
        yield from output.traceback
    else:
        for kind, content in output.data.items():
            if kind.startswith("text/") and isinstance(content, str):
                yield content


def course_problems(path: Path, notebook, page: Page) -> Iterator[tuple[int, str]]:
    """Yield what every notebook of the course has and this one has not."""
    title = [heading for heading in page.headings if heading.level == 1]
    if len(title) != 1 or page.headings[0] != title[0] or title[0].cell != 1:
        yield 0, f"{len(title)} headings of level 1; want one, in the first cell"

    cells = notebook.cells
    first_code = next((i for i, c in enumerate(cells) if c.cell_type == "code"), len(cells))
    opening = "\n".join(cell.source for cell in cells[:first_code])
    for what, pattern in (
        ('"You will be able to"', r"you will be able to"),
        ("the minutes it takes", r"\d+\s*(?:min\b|minutes)|minutes\W+(?:about )?\d"),
        ("what it needs (Needs or Prerequisites)", r"\b(?:needs|prerequisites)\b"),
    ):
        if not re.search(pattern, opening, re.IGNORECASE):
            yield 0, f"the opening does not say {what}"
    if first_code == len(cells) or cells[first_code].source != BOOTSTRAP:
        yield (
            first_code + 1,
            "the first code cell is not that of tools/bootstrap_cell.py; run make stamp",
        )

    exercises = list(exercise_sections(notebook))
    if len(exercises) < 2:
        yield 0, f'{len(exercises)} headings like "Exercise 1: …"; at least 2'
    for number, text in exercises:
        if not re.search(r"<details[^>]*>\s*<summary>.*?\w.*?</summary>", text):
            yield (
                number,
                "an exercise without a hint or solution in <details><summary>…</summary>",
            )
    boxes = [
        cell.source
        for cell in cells
        if all(word in cell.source.lower() for word in ("claim", "evidence", "verdict"))
    ]
    if not boxes:
        yield 0, "no cell holds claim, evidence and verdict"

    yield from question_problems(notebook)

    summary = [h.cell for h in page.headings if h.text.strip().lower().startswith("summary")]
    if not summary:
        yield 0, 'no heading "Summary"'
    elif not any(
        link.cell >= summary[-1] and re.search(r"(\.ipynb|README\.md)(#|$)", link.url)
        for link in page.links
    ):
        yield summary[-1], "no link onward after the summary"

    colab = [link for link in page.links if link.url.startswith(COLAB)]
    if not any(link.cell == 1 for link in colab):
        yield 1, "no Colab link below the title; run make stamp"
    for link in colab:
        if link.url != colab_address(place_in_repository(path)):
            yield link.cell, f"the Colab link leads elsewhere; run make stamp: {link.url}"


def place_in_repository(path: Path) -> str:
    """Return where a notebook stands, or would stand, in the repository."""
    path = path.resolve()
    return path.relative_to(ROOT).as_posix() if ROOT in path.parents else f"notebooks/{path.name}"


def question_problems(notebook) -> Iterator[tuple[int, str]]:
    """Yield what the self-check questions before the summary lack.

    A question is a paragraph that begins with a bold letter; its answers are <details>, whose text
    begins with the verdict and goes on with the reason.
    """
    text, number = "", 0
    for count, cell in enumerate(notebook.cells, 1):
        if cell.cell_type == "markdown":
            text += cell.source + "\n\n"
            number = number or ("## Check yourself\n" in cell.source and count) or 0
    section = re.search(r"(?ms)^## Check yourself\n(.*?)^## (\w+)", text)
    if not section or section[2] != "Summary":
        yield 0, 'no section "Check yourself" right before the summary'
        return
    letters = re.split(r"(?m)^\*\*([A-Z])\.\*\* ", section[1])[1:]
    questions = dict(zip(letters[::2], letters[1::2]))
    if len(questions) < 3:
        yield number, f"{len(questions)} self-check questions; at least 3"
    for letter, question in questions.items():
        answers = ANSWER.findall(question)
        if len(answers) < 3 or len(answers) != question.count("<details"):
            yield number, f"question {letter}: at least 3 answers, each in <details> with a verdict"
        if [verdict for _, verdict, _ in answers].count("Right") != 1:
            yield number, f"question {letter}: exactly one answer begins with **Right.**"
        for answer, _, reason in answers:
            if re.search(r"[$`*]", answer):
                yield number, f"question {letter}: Markdown is not seen in a summary: {answer!r}"
            if len(reason.split()) < 4:
                yield number, f"question {letter}: no reason given behind {answer!r}"


def exercise_sections(notebook) -> Iterator[tuple[int, str]]:
    """Yield each exercise's cell number and its text, up to the next heading of its level."""
    level, start, text = 0, 0, ""
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type != "markdown":
            continue
        fenced = False
        for line in cell.source.splitlines(keepends=True):
            fenced ^= line.startswith("```")
            heading = None if fenced else re.match(r"(#+)\s+(.*)", line)
            if heading and level and len(heading[1]) <= level:
                yield start, text
                level = 0
            if heading and heading[2].startswith("Exercise "):
                level, start, text = len(heading[1]), number, ""
            if level:
                text += line
        text += "\n"
    if level:
        yield start, text


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
