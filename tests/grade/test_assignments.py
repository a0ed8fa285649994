"""The assignments: copies as generated, nothing given away, full marks for answers, none for stubs.

Everything runs in this process, without a kernel and without nbgrader; tests/teacher holds the same
against nbgrader's own.
"""

from __future__ import annotations

import ast
import re
import subprocess

import nbformat
import pytest

from tools import assignments, make_assignments
from tools.assignments import HIDDEN, SCHEME, SOLUTION, grade_id, is_test, role
from tools.bootstrap_cell import BOOTSTRAP
from tools.check_form import MAX_LINE
from tools.check_links import Page, page_problems

SOURCES = assignments.sources()
STUDENTS = ("ada17", "Grace Hopper", "s1234567")


def name(path):
    return path.parent.name


each = pytest.mark.parametrize("source", SOURCES, ids=name)
each_with_tasks = pytest.mark.parametrize("source", SOURCES[:4], ids=name)  # the fifth is a project
# Its tests train, for a student in each night.
daily_or_nightly = pytest.mark.parametrize(
    "source", [*SOURCES[:4], pytest.param(SOURCES[4], marks=pytest.mark.nightly)], ids=name
)


def test_there_are_five():
    assert [name(source) for source in SOURCES] == ["a1", "a2", "a3", "a4", "a5"]


# ---------------------------------------------------------------- the copies


@each
def test_committed_copies_are_the_generated_ones(source):
    made = make_assignments.copies(source)
    for kind in ("source", "release"):
        committed = assignments.copy_path(source, kind).read_text(encoding="utf-8")
        assert committed == made[kind], f"{kind}/{source.name} is old; run make assignments"


@each
def test_the_release_gives_nothing_away(source):
    notebook = assignments.read(source)
    committed = nbformat.read(assignments.copy_path(source, "release"), as_version=4)
    assert assignments.leaks(notebook, committed) == []


@each
def test_a_leak_is_seen(source):
    """Every line of every solution, hidden test and mark scheme is missed when it turns up."""
    notebook = assignments.read(source)
    for kind in (SOLUTION, HIDDEN, SCHEME):
        for cell in notebook.cells:
            for inside, part in assignments.regions(cell.source, kind):
                if not inside:
                    continue
                released = assignments.release(notebook)
                released.cells[-1].source += "\n" + "\n".join(part[1:-1])
                assert assignments.leaks(notebook, released), part
                released = assignments.release(notebook)
                released.cells[-1].source += "\n" + part[0]
                assert assignments.leaks(notebook, released), part[0]
    released = assignments.release(notebook)
    code = next(cell for cell in released.cells if cell.cell_type == "code")
    code.outputs = [nbformat.v4.new_output("stream", text="42")]
    assert assignments.leaks(notebook, released)


def test_ignored_copies_are_not_committed():
    """Copies with answers stay out of the repository's releases."""
    done = subprocess.run(
        ["git", "ls-files", "notebooks/assignments/solution", "notebooks/assignments/teacher"],
        cwd=assignments.ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip("not a git checkout")
    assert done.stdout == ""


@each
def test_the_copy_with_answers_has_no_marks_in_it(source):
    text = make_assignments.copies(source)["solution"]
    assert not re.search(r"(BEGIN|END) (SOLUTION|HIDDEN TESTS|MARK SCHEME)", text)
    assert "NotImplementedError" not in text.replace("raise NotImplementedError()`", "")
    secret, public = set(), set()
    for cell in assignments.read(source).cells:
        shown = cell.source
        for kind in (HIDDEN, SCHEME):
            for inside, part in assignments.regions(cell.source, kind):
                secret.update(line.strip() for line in part if inside and len(line.strip()) > 8)
            shown = assignments.replace_regions(shown, kind, lambda part: [])
        public.update(line.strip() for line in shown.split("\n"))
    lines = {
        line.strip()
        for cell in nbformat.reads(text, as_version=4).cells
        for line in cell.source.split("\n")
    }
    assert secret - public
    assert not (secret - public) & lines


@each
def test_the_teachers_copy_has_all_and_the_marks(source):
    text = make_assignments.copies(source)["teacher"]
    notebook = assignments.read(source)
    assert text.count("BEGIN SOLUTION") == assignments.text_of(notebook).count("BEGIN SOLUTION")
    total = sum(assignments.points(notebook).values())
    assert f"| together | {total:g} |" in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("### BEGIN SOLUTION\nx", "without its END"),
        ("### BEGIN SOLUTION\n### BEGIN SOLUTION\n### END SOLUTION", "do not take turns"),
        ("x\n### END SOLUTION", "do not take turns"),
    ],
)
def test_marks_must_match(text, words):
    with pytest.raises(ValueError, match=words):
        list(assignments.regions(text, SOLUTION))


def test_regions_stand_where_they_may():
    notebook = assignments.read(SOURCES[0])
    plain = next(cell for cell in notebook.cells if cell.id == "together")
    kept = plain.source
    for kind in (SOLUTION, HIDDEN, SCHEME):
        plain.source = f"{kept}\n### BEGIN {kind}\nx = 1\n### END {kind}"
        with pytest.raises(ValueError, match="in a cell that is no"):
            assignments.release(notebook)


