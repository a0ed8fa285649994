# ruff: noqa: E501 (cells of notebooks, as strings)
"""A class of made submissions, graded in one batch: honest, clumsy, and after the marks."""

import csv
import json
import sys
import zipfile
from pathlib import Path

import pytest

from sff_grade import jail, wire
from sff_grade.grading import Limits, grade, similar
from sff_grade.returned import lay_out, python_of
from sff_grade.source import read_source, without_names
from sff_grade.submissions import code_of, file_name, find_submissions, identify
from sff_teach.util.checks import SFFError
from tools import assignments

from ._small import Notebook, write_source

linux = pytest.mark.skipif(
    sys.platform != "linux" or bool(jail.lacking()), reason="needs bubblewrap"
)
FULL, NONE = (2, 3, 1), (0, 0, 0)
RIGHT = "def mean_square(h):\n    return h.square().mean(1)"
WRONG = "def mean_square(h):\n    return torch.full((len(h),), 5.0)"


def inside(body: str, answer: str = "torch.full((len(h),), 5.0)") -> Notebook:
    lines = "\n".join("    " + line for line in body.strip().splitlines())
    return Notebook().answer("s-task1", f"def mean_square(h):\n{lines}\n    return {answer}")


def text_cell() -> Notebook:
    notebook = Notebook()
    notebook.nb.cells[notebook.at("s-task1")].cell_type = "markdown"
    return notebook


def with_id(text: str) -> Notebook:
    notebook = Notebook()
    notebook.nb.cells[1].source = f"STUDENT_ID = {text!r}"
    return notebook


