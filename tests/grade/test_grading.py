"""Repairing, isolating, resuming and marking, one thing at a time."""

import csv
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from nbformat.v4 import new_output

from sff_grade import grading
from sff_grade import sandbox as _sandbox
from sff_grade.grading import (
    Limits,
    choose_walls,
    find_submissions,
    grade,
    read_manual,
    read_notebook,
    student_of,
)
from sff_grade.returned import (
    definitions_of,
    imports_of,
    lay_out,
    python_of,
    read_source,
    steps_of,
)
from sff_teach.cli import main
from sff_teach.util.files import read_table, write_table

from ._small import Notebook, source_notebook, write_source

ROOT = Path(__file__).parents[2]
A1 = ROOT / "notebooks" / "assignments" / "source" / "a1" / "a1_goodness_and_the_layer.ipynb"
linux = pytest.mark.skipif(sys.platform != "linux", reason="student code is isolated on Linux only")


@pytest.fixture
def small(tmp_path):
    path = write_source(tmp_path)
    return read_source(path, read_notebook(path))


def laid_out(assignment, notebook, tmp_path):
    notebook.write(tmp_path / "x.ipynb")
    return lay_out(assignment, read_notebook(tmp_path / "x.ipynb"))


# ---------------------------------------------------------------- the source


def test_source_is_read(small):
    kinds = [cell.kind for cell in small.cells if cell.grade_id]
    assert kinds == ["given", *["answer", "test"] * 3, "by hand"]
    assert small.answer_names == ["mean_square", "Layer", "passes"]
    test = small.tests[0]
    assert "mean_squares" in test.source and "HIDDEN" not in test.released
    assert test.released == test.source.partition("\n### BEGIN")[0]
    lines = test.source.splitlines()
    assert [test.hidden(n) for n in range(1, len(lines) + 1)] == [
        False,
        False,
        True,
        True,
        True,
        False,
    ]
    assert "raise NotImplementedError()" in small.cells[4].released
    assert small.by_hand[0].scheme == "One positive, one negative: 1 point each."


def test_a_source_with_an_id_twice_is_refused(tmp_path):
    notebook = source_notebook()
    notebook.cells[4].metadata["nbgrader"]["grade_id"] = "s-setup"
    (tmp_path / "x.ipynb").write_text(json.dumps(notebook))
    with pytest.raises(ValueError, match="s-setup twice"):
        read_source(tmp_path / "x.ipynb", read_notebook(tmp_path / "x.ipynb"))


# ---------------------------------------------------------------- repairs


def test_an_untouched_notebook_needs_no_repair(small, tmp_path):
    returned = laid_out(small, Notebook(), tmp_path)
    assert returned.repaired == [] and returned.caught == [] and returned.extra == {}
    kinds = [(s["kind"], s["label"]) for s in steps_of(small, returned)]
    assert kinds[:4] == [
        ("student", "the cell that sets STUDENT_ID"),
        ("given", "s-setup"),
        ("student", "s-task1"),
        ("test", "s-task1-test"),
    ]


def test_without_metadata_the_same_steps_run(small, tmp_path):
    whole = steps_of(small, laid_out(small, Notebook(), tmp_path))
    lost = steps_of(small, laid_out(small, Notebook().from_colab(), tmp_path))
    assert lost == whole


def test_any_order_of_cells_gives_the_same_steps(small, tmp_path):
    whole = steps_of(small, laid_out(small, Notebook(), tmp_path))
    turned = Notebook()
    turned.nb.cells.reverse()
    returned = laid_out(small, turned, tmp_path)
    assert steps_of(small, returned) == whole
    assert any("another order" in line for line in returned.repaired)


def test_of_two_answers_the_later_counts(small, tmp_path):
    second = "def passes(K):\n    return 3 * K"
    returned = laid_out(small, Notebook().copy("s-task3", second), tmp_path)
    answers = [s["source"] for s in steps_of(small, returned) if s["label"] == "s-task3"]
    assert len(answers) == 2 and answers[-1] == second
    assert returned.repaired == ["s-task3: the cell stands 2 times; the last one counts."]


