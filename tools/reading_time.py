"""The minutes for each section of a notebook, by one formula, written below its heading.

The formula counts 120 words of prose and 10 lines of code a minute, three quarters of a minute per
figure, and an exercise's own minutes ("●○○ · 5 minutes"). Folded hints, answers and cells do not
count.
`make stamp` writes the minutes, and the guard compares them.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

WORDS, LINES, FIGURE = 120, 10, 0.75  # a minute; a minute; minutes
MARK = re.compile(r"(?:\n\n\*(Core|Optional) · about \d+ minutes?\*)+(?=\n|$)")
EXERCISE = re.compile(r"[●○]{3}(?: · [a-z]+)? · (\d+) minutes")
FOLDED = re.compile(r"(?s)<details.*?</details>|<!--.*?-->|\$\$.*?\$\$")
OPENING = re.compile(r"\*\*Minutes:\*\*[^;]*;")


class Section(NamedTuple):
    """A heading of level 2 and the text below it."""

    optional: bool
    minutes: int


def sections(notebook) -> list[Section]:
    """Return a notebook's sections in order, without the text before the first heading."""
    found: list[Section] = []
    spent: list[float] = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            if spent:
                spent[-1] += _code_minutes(cell)
            continue
        before, *parts = re.split(r"(?m)^## (?=\S)", cell.source)
        if spent:
            spent[-1] += _prose_minutes(before)
        for part in parts:
            mark = MARK.search(part)
            optional = mark[1] == "Optional" if mark else part.startswith("Exercises")
            found.append(Section(optional, 0))
            spent.append(_prose_minutes(part))
    return [s._replace(minutes=max(1, round(m))) for s, m in zip(found, spent)]


def _prose_minutes(text: str) -> float:
    exercises = sum(int(minutes) for minutes in EXERCISE.findall(text))
    return exercises + len(FOLDED.sub("", MARK.sub("", text)).split()) / WORDS


def _code_minutes(cell) -> float:
    if cell.metadata.get("jupyter", {}).get("source_hidden"):
        return 0.0
    lines = [line for line in cell.source.splitlines() if line.strip()]
    figures = sum("show(" in line for line in lines)
    return len(lines) / LINES + FIGURE * figures


def core_minutes(notebook) -> int:
    """Return the minutes of the core sections, rounded up to a multiple of five."""
    return _total(sections(notebook), optional=False)


def _total(found: list[Section], optional: bool) -> int:
    return 5 * math.ceil(sum(s.minutes for s in found if s.optional == optional) / 5)


def write_minutes(notebook) -> None:
    """Write the minutes below every heading of level 2 and into the opening, in place."""
    found = sections(notebook)
    core, optional = (_total(found, optional) for optional in (False, True))
    todo = iter(found)
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        before, *parts = re.split(r"(?m)^## (?=\S)", cell.source)
        for number, part in enumerate(parts):
            section = next(todo)
            heading, newline, rest = MARK.sub("", part, count=1).partition("\n")
            kind = "Optional" if section.optional else "Core"
            unit = "minute" if section.minutes == 1 else "minutes"
            parts[number] = f"{heading}\n\n*{kind} · about {section.minutes} {unit}*{newline}{rest}"
        cell.source = "".join([before, *(f"## {part}" for part in parts)])
    opening = notebook.cells[0]
    opening.source = OPENING.sub(
        f"**Minutes:** about {core} for the core, {optional} for what is optional;", opening.source
    )
