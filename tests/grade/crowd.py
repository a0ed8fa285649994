# ruff: noqa: E501 (cells of notebooks, as strings)
"""A class of made submissions to a small assignment, with the marks that they must get.

    python -m tests.grade.crowd         grades them and writes docs/grading_crowd.md
    python -m tests.grade.crowd KIND …  grades these alone, and keeps the other rows

Where nbgrader is installed (`.venv-teacher`), it marks the harmless ones as well.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sff_grade.grading import grade

from ._small import Notebook, write_source

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "grading_crowd.md"
STORED = Path(__file__).with_suffix(".json")
FILE = "s_small.ipynb"
FULL, NONE, FIRST_LOST = (2, 3, 1), (0, 0, 0), (0, 3, 1)
RIGHT = "def mean_square(h):\n    return h.square().mean(1)"
WRONG = "def mean_square(h):\n    return torch.full((len(h),), 5.0)"
STAYS = "98765.4321"  # seconds, by which a test finds the process again


@dataclass
class Case:
    """A submission: what it is, in words, and the points of its three tasks."""

    words: str
    made: Notebook | dict[str, bytes]
    points: tuple[int, int, int] = FULL
    harmless: bool = True
    says: str = ""  # what the teacher must read

    @property
    def files(self) -> dict[str, bytes]:
        return self.made if isinstance(self.made, dict) else {FILE: data_of(self.made)}


def data_of(notebook: Notebook) -> bytes:
    return json.dumps(notebook.nb).encode()


def answer(source: str, task: str = "s-task1") -> Notebook:
    return Notebook().answer(task, source)


def inside(body: str, result: str = "torch.full((len(h),), 5.0)") -> Notebook:
    """The first answer does something before it returns a result, a wrong one if not said."""
    lines = "\n".join("    " + line for line in body.strip().splitlines())
    return answer(f"def mean_square(h):\n{lines}\n    return {result}")


def own(source: str) -> Notebook:
    """All answers are right, and a cell of the student's own does something before the tests."""
    return Notebook().last(source)


def change(what: Callable[[Notebook], object]) -> Notebook:
    notebook = Notebook()
    what(notebook)
    return notebook


def _as(kind: str) -> Callable[[Notebook], object]:
    return lambda n: n.nb.cells[n.at("s-task1")].update(cell_type=kind)


def _grade_id(grade_id: object) -> Callable[[Notebook], object]:
    return lambda n: n.nb.cells[n.at("s-task1")].metadata["nbgrader"].update(grade_id=grade_id)


def _of_another(n: Notebook) -> None:
    for cell in n.nb.cells:
        cell.source = "x = 1" if cell.cell_type == "code" else "# Assignment 2"
        if "nbgrader" in cell.metadata:
            cell.metadata["nbgrader"]["grade_id"] = "a2" + cell.metadata["nbgrader"]["grade_id"]


def _shuffled(n: Notebook) -> None:
    n.nb.cells = n.nb.cells[::-1]


def _below_the_stub(n: Notebook) -> None:
    n.answer("s-task1", "# YOUR CODE HERE\nraise NotImplementedError()")
    n.insert(n.at("s-task1") + 1, RIGHT)


def _zip(name: str) -> bytes:
    with tempfile.SpooledTemporaryFile() as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(name, data_of(Notebook()))
        file.seek(0)
        return file.read()


RIGHT_BODY = "h.square().mean(1)"
# What a hidden test says and nothing else does; if it is found, the answer is a right one.
HUNT = """
secret = "".join(["package.mean", "_squares(x)"])
def hunt(frame):
    while frame is not None:
        for value in [*frame.f_locals.values(), *frame.f_globals.values()]:
            if value is not secret and secret in repr(value):
                return True
        frame = frame.f_back
    return False
"""
IF_FOUND = f"{RIGHT_BODY} if found else torch.full((len(h),), 5.0)"


def hunting(body: str) -> Notebook:
    return inside(HUNT + body, IF_FOUND)


ONE_LINE = f"from google.colab import drive\ndrive.mount('/x')\nimport asyncio\nawait asyncio.sleep(0)\nn = int(input())\n%pip install x\n{RIGHT}"

