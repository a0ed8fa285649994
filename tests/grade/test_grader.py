# ruff: noqa: E501 (names of learning platforms)
"""A class of made submissions, graded in one batch: honest, clumsy, and after the marks."""

import csv
import json
import os
import struct
import sys
from pathlib import Path

import pytest

from sff_grade import jail, judge, wire
from sff_grade.grading import grade
from sff_grade.output import similar, write_leaderboard
from sff_grade.returned import lay_out, python_of
from sff_grade.source import read_source, without_name
from sff_grade.submissions import code_of, file_name, find_submissions, identify, readable
from sff_teach.util.checks import SFFError
from tools import assignments

from . import crowd
from ._small import Notebook, write_source

linux = pytest.mark.skipif(
    sys.platform != "linux" or bool(jail.lacking()), reason="needs bubblewrap"
)


@pytest.fixture(scope="module", params=["honest", "attacks"])
def part(request, tmp_path_factory):
    cases = {"honest": crowd.HONEST, "attacks": crowd.ATTACKS}[request.param]
    return cases, crowd.run(cases, tmp_path_factory.mktemp("class"))


@linux
@pytest.mark.nightly
def test_the_crowd(part):
    """Everybody has the right mark, a row, a page, and a note that says what was found."""
    cases, marked = part
    assert set(marked.results) == set(cases)
    wrong = {
        name: (marked.points(name), marked.reads(name))
        for name, case in cases.items()
        if marked.points(name) != case.points or case.says not in " ".join(marked.reads(name))
    }
    assert not wrong
    out = marked.root / "marks"
    with (out / "marks.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert [row["student"].lstrip("'") for row in rows] == sorted(cases)
    assert not any(cell.startswith(("=", "+", "@")) for row in rows for cell in row.values())
    pages = [path.read_text(encoding="utf-8") for path in (out / "feedback").rglob("*.html")]
    assert len(pages) == len(cases) and not any("<script" in page for page in pages)
    commands = [p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if p.exists()]
    assert not any(crowd.STAYS.encode() in command for command in commands)


@linux
@pytest.mark.nightly
@pytest.mark.parametrize("name", ["perfect", "own-backward", "utf-16"])
def test_nothing_is_said_about_ordinary_notebooks(name, tmp_path):
    assert crowd.run({name: crowd.HONEST[name]}, tmp_path).reads(name) == []


def test_absent_names_only_raise():
    source = "class A:\n    def f(self, x=1):\n        return x\n\n\ndef g(x):\n    return x\n"
    names: dict = {}
    exec(without_name(without_name(source, "A.f"), "g"), names)
    for call in (names["A"]().f, lambda: names["g"](1)):
        with pytest.raises(NotImplementedError, match="not there in this assignment"):
            call()
    with pytest.raises(SFFError, match="has no h"):
        without_name(source, "h")


@pytest.mark.parametrize("path", assignments.sources()[:4], ids=lambda path: path.parent.name)
def test_absent_names_are_the_packages(path):
    """A name that moved would silently be there again."""
    work = read_source(path)
    assert work.absent
    for entry in work.absent:
        module, _, name = entry.partition(":")
        text = (assignments.ROOT / Path(*module.split("."))).with_suffix(".py").read_text()
        assert f"{name.rsplit('.')[-1]} is not there" in without_name(text, name)


@linux
def test_one_round(tmp_path, capsys):
    """Marks, marks by hand under a code, an override with its note, and nbgrader's layout."""
    source = write_source(tmp_path)

    def mark_all():
        (result,) = grade(
            tmp_path / "returned", source, tmp_path / "marks", nbgrader=True, anonymous=True,
        )  # fmt: skip
        return result["tasks"]

    Notebook().last("own = 1").write(tmp_path / "returned" / "ada.ipynb")
    assert [t["points"] for t in mark_all().values()] == [2, 3, 1, None]
    todo = (tmp_path / "marks" / "manual-todo.csv").read_text(encoding="utf-8-sig")
    assert code_of("ada") in todo and "ada" not in todo.replace(code_of("ada"), "")
    (tmp_path / "marks" / "manual.csv").write_text(
        f"student,grade_id,points,comment\n{code_of('ada')},s-words,1.5,good\n"
        "ada,s-task3-test,0,copied\n"
    )
    tasks = mark_all()
    assert [t["points"] for t in tasks.values()] == [2, 3, 0, 1.5]
    assert "0 to be marked" in capsys.readouterr().out
    assert tasks["s-task3-test"]["comment"] == "copied"
    text = (tmp_path / "marks" / "submitted" / "ada" / "s" / "s_small.ipynb").read_text()
    sources = [cell["source"] for cell in json.loads(text)["cells"]]
    assert "own = 1" in sources and "STUDENT_ID = 'ada17'" in sources and "HIDDEN" not in text
    assert any("return 2 * K" in source for source in sources)


NAMES = {
    "moodle": ["Anna Schmidt_101_assignsubmission_file", "Anna Schmidt_202_assignsubmission_file"],
    "canvas": ["smithjohn_1111_7001_a1_goodness", "smithjohn_2222_7002_a1_goodness"],
    "blackboard": ["HW 1_j_smith_attempt_2026-11-20-10-30-12_a1", "HW 1_b_smith_attempt_2026-11-20-10-31-12_a1"],
    "numbers": ["mat_2026_0123_a1_goodness", "mat_2026_0124_a1_goodness"],
    "groups": ["group_1_2_final", "group_3_4_final"],
    "copies": ["Copy of a1_goodness", "Copy of a1_goodness (1)"],
    "blind": ["Participant_101_assignsubmission_file", "Participant_102_assignsubmission_file"],
}  # fmt: skip


@pytest.mark.parametrize("kind", NAMES)
def test_as_many_students_as_came(kind):
    assert len({identify(name, "a1_goodness").student for name in NAMES[kind]}) == len(NAMES[kind])


def test_names_cannot_leave_the_folder():
    names = ["../../x", "a" * 300, "..", "b/c", "=cmd"]
    assert len({file_name(n) for n in names}) == 5
    assert not any("/" in file_name(n) or len(file_name(n)) > 100 for n in names)


def test_late_and_archives(tmp_path):
    Notebook().write(tmp_path / "hopper_LATE_12_34_a1.ipynb")
    (tmp_path / "ada_13_35_a1.rar").write_bytes(b"x")
    found = {s.student: s for s in find_submissions(tmp_path, "a1", tmp_path / "marks")}
    assert found["hopper_12"].late and found["ada_13"].others == ["ada_13_35_a1.rar"]


def test_canvas_numbers_files_and_matriculation_numbers_are_students(tmp_path):
    """Two files of one student are one row; two students who only look like that stay two."""
    Notebook().write(tmp_path / "ada_13_35_a1.ipynb")
    (tmp_path / "ada_13_36_notes.pdf").write_bytes(b"x")
    (found,) = find_submissions(tmp_path, "a1", tmp_path / "marks")
    assert found.student == "ada_13" and found.number == "13" and len(found.files) == 1
    for number in (1234, 1235):
        Notebook().write(tmp_path / "other" / f"mat_2026_{number}_a1.ipynb")
    assert len(find_submissions(tmp_path / "other", "a1", tmp_path / "marks")) == 2


def test_an_archives_old_file_names_are_readable():
    """A zip from an old system holds names in Latin-1."""
    for encoding in ("latin-1", "utf-8"):
        assert readable(os.fsdecode("Müller".encode(encoding))) == "Müller"


def test_the_platforms_names_are_kept():
    for name in ("Sean O'Brien_12_assignsubmission_file_", "Jörg Müller_13_assignsubmission_file"):
        assert file_name(identify(name).folder) == name


def test_messages_hold_values_only():
    import torch

    sent: list = []
    message = wire.pack({"a": (torch.arange(3.0), [1, "x"])}, sent)
    value = wire.unpack(message[4:], [])["a"]
    assert isinstance(value, tuple) and value[1] == [1, "x"]
    assert torch.equal(value[0], torch.arange(3.0))
    with pytest.raises(TypeError, match="no number, text or array"):
        wire.pack(object(), [])
    objects = json.dumps({"value": 1, "arrays": [["O", [1]]]}).encode()
    for bad in (b"", b"\xff" * 40, struct.pack("<I", len(objects)) + objects + b"x" * 8):
        with pytest.raises((ValueError, struct.error)):
            wire.unpack(bad, [])


def test_a_bare_assert_says_what_does_not_hold():
    source = "x = 3\nassert (\n    x == 4\n)"
    with pytest.raises(AssertionError) as caught:
        exec(compile(source, judge.TEST, "exec"), {})
    assert judge._explain(caught.value, source) == "This does not hold: x == 4"
    assert "other numbers" in judge._explain(caught.value, "")


def test_python_of_a_cell():
    assert python_of("%%time\nx = 1") == "x = 1" and python_of("%%bash\nrm -rf /") == ""
    assert python_of("!ls\nx = %pwd\n" * 501).count("pass") == 501


def test_another_assignment_is_said():
    cell = {"code": True, "source": "x = 1", "id": "a2-task1", "printed": ""}
    skeleton = [{"kind": "answer", "id": "a1-task1", "released": "?", "names": ["f"], "code": True}]
    assert "a2-task1" in lay_out(skeleton, [cell])["notes"][0]


def test_similar_answers_are_listed():
    text = "def f(x):\n    " + "\n    ".join(f"x = x + {n}" for n in range(20))
    results = [{"student": s, "id": "", "printed": "", "answers": {"t": text}} for s in "ab"]
    assert similar(results)[0]["students"] == "a | b"


def test_the_leaderboard_has_the_best_first_and_no_empty_entries(tmp_path):
    entries = {"ada": {"accuracy": 70.0}, "alan": {}, "=grace": {"accuracy": 71.25}}
    marked = [{"student": student, "entry": entry} for student, entry in entries.items()]
    write_leaderboard(tmp_path, marked, anonymous=False)
    rows = (tmp_path / "leaderboard.csv").read_text(encoding="utf-8-sig").splitlines()
    assert rows == ["place,student,accuracy", "1,'=grace,71.2", "2,ada,70.0"]
    write_leaderboard(tmp_path, marked, anonymous=True)
    assert "ada" not in (tmp_path / "leaderboard.csv").read_text(encoding="utf-8-sig")