def test_an_import_that_was_added_to_a_given_cell_is_kept(small, tmp_path):
    given = small.cells[2].source + "\nimport math"
    steps = steps_of(small, laid_out(small, Notebook().answer("s-setup", given), tmp_path))
    setup = [s for s in steps if s["label"] == "s-setup"]
    assert [s["kind"] for s in setup] == ["given", "student"]
    assert setup[0]["source"] == small.cells[2].source and "import math" in setup[1]["source"]


def test_old_and_odd_notebooks_are_read(tmp_path):
    path = tmp_path / "x.ipynb"
    cell = {"cell_type": "code", "source": ["a = 1\n", "b"], "metadata": {"nbgrader": 3}}
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 0, "cells": [cell]}))
    assert read_notebook(path)["cells"][0] == {
        "cell_type": "code", "source": "a = 1\nb", "metadata": {}
    }  # fmt: skip
    old = {
        "cell_type": "code",
        "input": "a = 1",
        "language": "python",
        "outputs": [],
        "metadata": {},
    }
    text = {"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": [{"cells": [old]}]}
    path.write_text(json.dumps(text))
    assert read_notebook(path)["cells"][0]["source"] == "a = 1"
    for broken in ("", "[]", '{"cells": 3, "nbformat": 4}', '{"nbformat": 4, "cells": [{}]}'):
        path.write_text(broken)
        with pytest.raises(ValueError, match="not a notebook|cannot be read as a notebook"):
            read_notebook(path)


def test_python_of_a_cell():
    assert python_of("x = 1  # 5 % 2\ny = 7 % x") == "x = 1  # 5 % 2\ny = 7 % x"
    assert python_of("%%time\nx = 1").strip() == "x = 1"
    assert python_of("%%bash\nrm -rf /") == ""
    assert "get_ipython()" in python_of("!pip install x\nx = 1")
    assert definitions_of("import os\ndef f():\n    pass\nos._exit(0)") == (
        "import os\n\ndef f():\n    pass"
    )
    assert definitions_of("def f(") == ""


def test_one_notebook_per_student(small, tmp_path):
    folder = tmp_path / "returned"
    Notebook().write(folder / "ada" / "deep" / "s_small.ipynb")
    Notebook().write(folder / "ada" / ".ipynb_checkpoints" / "s_small-checkpoint.ipynb")
    (folder / "ada" / "other.ipynb").write_text("{}")
    Notebook().write(folder / "bob.ipynb")
    Notebook().write(folder / "Grace Hopper_42_assignsubmission_file" / "s_small.ipynb")
    Notebook().write(folder / "turingalan_late_12_345_s_small-1.ipynb")
    found = find_submissions(folder, small)
    assert [s.student for s in found] == ["Grace Hopper", "ada", "bob", "turingalan"]
    assert found[1].path == folder / "ada" / "deep" / "s_small.ipynb"
    assert "2 notebooks came" in found[1].problem
    with pytest.raises(ValueError, match="holds no notebooks"):
        (tmp_path / "empty").mkdir()
        find_submissions(tmp_path / "empty", small)


@pytest.mark.parametrize(
    ("name", "student"),
    [
        ("ada17", "ada17"),
        ("Ada Lovelace_12_assignsubmission_file_", "Ada Lovelace"),
        ("Ada Lovelace_12_assignsubmission_file_s_small", "Ada Lovelace"),
        ("lovelaceada_LATE_12_345_s_small-1", "lovelaceada"),
        ("Assignment 1_ada17_attempt_2026-11-20-10-30-12_s_small", "ada17"),
        ("late_Jörg Müller", "Jörg Müller"),
        ("Mu\u0308ller s_small (1)", "Müller"),
        ("s_small-ada17", "ada17"),
        ("ada17 s", "ada17"),
        ("s_small", "s_small"),
        ("hansson", "hansson"),
    ],
)
def test_names_of_students(name, student):
    assert student_of(name, "s_small") == student