HONEST = {
    "perfect": Case("all answers right", Notebook()),
    "empty": Case("no answers", Notebook(answered=False), NONE),
    "wrong": Case("one answer wrong", answer(WRONG), FIRST_LOST),
    "helper-last": Case("a helper defined in the last cell", answer("def mean_square(h):\n    return helper(h)").insert(99, "def helper(h):\n    return h.square().mean(1)")),
    "one-line-stops": Case("`google.colab`, `await`, `input()` and `%pip` above the answer", answer(ONE_LINE)),
    "shell": Case("501 lines of `!ls`", own("!ls\n" * 501)),
    "plots": Case("`plt.show()`, `open()` and a DataLoader with two workers", own("import matplotlib.pyplot as plt\nplt.plot([1, 2]); plt.show()\nopen('/tmp/notes.txt', 'w').write('x')\nfrom torch.utils.data import DataLoader\nprint(len(list(DataLoader([1, 2, 3], num_workers=2))))")),
    "own-backward": Case("backward and `SGD.step` in an own cell", own("p = nn.Linear(3, 3)\np(torch.ones(1, 3)).sum().backward()\ntorch.optim.SGD(p.parameters(), 0.1).step()")),
    "float64": Case("an answer in float64", inside("h = h.double()", RIGHT_BODY)),
    "double": Case("`set_default_dtype(float64)` beside the answer", answer(RIGHT + "\ntorch.set_default_dtype(torch.float64)")),
    "gpu": Case("`.cuda()` where there is a GPU", inside("h = h.cuda() if torch.cuda.is_available() else h", RIGHT_BODY)),
    "compiled": Case("`@torch.compile`", answer("@torch.compile\n" + RIGHT)),
    "script": Case("`@torch.jit.script`", answer("@torch.jit.script\n" + RIGHT.replace("(h)", "(h: torch.Tensor)"))),
    "exits": Case("`os._exit(0)` in an own cell", own("import os\nos._exit(0)"), says="only its functions"),
    "syntax": Case("a syntax error in one answer", answer("def mean_square(h) return h"), FIRST_LOST, says="SyntaxError"),
    "endless": Case("an endless loop in one answer", inside("while True:\n    pass"), FIRST_LOST),
    "endless-own": Case("an endless loop in an own cell", own("while True:\n    pass"), says="took longer"),
    "from-colab": Case("Colab: every cell's metadata lost", change(Notebook.from_colab), says="as Colab returns it"),
    "text-cell": Case("an answer in a text cell", change(_as("markdown")), says="text cell"),
    "raw-cell": Case("an answer in a raw cell", change(_as("raw")), says="text cell"),
    "deleted": Case("an answer and two tests deleted", Notebook().delete("s-task1").delete("s-task1-test").delete("s-task3-test"), FIRST_LOST, says="no such cell"),
    "copied": Case("an answer's cell copied, the second one right", answer(WRONG).copy("s-task1", RIGHT), says="stands 2 times"),
    "shuffled": Case("all cells in reverse order", change(_shuffled), says="another order"),
    "below": Case("the answer in a new cell below the stub", change(_below_the_stub)),
    "two-versions": Case("two versions, the newer one right", {FILE: data_of(answer(WRONG)), "s_small (1).ipynb": data_of(Notebook())}, says="2 notebooks came"),
    "utf-16": Case("saved as UTF-16", {FILE: json.dumps(Notebook().nb).encode("utf-16")}),
    "another": Case("another assignment's notebook", change(_of_another), NONE, says="not of this assignment"),
    "zip": Case("a zip with `../../x/` in front of the name", {"homework.zip": _zip(f"../../x/{FILE}")}),
    "html-page": Case("a web page in place of a notebook", {FILE: b"<html><body>Sign in</body></html>"}, NONE, says="not a notebook"),
    "pdf": Case("a PDF", {"homework.pdf": b"%PDF-1.4"}, NONE, says="only homework.pdf"),
}  # fmt: skip