HUNT = """
def hunt(f):
    while f is not None:
        for v in list(f.f_locals.values()) + list(f.f_globals.values()):
            if "6.25" in repr(v)[:5000]:
                return v
        f = f.f_back
"""
STAYS = "98765.4321"  # seconds, by which the test finds the process again
CASES = {
    "perfect": (Notebook(), FULL),
    "empty": (Notebook(answered=False), NONE),
    "wrong": (Notebook().answer("s-task1", WRONG), (0, 3, 1)),
    "text-cell": (text_cell(), FULL),
    "from-colab": (Notebook().from_colab(), FULL),
    "helper-at-the-end": (
        Notebook().answer("s-task1", "def mean_square(h):\n    return helper(h)").insert(99, "def helper(h):\n    return h.square().mean(1)"),
        FULL,
    ),
    "one-line-stops": (
        Notebook().answer("s-task1", f"from google.colab import drive\ndrive.mount('/x')\nimport asyncio\nawait asyncio.sleep(0)\nn = int(input())\n%pip install x\n{RIGHT}"),
        FULL,
    ),
    "own-backward": (Notebook().last("p = nn.Linear(3, 3)\np(torch.ones(1, 3)).sum().backward()\ntorch.optim.SGD(p.parameters(), 0.1).step()"), FULL),
    "double": (Notebook().answer("s-task1", RIGHT + "\ntorch.set_default_dtype(torch.float64)"), FULL),
    "compiled": (Notebook().answer("s-task1", "@torch.compile\n" + RIGHT), FULL),
    "exits": (Notebook().last("import os\nos._exit(0)"), FULL),
    "answer-exits": (inside("import os; os._exit(0)"), (0, 3, 1)),
    "deep": (Notebook().last("x = " + "-" * 6000 + "1"), FULL),
    "surrogate": (inside(r"raise ValueError('\ud800 <script>')"), (0, 3, 1)),
    "blank-lines": (Notebook().last("\n" * 300_000), FULL),
    "frames": (inside("import logging\nhunt(logging.currentframe())\n" + HUNT.strip().replace("\n", "\n")), (0, 3, 1)),
    "current-frames": (inside("import sys\nfor f in sys._current_frames().values():\n    f.f_globals.update(sent=1)"), (0, 3, 1)),
    "gc": (inside("import gc\nx = [o for o in gc.get_objects() if isinstance(o, dict) and 'expected' in o]"), (0, 3, 1)),
    "forged-channel": (inside("import os\nfor fd in range(3, 30):\n    try:\n        os.write(fd, b'passed' * 99)\n    except OSError:\n        pass"), (0, 3, 1)),
    "patched-torch": (Notebook().answer("s-task1", WRONG + "\ntorch.allclose = torch.equal = lambda *a, **k: True\ntorch.Tensor.requires_grad_ = lambda self: self"), (0, 3, 1)),
    "equals-all": (Notebook().answer("s-task3", "class Yes(int):\n    __eq__ = lambda *a: True\ndef passes(K):\n    return Yes(0)"), (2, 3, 0)),
    "no-namespaces": (inside("import ctypes\nc = ctypes.CDLL(None)\nassert c.unshare(0x10000000) and c.ptrace(16, 1, 0, 0) == -1 and c.shmget(0, 1 << 20, 0o1600) == -1\nassert c.process_vm_readv(1, 0, 0, 0, 0, 0) == -1 and c.memfd_create(b'x', 0) == -1", "h.square().mean(1)"), FULL),
    "walled-in": (inside("import os, socket\nassert not os.path.exists('/etc/passwd') and os.getuid() and not os.access('/', os.W_OK)\nassert [p for p in os.listdir('/proc') if p.isdigit()].__len__() < 4\ntry:\n    socket.create_connection(('1.1.1.1', 80), 1)\n    raise SystemExit\nexcept OSError:\n    pass", "h.square().mean(1)"), FULL),
    "fork-bomb": (Notebook().last("import os\nfor _ in range(300):\n    os.fork()"), FULL),
    "memory": (inside("torch.empty(2**34).fill_(1)"), (0, 3, 1)),
    "endless": (inside("while True:\n    pass"), (0, 3, 1)),
    "re-export": (Notebook().answer("s-task1", "from sff_teach.goodness import mean_squares\ndef mean_square(h):\n    return mean_squares(h)"), (0, 3, 1)),
    "bdb": (inside("import bdb, sys\nb = bdb.Bdb()\nb.reset()\nfor f, _ in b.get_stack(sys._getframe(), None)[0]:\n    hunt(f)\n" + HUNT.strip()), (0, 3, 1)),
    "formatter": (inside("import string\ntry:\n    1 / 0\nexcept ZeroDivisionError as e:\n    x = string.Formatter().format('{0.tb_frame.f_back.f_back.f_globals}', e.__traceback__)"), (0, 3, 1)),
    "thread-stays": (Notebook().last("import threading, time\ndef stay():\n    while True:\n        time.sleep(0.01)\n        torch.allclose = lambda *a, **k: True\nthreading.Thread(target=stay, daemon=True).start()").answer("s-task1", WRONG), (0, 3, 1)),
    "process-stays": (Notebook().last(f"import subprocess\nsubprocess.Popen(['/usr/bin/sleep', '{STAYS}'], start_new_session=True)"), FULL),
    "signals": (inside("import os\nfor pid in (1, os.getppid()):\n    try:\n        os.kill(pid, 9)\n    except OSError:\n        pass", "h.square().mean(1)"), FULL),
    "no-timer": (inside("import signal\nsignal.signal(signal.SIGPROF, signal.SIG_IGN)\nwhile True:\n    pass"), (0, 3, 1)),
    "disk": (Notebook().last("for n in range(999):\n    open(f'/tmp/{n}', 'wb').write(b'x' * 2**20)"), FULL),
    "descriptors": (Notebook().last("import os\nfor n in range(9999):\n    os.open('/dev/null', 0)"), FULL),
    "prints-much": (Notebook().last("for _ in range(99_999):\n    print('x' * 999)"), FULL),
    "sends-much": (inside("pass", "'x' * 10**8"), (0, 3, 1)),
    "html": (Notebook().answer("s-task1", RIGHT + "  # </pre><script>alert(1)</script>"), FULL),
    "formula": (with_id("=HYPERLINK(1)"), FULL),
}  # fmt: skip


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    root = tmp_path_factory.mktemp("class")
    source = write_source(root)
    for name, (notebook, _) in CASES.items():
        notebook.write(root / "returned" / name / "s_small.ipynb")
    (root / "returned" / "broken.ipynb").write_text('{"cells": [' + "[" * 100_000)
    with zipfile.ZipFile(root / "returned" / "hopper_13_35_homework.zip", "w") as archive:
        archive.write(root / "returned" / "perfect" / "s_small.ipynb", "../../x/s_small.ipynb")
    limits = Limits(seconds=3, memory=1, notebook=60)
    marked = grade(root / "returned", source, root / "marks", limits=limits, say=lambda text: None)
    return {r["student"]: r for r in marked}, root


@linux
@pytest.mark.nightly
@pytest.mark.parametrize("name", CASES)
def test_marks(batch, name):
    result = batch[0][name]
    points = tuple(result["tasks"][f"s-task{n}-test"]["points"] for n in (1, 2, 3))
    assert points == CASES[name][1], (result["tasks"], result["notes"])


