"""A class of made submissions, graded in one batch: exact marks, and a line on what was found."""

import csv
import sys

import pytest

from sff_grade.grading import Limits, grade

from ._crowd import crowd
from ._small import write_source

linux = pytest.mark.skipif(sys.platform != "linux", reason="student code is isolated on Linux only")
LIMITS = Limits(seconds=4, memory=0.5)


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """All cases marked in one go: (cases, results by student, folder, what was said)."""
    root = tmp_path_factory.mktemp("class")
    source, out = write_source(root), root / "marks"
    cases = crowd(source, out)
    for name, case in cases.items():
        case.notebook.write(root / "returned" / name / "s_small.ipynb")
    (root / "returned" / "no-notebook").mkdir()
    (root / "returned" / "broken").mkdir()
    (root / "returned" / "broken" / "s_small.ipynb").write_text('{"cells": [')
    said = []
    marked = grade(root / "returned", source, out, limits=LIMITS, say=said.append)
    return cases, {r["student"]: r for r in marked}, root, said


NAMES = list(crowd(None, __import__("pathlib").Path("/nowhere")))


@linux
@pytest.mark.parametrize("name", NAMES)
def test_marks(batch, name):
    cases, results, _, _ = batch
    case, result = cases[name], results[name]
    tasks = [result["tasks"][f"s-task{n}-test"] for n in (1, 2, 3)]
    told = "\n".join(result["repaired"] + result["caught"])
    assert tuple(t["points"] for t in tasks) == case.marks, (tasks, told)
    for words in case.says:
        assert words in told
    if case.reason:
        assert case.reason in next(t["error"] for t in tasks if t["error"])


@linux
def test_the_honest_hear_nothing(batch):
    _, results, _, _ = batch
    for name in ("perfect", "partly", "renamed-variables", "own-helper", "given-names-reused"):
        assert results[name]["repaired"] == [] and results[name]["caught"] == [], name


@linux
def test_nothing_of_the_graders_was_touched(batch):
    cases, results, root, _ = batch
    assert (root / "source" / "s" / "s_small.ipynb").is_file()
    assert len(list((root / "marks" / "results").glob("*.json"))) == len(cases) + 2
    assert set(results) == {*cases, "no-notebook", "broken"}


@linux
def test_marks_file(batch):
    cases, results, root, _ = batch
    with (root / "marks" / "marks.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = {row["student_id"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(results)
    assert rows["perfect"]["score"] == "6" and rows["perfect"]["max_score"] == "8"
    assert rows["perfect"]["to be marked by hand"] == "s-words"
    assert rows["broken"]["score"] == "0" and "cannot" not in rows["broken"]["caught"]
    assert "not a notebook" in rows["broken"]["repaired"]
    assert "no notebook" in rows["no-notebook"]["repaired"]
    for name, case in cases.items():
        assert float(rows[name]["score"]) == sum(case.marks)
    assert "files network" in rows["perfect"]["isolation"]


@linux
def test_pages(batch):
    cases, _, root, _ = batch
    for name in cases:
        page = (root / "marks" / "feedback" / f"{name}.html").read_text()
        assert '<html lang="en">' in page and "Task 1" in page
        assert "BEGIN MARK SCHEME" not in page and "One positive, one negative" not in page
        assert "package.mean_squares(x)" not in page  # a hidden test
    page = (root / "marks" / "feedback" / "perfect.html").read_text()
    assert '<summary>Your answer</summary><pre class="words">Why two?</pre>' in page
    assert page.count("return 2 * K") == 1  # under its own task only
    by_hand = (root / "marks" / "by_hand.html").read_text()
    assert "One positive, one negative" in by_hand and "Why two?" in by_hand