ATTACKS = {
    "frames": Case("frames by `logging.currentframe`", hunting("import logging\nfound = hunt(logging.currentframe())"), FIRST_LOST),
    "current-frames": Case("frames by `sys._current_frames` of a thread", hunting("import sys\nfrom concurrent.futures import ThreadPoolExecutor\nframes = ThreadPoolExecutor(1).submit(sys._current_frames).result()\nfound = any([hunt(frame) for frame in frames.values()])"), FIRST_LOST),
    "bdb": Case("frames by `bdb`", hunting("import bdb, sys\nb = bdb.Bdb()\nb.reset()\nfound = any([hunt(f) for f, _ in b.get_stack(sys._getframe(), None)[0]])"), FIRST_LOST),
    "formatter": Case("frames by `string.Formatter`", hunting("import string\ntry:\n    1 / 0\nexcept ZeroDivisionError as e:\n    frame, _ = string.Formatter().get_field('0.tb_frame', (e.__traceback__,), {})\nfound = hunt(frame)"), FIRST_LOST),
    "gc": Case("a search of the garbage collector's objects", hunting("import gc\nkinds = (list, tuple, dict)\nfound = any(secret in text for o in gc.get_objects() if isinstance(o, kinds) for text in (o.values() if isinstance(o, dict) else o) if isinstance(text, str) and text is not secret)"), FIRST_LOST),
    "forged-channel": Case("bytes written to every open file", inside("import os\nfor fd in range(3, 30):\n    try:\n        os.write(fd, b'passed' * 99)\n    except OSError:\n        pass"), FIRST_LOST, says="the answer"),
    "patched-torch": Case("`torch.allclose` and `requires_grad_` replaced", answer(WRONG + "\ntorch.allclose = torch.equal = lambda *a, **k: True\ntorch.Tensor.requires_grad_ = lambda self: self"), FIRST_LOST),
    "equals-all": Case("a number that equals all others", answer("class Yes(int):\n    __eq__ = lambda *a: True\ndef passes(K):\n    return Yes(0)", "s-task3"), (2, 3, 0)),
    "re-export": Case("the package's own function returned", answer("from sff_teach.goodness import mean_squares\ndef mean_square(h):\n    return mean_squares(h)"), FIRST_LOST),
    "answer-exits": Case("an answer that ends the process", inside("import os; os._exit(0)"), FIRST_LOST, says="ended the process"),
    "no-namespaces": Case("`unshare`, `ptrace`, `shmget`, `process_vm_readv`, `memfd_create` by ctypes (all refused)", inside("import ctypes, os\nc = ctypes.CDLL(None)\nassert c.unshare(0x10000000) == -1 and c.ptrace(0, 0, 0, 0) == -1 and c.shmget(0, 1 << 20, 0o1600) == -1\nassert c.process_vm_readv(os.getpid(), 0, 0, 0, 0, 0) == -1 and c.memfd_create(b'x', 0) == -1", RIGHT_BODY)),
    "walled-in": Case("files, users, processes and the network of the machine (none is there)", inside("import os, socket\nassert not os.path.exists('/etc/passwd') and os.getuid() and not os.access('/', os.W_OK)\nassert [p for p in os.listdir('/proc') if p.isdigit()].__len__() < 4\ntry:\n    socket.create_connection(('1.1.1.1', 80), 1)\n    raise SystemExit\nexcept OSError:\n    pass", RIGHT_BODY)),
    "signals": Case("SIGKILL to the parent and to process 1", inside("import os\nfor pid in (1, os.getppid()):\n    try:\n        os.kill(pid, 9)\n    except OSError:\n        pass", RIGHT_BODY)),
    "thread-stays": Case("a thread that goes on and replaces `torch.allclose`", answer(WRONG).last("import threading, time\ndef stay():\n    while True:\n        time.sleep(0.01)\n        torch.allclose = lambda *a, **k: True\nthreading.Thread(target=stay, daemon=True).start()"), FIRST_LOST),
    "process-stays": Case("a process in a session of its own", own(f"import subprocess\nsubprocess.Popen(['/usr/bin/sleep', '{STAYS}'], start_new_session=True)")),
    "no-timer": Case("an endless loop that ignores the timer", inside("import signal\nsignal.signal(signal.SIGPROF, signal.SIG_IGN)\nwhile True:\n    pass"), FIRST_LOST, says="by the clock"),
    "sleeps": Case("a cell that sleeps for an hour", own("import time\ntime.sleep(3600)"), says="by the clock"),
    "fork-bomb": Case("300 forks", own("import os\nfor _ in range(300):\n    os.fork()")),
    "memory": Case("64 GiB of memory", inside("torch.empty(2**34).fill_(1)"), FIRST_LOST),
    "shared-memory": Case("POSIX shared memory of 4 GiB", own("from multiprocessing import shared_memory\nm = shared_memory.SharedMemory(create=True, size=2**32)\nfor i in range(0, 2**32, 4096):\n    m.buf[i] = 1")),
    "disk": Case("a gigabyte written to `/tmp`", own("for n in range(999):\n    open(f'/tmp/{n}', 'wb').write(b'x' * 2**20)")),
    "descriptors": Case("9,999 open files", own("import os\nfor n in range(9999):\n    os.open('/dev/null', 0)")),
    "prints-much": Case("100 MB printed", own("for _ in range(99_999):\n    print('x' * 999)")),
    "sends-much": Case("an answer of 100 MB", inside("pass", "'x' * 10**8"), FIRST_LOST),
    "deep-answer": Case("an answer nested 10,000 deep", inside("x = []\nfor _ in range(10_000):\n    x = [x]", "x"), FIRST_LOST, says="Recursion"),
    "deep": Case("an expression 6,000 deep", own("x = " + "-" * 6000 + "1")),
    "deep-json": Case("100,000 brackets in place of a notebook", {FILE: b'{"cells": [' + b"[" * 100_000}, NONE, says="not a notebook"),
    "odd-id": Case("a list as nbgrader's id", change(_grade_id(["x"]))),
    "blank-lines": Case("300,000 blank lines", own("\n" * 300_000)),
    "surrogate": Case("half an emoji and `<script>` in an error's text", inside(r"raise ValueError('\ud800 <script>')"), FIRST_LOST, says="<script>"),
    "html": Case("`</pre><script>` in an answer", answer(RIGHT + "  # </pre><script>alert(1)</script>")),
    "formula": Case("a spreadsheet's formula as STUDENT_ID", change(lambda n: n.nb.cells[1].update(source="STUDENT_ID = '=HYPERLINK(1)'"))),
    "=1+1": Case("a spreadsheet's formula as the student's name", Notebook()),
}  # fmt: skip
CASES = HONEST | ATTACKS
# nbgrader runs students' code with the teacher's rights, so only these of the attacks are shown to it.
SHOWN_TO_NBGRADER = [*HONEST, "patched-torch", "equals-all", "re-export", "odd-id"]


