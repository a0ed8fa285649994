"""Every assignment from end to end: full marks for right answers, none for an empty copy."""

from __future__ import annotations

import sys

import pytest

from sff_grade import jail
from sff_grade.grading import grade
from tools import assignments
from tools.assignments import grade_id, is_test

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(sys.platform != "linux" or bool(jail.lacking()), reason="needs bubblewrap"),
]


@pytest.mark.parametrize("source", assignments.sources(), ids=lambda path: path.parent.name)
def test_all_code_is_marked_by_machine(source, tmp_path):
    notebook = assignments.read(source)
    (tmp_path / "returned").mkdir()
    for name, copy in (
        ("full", assignments.answered(notebook)),
        ("empty", assignments.release(notebook)),
    ):
        path = tmp_path / "returned" / f"{name}.ipynb"
        path.write_text(assignments.text_of(copy), encoding="utf-8")
    marked = grade(tmp_path / "returned", source, tmp_path / "marks")
    empty, full = marked
    tests = [grade_id(cell) for cell in notebook.cells if is_test(cell)]
    assert {t: full["tasks"][t]["points"] for t in tests} == {
        t: assignments.points(notebook)[t] for t in tests
    }, full
    assert {empty["tasks"][t]["error"] for t in tests} == {"There is no answer yet."}, empty
    assert full["notes"] == empty["notes"] == []