def test_what_is_no_notebook_is_not_lost(small, tmp_path):
    """Whoever sent something else gets a line in the marks, too, and the right notebook counts."""
    folder = tmp_path / "returned"
    Notebook().write(folder / "ada.ipynb")
    Notebook(answered=False).write(folder / "ada (1).ipynb")  # newer, and without an answer
    Notebook().write(folder / "bob.ipynb.txt")
    for name in ("carl.pdf", "manual.csv", "returned.zip", ".DS_Store", "dora/essay.docx"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    (folder / "eve").mkdir()
    (folder / "fay.ipynb").write_text("")
    Notebook().write(folder / "marks" / "x.ipynb")
    found = {s.student: s for s in find_submissions(folder, small, folder / "marks")}
    assert list(found) == ["ada", "bob", "carl", "dora", "eve", "fay"]
    assert found["ada"].path == folder / "ada.ipynb" and "ada (1).ipynb" in found["ada"].problem
    assert found["bob"].path == folder / "bob.ipynb.txt"
    assert found["carl"].problem == "No notebook came, only carl.pdf."
    assert found["dora"].problem == "No notebook came, only essay.docx."
    assert found["eve"].problem == "There is no notebook in the folder."
    with pytest.raises(ValueError, match="is empty"):
        read_notebook(found["fay"].path)


def test_the_teacher_reads_whose_id_stands_in_a_notebook(small, tmp_path):
    notebook = Notebook()
    notebook.nb.cells[1].source = "STUDENT_ID = 'Ada17 '  # mine"
    returned = laid_out(small, notebook, tmp_path)
    assert grading._id_in(returned, small) == "Ada17"
    assert grading._id_in(laid_out(small, Notebook(), tmp_path), small) == ""
    results = [{"student": s, "id": i} for s, i in (("a", "Ada17"), ("b", "ada17"), ("c", ""))]
    assert grading._twins(results[0], results) == [
        'The notebook carries the STUDENT_ID "Ada17", as does that of b.'
    ]
    assert grading._twins(results[2], [*results, {"student": "d", "id": ""}]) == []


def test_nbgraders_folders_are_read(small, tmp_path):
    for name in ("s", "t"):
        Notebook().write(tmp_path / "submitted" / "ada" / name / "s_small.ipynb")
    (found,) = find_submissions(tmp_path / "submitted", small)
    assert (found.student, found.problem) == ("ada", "")
    assert found.path == tmp_path / "submitted" / "ada" / "s" / "s_small.ipynb"


def test_tables_of_spreadsheets(small, tmp_path):
    """What Excel makes of the table in a German office, and what it must not make of a name."""
    path = tmp_path / "manual.csv"
    text = "student;grade_id;points;comment\r\nJörg;s-words;1,5;gut\r\n;;;\r\n"
    path.write_bytes(text.encode("cp1252"))
    manual = read_manual([path], small)
    assert manual == {("Jörg", "s-words"): {"points": 1.5, "comment": "gut"}}
    rows = [["student", "x"], ["=HYPERLINK(1)", "ü"]]
    write_table(path, rows)
    assert path.read_text(encoding="utf-8-sig").splitlines()[1] == "'=HYPERLINK(1),ü"
    assert read_table(path) == (["student", "x"], [dict(zip(*rows))])


# ---------------------------------------------------------------- isolation


def test_what_is_lacking_is_said(monkeypatch):
    if sys.platform != "linux":
        pytest.skip("the walls are Linux's")
    said = []
    walls = ["files", "processes", "user", "limits"]
    monkeypatch.setattr(_sandbox, "available_walls", lambda: walls)
    assert choose_walls(False, said.append) == walls
    assert said == [
        "This machine lacks a network of its own: student code can reach the network.",
        "This machine lacks one memory limit for all processes of a notebook: the limit holds for "
        "each process, and a notebook may start 48 of them.",
    ]
    monkeypatch.setattr(_sandbox, "available_walls", lambda: ["limits"])
    with pytest.raises(ValueError, match="--no-isolation"):
        choose_walls(False, said.append)
    assert choose_walls(True, said.append) == ["limits"]
    assert "No isolation" in said[-1]


def test_other_systems_need_the_flag(monkeypatch):
    said = []
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ValueError, match="isolated on Linux only .* --no-isolation"):
        choose_walls(False, said.append)
    assert choose_walls(True, said.append) == [] and "No isolation" in said[0]
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.delattr(os, "fork", raising=False)
    with pytest.raises(ValueError, match="WSL 2"):
        choose_walls(True, said.append)