@linux
@pytest.mark.nightly
def test_everybody_has_a_row_and_a_page(batch):
    results, root = batch
    with (root / "marks" / "marks.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    assert set(rows) == {*CASES, "broken", "hopper_13_35"} == set(results)
    assert rows["hopper_13_35"]["score"] == "6" and rows["broken"]["score"] == "0"
    assert "not a notebook" in rows["broken"]["notes"]
    assert results["perfect"]["notes"] == [] and results["own-backward"]["notes"] == []
    page = (root / "marks" / "feedback" / "surrogate.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert (root / "marks" / "canvas.csv").is_file()
    page = (root / "marks" / "feedback" / "html.html").read_text()
    assert "<script>" not in page and "&lt;/pre&gt;" in page
    assert not any(
        cell.startswith(("=", "+", "@")) for row in rows.values() for cell in row.values()
    )


@linux
@pytest.mark.nightly
def test_nothing_outlives_its_notebook(batch):
    commands = [p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if p.exists()]
    assert not any(STAYS.encode() in command for command in commands)


def test_absent_names_only_raise():
    source = "class A:\n    def f(self, x=1):\n        return x\n\n\ndef g(x):\n    return x\n"
    names: dict = {}
    exec(without_names(source, ["A.f", "g"]), names)
    for call in (names["A"]().f, lambda: names["g"](1)):
        with pytest.raises(NotImplementedError, match="not there in this assignment"):
            call()
    with pytest.raises(SFFError, match="has no h"):
        without_names(source, ["h"])


@pytest.mark.parametrize("path", assignments.sources(), ids=lambda path: path.parent.name)
def test_absent_names_are_the_packages(path):
    """A name that moved would silently be there again."""
    work = read_source(path)
    assert work.absent
    for entry in work.absent:
        module, _, name = entry.partition(":")
        text = (assignments.ROOT / Path(*module.split("."))).with_suffix(".py").read_text()
        assert f"{name.rsplit('.')[-1]} is not there" in without_names(text, [name])


@linux
def test_one_round(tmp_path):
    """Marks, marks by hand under a code, an override with its note, and nbgrader's layout."""
    source, said = write_source(tmp_path), []

    def mark_all():
        (result,) = grade(
            tmp_path / "returned", source, tmp_path / "marks", say=said.append,
            nbgrader=True, anonymous=True,
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
    assert [t["points"] for t in tasks.values()] == [2, 3, 0, 1.5] and "0 to be marked" in said[-1]
    assert tasks["s-task3-test"]["comment"] == "copied"
    text = (tmp_path / "marks" / "submitted" / "ada" / "s" / "s_small.ipynb").read_text()
    sources = [cell["source"] for cell in json.loads(text)["cells"]]
    assert "own = 1" in sources and "STUDENT_ID = 'ada'" in sources and "HIDDEN" not in text
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
    found = {s.student: s for s in find_submissions(tmp_path, "a1")}
    assert found["hopper_12_34"].late and found["ada_13_35"].others == ["ada_13_35_a1.rar"]


def test_messages_hold_values_only():
    import torch

    body = wire.pack({"a": (torch.arange(3.0), [1, "x"], object())})[4:]
    tree, arrays = wire.unpack(body)
    value = wire.decode(tree, arrays)["a"]
    assert torch.equal(value[0], torch.arange(3.0)) and value[1] == [1, "x"]
    assert value[2] != value[2] and isinstance(value, tuple)
    for bad in (b"", b"\xff" * 40, json.dumps({"arrays": [["O", [1]]]}).encode()):
        with pytest.raises(wire.WireError):
            wire.unpack(bad)


def test_python_of_a_cell():
    assert python_of("%%time\nx = 1") == "x = 1" and python_of("%%bash\nrm -rf /") == ""
    assert python_of("!ls\nx = %pwd\n" * 501).count("pass") == 501


def test_another_assignment_is_said():
    cell = {"code": True, "source": "x = 1", "id": "a2-task1", "printed": ""}
    skeleton = [{"kind": "answer", "id": "a1-task1", "released": "?", "names": ["f"], "code": True}]
    assert "a2-task1" in lay_out(skeleton, [cell])["notes"][0]


def test_similar_answers_are_listed():
    text = "def f(x):\n    " + "\n    ".join(f"x = x + {n}" for n in range(20))
    results = [{"student": s, "id": "", "printed": "", "answers": {"t": [text]}} for s in "ab"]
    assert similar(results)[1][2] == "a | b"
