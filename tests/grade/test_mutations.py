"""Every usual mistake is caught by the tests that students see, with a message that names it.

All mistakes are tried by `make assignments`, which follows each change, and every night.
"""

from __future__ import annotations

import copy

import pytest

from tools import assignments, mutation_check

SOURCES = assignments.sources()


@pytest.fixture(scope="module")
def outcomes_of():
    return {source: mutation_check.check(source) for source in SOURCES}


@pytest.mark.nightly
def test_visible_tests_catch_every_mistake(outcomes_of):
    missed = [
        f"{o.cell}: {o.mistake!r} wanted {o.says!r}, got {o.message!r}"
        for outcomes in outcomes_of.values()
        for o in outcomes
        if not o.caught
    ]
    assert not missed, "\n".join(missed)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.parent.name)
def test_every_task_has_its_mistakes(source):
    """Ten for each task, no two alike, or a reason."""
    notebook = assignments.read(source)
    answers = [
        assignments.grade_id(cell)
        for cell in notebook.cells
        if assignments.role(cell, "solution") and cell.cell_type == "code"
    ]
    tasks = mutation_check.tasks(source)
    assert [task.cell for task in tasks] == answers
    cells = {assignments.grade_id(cell): cell for cell in notebook.cells}
    for task in tasks:
        assert len(task.mistakes) >= mutation_check.WANTED or task.fewer, task.cell
        assert not (len(task.mistakes) >= mutation_check.WANTED and task.fewer), task.cell
        assert len({mistake["mistake"] for mistake in task.mistakes}) == len(task.mistakes)
        changed = {mutation_check.mutate(cells[task.cell], m).source for m in task.mistakes}
        assert len(changed) == len(task.mistakes) and cells[task.cell].source not in changed


@pytest.mark.nightly
def test_page_is_the_generated_one(outcomes_of):
    page = mutation_check.PAGE.read_text(encoding="utf-8")
    assert page == mutation_check.page(outcomes_of), "run make assignments"


def test_a_hole_in_a_test_is_seen(monkeypatch):
    """Without the assert that catches it, a mistake counts as not caught."""
    source = SOURCES[0]
    notebook = assignments.read(source)
    test = next(c for c in notebook.cells if assignments.grade_id(c) == "a1-task1-test")
    kept = test.source
    test.source = kept.replace('"the sum of squares', '"something else')
    assert test.source != kept
    monkeypatch.setattr(assignments, "read", lambda path: copy.deepcopy(notebook))
    first = mutation_check.tasks(source)[:1]  # the others are none of this test's business
    monkeypatch.setattr(mutation_check, "tasks", lambda path: first)
    assert not mutation_check.check(source)[0].caught
    test.source = "pass"
    assert not any(o.caught for o in mutation_check.check(source) if o.cell == "a1-task1")