# ---------------------------------------------------------------- the whole way


@linux
def test_graded_twice_and_by_hand_and_without_isolation(tmp_path, capsys, monkeypatch):
    """The command as a teacher uses it: nothing runs twice, points by hand are merged."""
    source, returned, out = write_source(tmp_path), tmp_path / "returned", tmp_path / "marks"
    notebook = Notebook()
    test = notebook.nb.cells[notebook.at("s-task3-test")]
    test.outputs = [new_output("stream", name="stdout", text="3 of <3> tests\n")]
    notebook.write(returned / "ada" / "s_small.ipynb")
    command = ["grade", str(returned), "--source", str(source), "--out", str(out), "--jobs", "1"]
    assert main([*command, "--no-isolation"]) == 0
    printed = capsys.readouterr().out
    assert "No isolation, as asked" in printed and "1 answers are to be marked by hand" in printed

    def row():
        with (out / "marks.csv").open(newline="") as file:
            return next(csv.DictReader(file))

    assert row()["score"] == "6" and row()["isolation"] == "limits"
    # what stood above the written answer, for whoever marks it
    assert "3 of &lt;3&gt; tests" in (out / "by_hand.html").read_text()

    monkeypatch.setattr(grading, "mark", lambda *a: pytest.fail("ran a second time"))
    (out / "manual.csv").write_text(
        "student,grade_id,points,comment\nada,s-words,1.5,One reason of two\nada,s-task3-test,,\n"
    )
    assert main([*command, "--no-isolation"]) == 0
    assert row()["score"] == "7.5" and row()["to be marked by hand"] == ""
    assert "One reason of two" in (out / "feedback" / "ada.html").read_text()
    assert read_table(out / "manual-todo.csv") == (["student", "grade_id", "points", "comment"], [])

    for line, message in [
        ("ada,s-wrds,1,", 'unknown grade id "s-wrds"'),
        ("ada,s-words,3,", "from 0 to 2"),
        ("ada,s-words,x,", 'points "x"'),
    ]:
        (out / "manual.csv").write_text(f"student,grade_id,points,comment\n{line}\n")
        assert main([*command, "--no-isolation"]) == 2
        assert message in capsys.readouterr().err