@dataclass
class Marked:
    """What became of a class: results by student, and the folder with what was written."""

    results: dict[str, dict]
    root: Path

    def points(self, name: str) -> tuple[float, ...]:
        tasks = self.results[name]["tasks"]
        return tuple(tasks[f"s-task{n}-test"]["points"] for n in (1, 2, 3))

    def reads(self, name: str) -> list[str]:
        """What the teacher reads about a submission: why tasks were lost, and the notes."""
        result = self.results[name]
        tasks = [t for t in result["tasks"].values() if t["points"] is not None]
        lost = [t["error"] for t in tasks if t["points"] == 0]
        return list(dict.fromkeys([*result["notes"], *filter(None, lost)]))


def run(cases: dict[str, Case], root: Path) -> Marked:
    """Hand in and grade."""
    source = write_source(root)
    for name, case in cases.items():
        for age, (file, data) in enumerate(case.files.items()):
            path = root / "returned" / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            os.utime(path, (10**9 + age, 10**9 + age))
    marked = grade(root / "returned", source, root / "marks", seconds=6, memory=1, notebook=180)
    return Marked({r["student"]: r for r in marked}, root)


def by_nbgrader(cases: dict[str, Case], root: Path) -> dict[str, str]:
    """What nbgrader gives to the same notebooks, or how it ends."""
    from nbgrader.api import Gradebook
    from nbgrader.apps import NbGraderAPI
    from traitlets.config import Config

    write_source(root)
    os.environ |= {"PYTHONPATH": str(ROOT), "HOME": str(root)}
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    os.chdir(root)
    config = Config()
    config.CourseDirectory.root = str(root)
    config.CourseDirectory.db_url = f"sqlite:///{root}/gradebook.db"
    config.ExecutePreprocessor.timeout = 60
    api = NbGraderAPI(config=config)
    assert api.generate_assignment("s", force=True, create=True)["success"]
    given = {}
    for n, (name, case) in enumerate(cases.items()):
        print(given, flush=True)
        student = f"s{n}"
        folder = root / "submitted" / student / "s"
        folder.mkdir(parents=True)
        for file, data in case.files.items():
            (folder / file).write_bytes(data)
        done = api.autograde("s", student, force=True, create=True)
        if not done["success"]:
            given[name] = "stops"
            continue
        with Gradebook(f"sqlite:///{root}/gradebook.db") as book:
            grades = [g for nb in book.find_submission("s", student).notebooks for g in nb.grades]
            score = sum(g.auto_score or 0 for g in grades if g.cell.name.endswith("-test"))
        given[name] = f"{score:g}"
    return given


