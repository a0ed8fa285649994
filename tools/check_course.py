"""The parts that every notebook of the course has; CONTRIBUTING.md lists them."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path

from tools.bootstrap_cell import BOOTSTRAP, COLAB, with_links
from tools.check_links import Page
from tools.reading_time import core_minutes, write_minutes

ROOT = Path(__file__).resolve().parent.parent

# A self-check answer; Markdown inside <details> needs the empty line.
ANSWER = re.compile(
    r"(?s)<details><summary>(?=\S)(.+?)</summary>\n\n\*\*(Right|No|Not quite)\.\*\* (.*?)</details>"
)


MAX_CORE_MINUTES = 60

OPENING = {  # what the text before the first code cell says, and how it is recognised
    '"You will be able to"': r"you will be able to",
    "the minutes it takes": r"\d+\s*(?:min\b|minutes)|minutes\W+(?:about )?\d",
    "what it needs (Needs or Prerequisites)": r"\b(?:needs|prerequisites)\b",
}


def course_problems(path: Path, notebook, page: Page) -> Iterator[tuple[int, str]]:
    """Yield the parts of a course notebook that are missing in this one."""
    title = [heading for heading in page.headings if heading.level == 1]
    if len(title) != 1 or page.headings[0] != title[0] or title[0].cell != 1:
        yield 0, f"{len(title)} headings of level 1; want one, in the first cell"
    yield from opening_problems(path, notebook, page)
    yield from minutes_problems(notebook)
    yield from exercise_problems(notebook)
    yield from stub_problems(notebook)
    words = ("claim", "evidence", "verdict")
    if not any(all(word in cell.source.lower() for word in words) for cell in notebook.cells):
        yield 0, "no cell holds claim, evidence and verdict"
    yield from question_problems(notebook)
    yield from summary_problems(page)


def opening_problems(path: Path, notebook, page: Page) -> Iterator[tuple[int, str]]:
    """Yield what is missing before and in the first code cell."""
    cells = notebook.cells
    first_code = next((i for i, c in enumerate(cells) if c.cell_type == "code"), len(cells))
    opening = "\n".join(cell.source for cell in cells[:first_code])
    for what, pattern in OPENING.items():
        if not re.search(pattern, opening, re.IGNORECASE):
            yield 0, f"the opening does not say {what}"
    if first_code == len(cells) or cells[first_code].source != BOOTSTRAP:
        number = first_code + 1
        yield number, "the first code cell is not that of tools/bootstrap_cell.py; run make stamp"
    first = cells[0].source
    if with_links(first, place_in_repository(path)) != first:
        yield (1, "the links below the title are not those of the repository; run make stamp")
    for link in page.links:
        if link.cell > 1 and link.url.startswith(COLAB):
            yield link.cell, "a second link to Colab"


def minutes_problems(notebook) -> Iterator[tuple[int, str]]:
    """Yield minutes that differ from the formula's, and a core that is too long."""
    stamped = copy.deepcopy(notebook)
    write_minutes(stamped)
    for number, (cell, right) in enumerate(zip(notebook.cells, stamped.cells), 1):
        if cell.source != right.source:
            yield number, "its minutes are not those of tools/reading_time.py; run make stamp"
    core = core_minutes(notebook)
    if core > MAX_CORE_MINUTES:
        yield 0, f"its core takes {core} minutes; at most {MAX_CORE_MINUTES}"


def exercise_problems(notebook) -> Iterator[tuple[int, str]]:
    """Yield exercises that are missing or give no help."""
    exercises = list(exercise_sections(notebook))
    if len(exercises) < 2:
        yield 0, f'{len(exercises)} headings like "Exercise 1: …"; at least 2'
    for number, text in exercises:
        if not re.search(r"<details[^>]*>\s*<summary>.*?\w.*?</summary>", text):
            yield number, "an exercise without a hint or solution in <details>"


def stub_problems(notebook) -> Iterator[tuple[int, str]]:
    """Yield exercise stubs without a check."""
    code = [(n, c) for n, c in enumerate(notebook.cells, 1) if c.cell_type == "code"]
    for (number, cell), (_, after) in zip(code, [*code[1:], (0, None)]):
        if "exercise" in cell.metadata.get("tags", []):
            tags = after.metadata.get("tags", []) if after is not None else []
            if not {"check", "solution"} & set(tags):
                yield number, "an exercise without a cell tagged check or solution behind it"


def summary_problems(page: Page) -> Iterator[tuple[int, str]]:
    """Yield a missing summary, or a summary without a link onward."""
    summary = [h.cell for h in page.headings if h.text.strip().lower().startswith("summary")]
    onward = re.compile(r"(\.ipynb|README\.md)(#|$)")
    if not summary:
        yield 0, 'no heading "Summary"'
    elif not any(link.cell >= summary[-1] and onward.search(link.url) for link in page.links):
        yield summary[-1], "no link onward after the summary"


def place_in_repository(path: Path) -> str:
    """Return the path of a notebook in the repository."""
    path = path.resolve()
    inside = path.relative_to(ROOT) if ROOT in path.parents else Path(path.parent.name, path.name)
    return inside.as_posix()


def question_problems(notebook) -> Iterator[tuple[int, str]]:
    """Yield what the self-check questions before the summary lack.

    A question is a paragraph that begins with a bold letter; its answers are <details> with a
    verdict and a reason.
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