@linux
def test_killed_in_the_middle_and_started_again(tmp_path, monkeypatch):
    """Nothing is marked twice, nothing half-written is read, no process stays behind."""
    source, returned, out = write_source(tmp_path), tmp_path / "returned", tmp_path / "marks"
    students = [f"student{n}" for n in range(5)]
    for name in students:
        Notebook().write(returned / name / "s_small.ipynb")
    results = out / "results"
    command = [sys.executable, "-m", "sff_teach", "grade", str(returned), "--source", str(source)]
    process = subprocess.Popen(
        [*command, "--out", str(out), "--jobs", "1"], cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while len(list(results.glob("*.json"))) < 2:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert children
    end = time.monotonic() + 20
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < end, "the helper outlives the grader"
        time.sleep(0.05)
    before = {path.stem: path.read_bytes() for path in results.glob("*.json")}
    assert 2 <= len(before) < 5
    half = (results / "student4.json") if "student4" not in before else None
    if half:
        half.write_bytes(next(iter(before.values()))[:200])  # as another program might leave it

    ran, real = [], grading.mark
    monkeypatch.setattr(
        grading, "mark", lambda work, sub, *rest: ran.append(sub.student) or real(work, sub, *rest)
    )
    limits = Limits()
    marked = grade(returned, source, out, limits=limits, jobs=1, say=lambda text: None)
    assert sorted([*ran, *before]) == students
    assert all(r["tasks"]["s-task1-test"]["points"] == 2 for r in marked)
    for name, content in before.items():
        assert (results / f"{name}.json").read_bytes() == content
    # a changed notebook is marked anew, and only that one
    ran.clear()
    Notebook(answered=False).write(returned / "student0" / "s_small.ipynb")
    marked = grade(returned, source, out, limits=limits, jobs=1, say=lambda text: None)
    assert ran == ["student0"] and marked[0]["tasks"]["s-task1-test"]["points"] == 0


@linux
def test_a_helper_that_does_not_start_leaves_nothing_open(monkeypatch):
    """Warnings are errors here, so an open socket or pipe would fail the test."""
    monkeypatch.setattr(grading, "_START", "raise SystemExit('no luck today')")
    with pytest.raises(OSError, match="helper did not start: no luck today"):
        grading.Helper(["limits"], [], [])
    gc.collect()

    def no_python(*args, **options):
        raise FileNotFoundError("no Python here")

    monkeypatch.setattr(subprocess, "Popen", no_python)
    with pytest.raises(FileNotFoundError, match="no Python here"):
        grading.Helper(["limits"], [], [])
    gc.collect()


class NeverBegins:
    """A helper whose notebooks' processes end before the first cell, as on a full machine."""

    walls, base, started = (), 0, 0

    def session(self, request):
        self.started += 1
        ours, theirs = socket.socketpair()
        theirs.close()
        return ours, os.getppid()


def test_a_process_that_never_begins_costs_no_student_anything(monkeypatch):
    monkeypatch.setattr(grading._Guard, "end", lambda self: None)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    helper, step = NeverBegins(), {"kind": "student", "label": "a", "source": "1", "cell": 0}
    with pytest.raises(OSError, match="ended three times before it ran a cell"):
        grading.run_steps(helper, [step], [], None, Limits(), 0)
    assert helper.started == 3


@linux
def test_nothing_of_a_notebook_is_left_when_the_next_one_begins():
    """Both have the same user: what is left would count against the next one's processes."""
    walls = _sandbox.available_walls()
    if "user" not in walls or os.geteuid() != 0:
        pytest.skip("only root can have users of its own for notebooks")
    bomb = (
        "import multiprocessing as m, time\nc = m.get_context('fork')\n"
        "while True:\n    c.Process(target=time.sleep, args=(60,)).start()"
    )
    test = {"kind": "test", "label": "t", "source": "assert f(1) == 2", "cell": 1}
    answer = {"kind": "student", "label": "a", "source": "def f(x):\n    return x + 1", "cell": 0}
    steps = [{"kind": "student", "label": "b", "source": bomb, "cell": -1}, answer, test]
    with grading.Helper(walls, [], [], 2) as helper:
        other = grading.Helper(walls, [], [], 2)
        other.close()
        assert other.first_user != helper.first_user  # nor do two graders share users
        for _ in range(2):
            outcome = grading.run_steps(helper, steps, ["f"], None, Limits(seconds=4), 1)
            assert outcome["tests"][1]["passed"], outcome
            assert "Resource temporarily unavailable" in outcome["caught"][0]
            users = [
                line.split()[1]
                for status in Path("/proc").glob("[0-9]*/status")
                for line in text_of(status).splitlines()
                if line.startswith("Uid:")
            ]
            assert users and str(helper.first_user + 1) not in users


def text_of(path):
    try:
        return path.read_text()
    except OSError:
        return ""  # the process has ended


@linux
def test_a_source_that_fails_its_own_tests_is_refused(tmp_path):
    for change, message in [
        (("return 2 * K", "return 3 * K"), "own solution fails s-task3-test: .*Two passes"),
        (("assert passes(10) == 20", "assert True"), "s-task3-test gives points for the empty"),
    ]:
        root = tmp_path / change[1][:6].strip()
        source = write_source(root)
        text = source.read_text().replace(*change)
        if "True" in change[1]:
            text = text.replace("assert [passes(k) for k in (1, 3, 7)] == [2, 6, 14]", "pass")
        source.write_text(text)
        Notebook().write(root / "in" / "ada" / "s_small.ipynb")
        with pytest.raises(ValueError, match=message):
            grade(root / "in", source, root / "out", jobs=1, say=lambda text: None)


@linux
def test_a_test_may_listen_in():
    """Answers see what it puts in the place of something given, and nothing else of it."""
    listening = (
        "calls, real = [], helper\ndef helper(x):\n    calls.append(x)\n    return real(x)\n"
        "assert f(1) == 2\nhelper = real\nassert calls == [1] and f(1) == 2 and calls == [1]"
    )
    steps = [
        {"kind": "given", "label": "g", "source": "n = 1\ndef helper(x):\n    return x", "cell": 0},
        {"kind": "student", "label": "a", "source": "def f(x):\n    return helper(x) + 1\n"
         "def sees():\n    return 1 + ('calls' in globals())\n"
         "def more():\n    return 1 + n", "cell": 1},
        {"kind": "test", "label": "t", "source": listening, "cell": 2},
        {"kind": "test", "label": "u", "source": "calls = []\nassert sees() == 1", "cell": 3},
        {"kind": "test", "label": "v", "source": "n = 5\nassert more() == 6", "cell": 4},
    ]  # fmt: skip
    with grading.Helper(_sandbox.available_walls(), [], []) as helper:
        outcome = grading.run_steps(helper, steps, ["f", "sees", "more"], None, Limits(), 0)
    assert all(test["passed"] for test in outcome["tests"].values()), outcome
    assert outcome["caught"] == [] and not any(t["caught"] for t in outcome["tests"].values())


@linux
@pytest.mark.parametrize("name", ["a2", "a3", "a4"])
def test_other_assignments_can_be_graded(name):
    """The grader's own first step: the solution passes behind the walls, the release does not."""
    (path,) = A1.parents[1].glob(f"{name}/*.ipynb")
    work = read_source(path, read_notebook(path))
    with grading.Helper(_sandbox.available_walls(), imports_of(work), [path.parent]) as helper:
        grading.check_assignment(work, helper, Limits())
    assert all(cell.changeable for cell in work.tests)


@linux
def test_assignment_1(tmp_path):
    """The real one: solution, empty release, and the solution as Colab returns it."""
    whole = json.loads(A1.read_text(encoding="utf-8"))
    work = read_source(A1, read_notebook(A1))

    def write(name, pick, keep=True):
        notebook = json.loads(json.dumps(whole))
        for cell, known in zip(notebook["cells"], work.cells):
            cell["source"] = pick(known)
            if not keep:
                cell["metadata"] = {}
        path = tmp_path / "in" / name / A1.name
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(notebook), encoding="utf-8")

    def solved(cell):
        return cell.source if cell.kind == "answer" else cell.released

    write("perfect", solved)
    write("empty", lambda cell: cell.released)
    write("colab", solved, keep=False)
    said = []
    marked = grade(tmp_path / "in", A1, tmp_path / "out", say=said.append)
    points = {r["student"]: sum(t["points"] or 0 for t in r["tasks"].values()) for r in marked}
    most = sum(cell.points for cell in work.tests)
    assert points == {"perfect": most, "empty": 0, "colab": most}
    by_name = {r["student"]: r for r in marked}
    assert by_name["perfect"]["repaired"] == by_name["perfect"]["caught"] == []
    assert "as Colab returns it" in by_name["colab"]["repaired"][0]
    assert all("no answer yet" in t["error"] for t in by_name["empty"]["tasks"].values())
