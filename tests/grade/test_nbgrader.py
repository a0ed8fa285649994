"""Beside nbgrader: the same release, and the same marks for honest submissions.

`make teacher-test` makes the environment and runs this; nothing else of the course needs nbgrader.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from nbgrader.api import Gradebook
from nbgrader.apps import NbGraderAPI
from traitlets.config import Config

from sff_grade.grading import grade
from tools import assignments
from tools.assignments import grade_id

SOURCES = assignments.sources()
NAMES = [source.parent.name for source in SOURCES]
# How much of it is answered: every answer, every second one. What is missing stays a stub.
STUDENTS = {"ada17": 1, "alan": 2}
pytestmark = pytest.mark.filterwarnings("default")  # nbgrader's libraries warn; that is theirs
each = pytest.mark.parametrize("source", SOURCES, ids=NAMES)


def answered(source: Path, student: str):
    """A student's notebook: the release with answers in it."""
    notebook = assignments.read(source)
    returned, full = assignments.release(notebook), assignments.answered(notebook)
    every = STUDENTS[student]
    answers = [i for i, cell in enumerate(notebook.cells) if assignments.is_answer(cell)]
    for i in answers[::every]:
        returned.cells[i].source = full.cells[i].source
    assignments.set_student(returned, student)
    for cell in returned.cells:
        if cell.id == "study":  # nbgrader runs it to the end; one epoch is the same code as thirty
            assert "), 30," in cell.source
            cell.source = cell.source.replace("), 30,", "), 1,")
    return returned


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A course folder of nbgrader's: sources, and what three students returned."""
    root = tmp_path_factory.mktemp("course")
    for source in SOURCES:
        target = root / "source" / source.parent.name / source.name
        target.parent.mkdir(parents=True)
        shutil.copy(assignments.copy_path(source, "source"), target)
        for student in STUDENTS:
            target = root / "submitted" / student / source.parent.name / source.name
            target.parent.mkdir(parents=True)
            nbformat.write(answered(source, student), target)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(assignments.ROOT))  # the kernels look for the package there
        patch.setenv("HOME", str(root))
        programs = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
        patch.setenv("PATH", programs)  # nbgrader calls alembic
        patch.chdir(root)
        yield root


@pytest.fixture(scope="module")
def api(course):
    config = Config()
    config.CourseDirectory.course_id = "sff"
    config.CourseDirectory.root = str(course)
    config.CourseDirectory.db_url = f"sqlite:///{course}/gradebook.db"
    config.ExecutePreprocessor.timeout = 120
    return NbGraderAPI(config=config)


@each
def test_the_release_is_nbgraders(api, course, source):
    """What its own ClearSolutions, ClearHiddenTests, LockCells and checksums make of the source."""
    name = source.parent.name
    done = api.generate_assignment(name, force=True, create=True)
    assert done["success"], done
    theirs = nbformat.read(course / "release" / name / source.name, as_version=4)
    ours = assignments.release(assignments.read(source))
    assert [dict(cell) for cell in theirs.cells] == [dict(cell) for cell in ours.cells]


@pytest.mark.parametrize("source", SOURCES[:4], ids=NAMES[:4])  # the fifth trains for minutes
def test_the_marks_are_nbgraders(api, course, source):
    """Both grade the same folder, in nbgrader's layout: submitted/STUDENT/ASSIGNMENT/."""
    name = source.parent.name
    marked = grade(
        course / "submitted", course / "source" / name / source.name, course / "marks" / name,
        seconds=60,
    )  # fmt: skip
    assert [result["student"] for result in marked] == sorted(STUDENTS)
    assert api.generate_assignment(name, force=True, create=True)["success"]
    tests = {grade_id(c) for c in assignments.read(source).cells if assignments.is_test(c)}
    assert tests
    for result in marked:
        student = result["student"]
        assert result["notes"] == []
        done = api.autograde(name, student, force=True, create=True)
        assert done["success"], done
        with Gradebook(f"sqlite:///{course}/gradebook.db") as gradebook:
            theirs = {
                g.cell.name: g.auto_score
                for notebook in gradebook.find_submission(name, student).notebooks
                for g in notebook.grades
                if g.cell.name in tests
            }
        ours = {i: task["points"] for i, task in result["tasks"].items() if i in tests}
        assert ours == theirs, student
    totals = {r["student"]: sum(t["points"] or 0 for t in r["tasks"].values()) for r in marked}
    assert 0 < totals["alan"] < totals["ada17"]