# ---------------------------------------------------------------- form


@each
def test_form(source):
    """Opening, ids, points, lines, links, tests in the very next cell, marks that add up."""
    notebook = assignments.read(source)
    nbformat.validate(notebook)
    cells = notebook.cells
    opening = cells[0].source
    for words in ("# Assignment", "**You will be able to**", "**Minutes:**", "**Needs:**"):
        assert words in opening
    assert next(cell for cell in cells if cell.cell_type == "code").source == BOOTSTRAP
    ids = [grade_id(cell) for cell in cells if grade_id(cell)]
    assert len(set(ids)) == len(ids)
    assert len({cell.id for cell in cells}) == len(cells)
    assert sum(cell.source.startswith(assignments.NO_ID) for cell in cells) == 1
    code = [cell for cell in cells if cell.cell_type == "code"]
    for cell, following in zip(code, code[1:]):
        if role(cell, "solution"):
            assert grade_id(following) == grade_id(cell) + "-test"
            assert cells.index(following) == cells.index(cell) + 1
            assert assignments.has_region(following.source, HIDDEN)
            shown = ast.walk(ast.parse(assignments.visible(following).source))
            messages = [node.msg for node in shown if isinstance(node, ast.Assert)]
            assert messages and all(messages), "each assert that students see says what is wrong"
    for cell in code:
        assert all(len(line) <= MAX_LINE for line in cell.source.split("\n")), cell.id
        assert not cell.outputs
    by_task = re.findall(r"^\| (\d) \|.*\| ([●○]{3}) \| (\d+) \| (\d+) \|$", opening, re.M)
    assert 3 <= len(by_task) <= 6
    assert [int(p) for *_, p in by_task] == list(assignments.points(notebook).values())
    total_minutes = int(re.search(r"\*\*Minutes:\*\* about (\d+)", opening)[1])
    assert total_minutes == sum(int(minutes) for *_, minutes, _ in by_task)
    text = "\n".join(cell.source for cell in cells)
    for _, level, minutes, points in by_task:
        assert re.search(rf"{level} · {minutes} minutes · {points} points?\b", text)
    page = Page()
    for number, cell in enumerate(cells, 1):
        if cell.cell_type == "markdown":
            page.add(cell.source, number)
    assert not list(page_problems(source, page))
    assert not list(page_problems(assignments.copy_path(source, "release"), page))


# ---------------------------------------------------------------- marks


@pytest.mark.parametrize("student", STUDENTS)
@daily_or_nightly
def test_right_answers_get_full_marks(source, student):
    """And what stands behind the last test runs, too, for the first student."""
    notebook = assignments.read(source)
    for cell in notebook.cells:
        if cell.id == "study":  # half a minute as it is; one epoch runs the same code
            assert "), 30, 1.0" in cell.source
            cell.source = cell.source.replace("), 30,", "), 1,")
    results = assignments.run(notebook, student, to_the_end=student == STUDENTS[0])
    assert results
    assert {test: error for test, error in results.items() if error} == {}


def test_right_answers_pass_whoever_gives_them():
    """Every student has other numbers; a hundred of them, where it costs little."""
    notebook = assignments.read(SOURCES[0])
    # The last one's numbers lead to a gradient that is nothing but rounding.
    for student in [*(f"student{n:02}" for n in range(99)), "mistake-3"]:
        failed = {
            test: error for test, error in assignments.run(notebook, student).items() if error
        }
        assert failed == {}, student


@pytest.mark.parametrize("student", STUDENTS)
@each
def test_the_empty_stub_gets_nothing(source, student):
    """Also with the hidden tests in place, as the grader restores them."""
    notebook = assignments.read(source)
    stub = assignments.release(notebook)
    for ours, theirs in zip(notebook.cells, stub.cells, strict=True):
        if is_test(ours):
            theirs.source = ours.source
    results = assignments.run(stub, student)
    passed = [test for test, error in results.items() if error is None]
    assert results
    assert not passed


@each
def test_without_an_id_the_set_up_says_what_to_do(source):
    notebook = assignments.read(source)
    set_up = next(cell for cell in notebook.cells if grade_id(cell) == f"{name(source)}-setup")
    error = assignments.run_cell(set_up, {"STUDENT_ID": ""})
    assert isinstance(error, ValueError)
    assert "write your student id between the quotes" in str(error)


@pytest.mark.parametrize("first", [0, 1])
@each_with_tasks
def test_a_missing_answer_costs_its_own_points_only(source, first):
    """Every other answer is missing: just these tests fail, so tests lean on no other answer."""
    notebook = assignments.read(source)
    answers = [c for c in notebook.cells if role(c, "solution") and c.cell_type == "code"]
    for cell in answers[first::2]:
        assignments.clear_solution(cell)
    results = assignments.run(notebook, STUDENTS[0])
    failed = [test for test, error in results.items() if error]
    assert failed == [f"{grade_id(cell)}-test" for cell in answers[first::2]]