def page(rows: dict[str, dict]) -> str:
    """Return docs/grading_crowd.md."""

    def cell(text: str, most: int = 130) -> str:
        text = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
        return text if len(text) <= most else text[:most].rsplit(" ", 1)[0] + " …"

    lines = [
        "# What the grader does with a difficult class",
        "",
        "Made submissions to a small assignment of three tasks (2, 3 and 1 points): right answers in odd",
        "notebooks, and attempts on the marks and on the machine. Written by `python -m tests.grade.crowd`.",
    ]
    if any("nbgrader" in row for row in rows.values()):
        lines += [
            "`nbgrader` is the mark that nbgrader alone gives to the same notebook (*stops*: no mark, an error);",
            "what could harm the machine is not shown to it, since it runs students' code with the teacher's rights.",
        ]
    for title, cases in (
        ("Honest and clumsy", HONEST),
        ("After the marks or the machine", ATTACKS),
    ):
        known = {name: rows[name] for name in cases if name in rows}
        beside = [n for n in known if "nbgrader" in known[n]]
        equal = sum(known[n]["nbgrader"] == f"{known[n]['mark']:g}" for n in beside)
        lines += ["", f"## {title}", ""]
        if beside:
            lines += [
                f"{len(known)} kinds; nbgrader alone gives {equal} of {len(beside)} the same mark.",
                "",
            ]
        column, line = (" nbgrader |", "--:|") if beside else ("", "")
        lines += [f"| kind | mark of 6 |{column} what the teacher reads |", f"|---|--:|{line}---|"]
        for name, row in known.items():
            reads = cell(" · ".join(row["reads"])) or "–"
            other = f" {row.get('nbgrader', '')} |" if beside else ""
            lines.append(f"| {cases[name].words} | {row['mark']:g} |{other} {reads} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kinds", nargs="*")
    parser.add_argument("--nbgrader", action="store_true", help="nbgrader's marks, and no others")
    asked = parser.parse_args()
    rows = json.loads(STORED.read_text()) if STORED.is_file() else {}
    cases = {n: CASES[n] for n in asked.kinds or CASES}
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        if asked.nbgrader:
            shown = {n: c for n, c in cases.items() if n in SHOWN_TO_NBGRADER}
            for name, mark in by_nbgrader(shown, Path(folder)).items():
                rows.setdefault(name, {})["nbgrader"] = mark
        else:
            marked = run(cases, Path(folder))
            for name, case in cases.items():
                points, reads = marked.points(name), marked.reads(name)
                rows.setdefault(name, {}).update(mark=sum(points), reads=reads)
                if points != case.points or case.says not in " ".join(reads):
                    print(f"{name}: {points}, not {case.points}; {reads}")
    rows = {name: rows[name] for name in CASES if name in rows}
    STORED.write_text(json.dumps(rows, indent=1, ensure_ascii=True) + "\n")
    PAGE.write_text(page({n: r for n, r in rows.items() if "mark" in r}), encoding="utf-8")
    print(f"{len(cases)} in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
