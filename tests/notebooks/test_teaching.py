"""The teacher's guide says of each notebook what the notebook says of itself."""

import json
import re

import pytest

from tools.check_notebooks import ROOT, course_files
from tools.check_prose import problems, stored_pages

GUIDE = ROOT / "docs" / "teaching.md"
LESSONS = ROOT / "docs" / "teaching_lessons.md"
TEXT = GUIDE.read_text(encoding="utf-8")
NOTEBOOKS = [path for path in course_files() if path.suffix == ".ipynb"]
LINK = re.compile(r"\[(\d\d)\]\(\.\./notebooks/\1_\w+\.ipynb\)")


def opening(path) -> str:
    """The first cell."""
    return "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])


MINUTES = {
    path.name[:2]: int(re.search(r"\*\*Minutes:\*\* about (\d+) for the core", opening(path))[1])
    for path in NOTEBOOKS
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_section_for_each_notebook(path):
    number, title = re.match(r"# (\d\d) · (.+)", opening(path)).groups()
    heading, text = f"## {number} · {title}\n", LESSONS.read_text(encoding="utf-8")
    assert text.count(heading) == 1, f"{LESSONS.name} has no heading {heading!r}"
    section = re.split(r"(?m)^##+ ", text.partition(heading)[2])[0]
    for part in ("**Key question.** ", "**Usual misconceptions.**", "**Discussion.** *"):
        assert section.count(part) == 1, f"{number}: {part}"
    assert len(re.findall(r"(?m)^- \*\"", section)) >= 2, f"{number}: two misconceptions at least"
    question = re.search(r"\*\*Discussion\.\*\* \*(.+?)\*(.*)", section, re.S)
    assert question[1].endswith("?") and len(question[2].split()) > 15, f"{number}: an answer"


def rows(heading: str) -> list[list[str]]:
    """The rows of the table below a heading, cell by cell."""
    section = re.split(r"(?m)^##+ ", TEXT.partition(f"### {heading}\n")[2])[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_afternoon_adds_up():
    table = rows("One afternoon")
    for minutes, what, _ in table:
        link = LINK.fullmatch(what)
        assert not link or int(minutes) >= MINUTES[link[1]], what
    assert sum(int(row[0]) for row in table) == 240


def test_the_four_weeks_add_up():
    table = rows("Four weeks")
    taught = []
    for week, notebooks, minutes, *_ in table:
        numbers = LINK.findall(notebooks)
        assert int(minutes) == sum(MINUTES[number] for number in numbers), f"week {week}"
        taught += numbers
    assert [row[0] for row in table] == ["1", "2", "3", "4"]
    assert taught == [number for number in sorted(MINUTES) if number <= "11"]


def test_the_assignments_are_those_that_are_released():
    released = sorted((ROOT / "notebooks/assignments/release").rglob("*.ipynb"))
    said = {row[0]: row for row in rows("What there is")}
    for path in released:
        number, title = re.match(r"# Assignment (\d) · (.+)", opening(path)).groups()
        minutes = re.search(r"\*\*Minutes:\*\* about (\d+)", opening(path))[1]
        points = sum(int(n) for n in re.findall(r"(?m)^\| \d .*\| (\d+) \|$", opening(path)))
        assert said[number][1] == title
        assert said[number][3:] == [minutes, str(points)]
    assert len(released) == len(said)


def test_figures_of_the_guide_have_a_ground():
    assert problems(GUIDE, stored_pages()) == problems(LESSONS, stored_pages()) == []
