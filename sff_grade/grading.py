"""Grade a folder of returned notebooks: repair, run apart from everything, mark, tell why.

`grade` is what ``sff-teach grade`` calls. Reading and repairing is in `_returned`, what runs
student code in `_session` behind the walls of `_sandbox`, the pages in `_feedback`. Nothing here
runs student code: this process only sends cells and reads what came of them.
"""

from __future__ import annotations

import array
import contextlib
import hashlib
import json
import os
import re
import secrets
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from sff_teach.util.files import (
    atomic_write,
    exclusive_lock,
    make_folder,
    read_table,
    remove_partial_files,
    write_error,
    write_table,
)

from . import sandbox as _sandbox
from .returned import (
    Assignment,
    Cell,
    Returned,
    definitions_of,
    imports_of,
    lay_out,
    read_source,
    steps_of,
)
from .session import SLOWER

VERSION = 2  # of the way of marking; another one marks everything anew
MOST_BYTES = 2 << 20  # that a notebook may send back
BY_HAND = "to be marked by hand"
LOOK = 0.05  # seconds between two looks at a notebook's memory
STUCK = "could not be started, as nothing was left of the notebook's processes and threads"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a notebook may use."""

    seconds: int = 20
    """Of computing, for each cell and each test; by the clock ten times as many."""
    memory: float = 2.0
    """GiB on top of what torch itself takes."""


@dataclass(frozen=True)
class Submission:
    """One student's notebook."""

    student: str
    path: Path | None
    problem: str = ""


# ---------------------------------------------------------------- what came back


def find_assignment(source: Path, name: str | None, folder: Path) -> Path:
    """The instructor's notebook: ``source`` itself, or the one in it that the folder belongs to.

    Raises:
        ValueError: none or several fit.
    """
    if source.is_file():
        return source
    found = sorted(source.glob("*/*.ipynb")) or sorted(source.glob("*.ipynb"))
    if not found:
        raise ValueError(f"source={source} holds no notebooks; give the folder of the assignments.")
    known = {path.parent.name if path.parent != source else path.stem: path for path in found}
    if name is not None:
        from sff_teach.util.checks import check_known

        check_known(name, known, "assignment")
        return known[name]
    stems = {p.stem.lower() for p in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts}
    fits = [p for p in known.values() if any(p.stem.lower() in stem for stem in stems)]
    fits = fits or [p for n, p in known.items() if any(re.search(_word(n), s) for s in stems)]
    if len(known) == 1 or len(fits) == 1:
        return (fits or list(known.values()))[0]
    raise ValueError(
        f"the notebooks in {folder} don't say which assignment they are; give --assignment, one of "
        f"{', '.join(known)}."
    )


# How learning platforms name what they pack: Moodle "Ada Lovelace_12_assignsubmission_file" (as a
# folder, or in front of the file's name), Canvas "lovelaceada_LATE_12_34_name.ipynb", Blackboard
# "Assignment_ada17_attempt_2026-11-20-10-30-12_name.ipynb".
_PLATFORMS = (
    r"(?P<student>.+?)_\d+_assignsubmission_[a-z]+(_.*)?",
    r".*_(?P<student>[^_]+)_attempt_\d{4}(-\d\d){5}(_.*)?",
    r"(?P<student>.+?)(_late)?_\d+_\d+_.*",
)
_ENDING = re.compile(r"\.ipynb(\.txt|\.json)?$", re.IGNORECASE)  # browsers add the second one
_NOT_RETURNED = re.compile(
    r"manual(-todo)?\.csv|thumbs\.db|desktop\.ini|.*\.(zip|tar|t?gz|rar|7z)", re.IGNORECASE
)


def _word(name: str) -> str:
    """A pattern that finds a name which is no part of a longer word."""
    return rf"(?<![^\W_]){re.escape(name)}(?![^\W_])"


def short_name(assignment: str) -> str:
    """For a1_goodness_and_the_layer: a1, as the folder of the assignment is called."""
    return re.split(r"[_\W]", assignment)[0]


def student_of(name: str, assignment: str = "") -> str:
    """The student that a file's or folder's name, without its ending, stands for.

    What a platform or a browser has added is left away, and so is the assignment's own name where
    something else is left.
    """
    name = unicodedata.normalize("NFC", name).strip()
    for pattern in _PLATFORMS:
        found = re.fullmatch(pattern, name, re.IGNORECASE)
        if found:
            return found["student"].strip()
    bare = re.sub(r"(\s*\(\d+\))+$", "", name)
    bare = re.sub(r"^late[\s_-]+", "", bare, flags=re.IGNORECASE)
    if assignment:
        words = rf"[\s_-]*({_word(assignment)}|{_word(short_name(assignment))})[\s_-]*"
        bare = re.sub(words, " ", bare, flags=re.IGNORECASE)
        bare = re.sub(r"(\s*\(\d+\))+$", "", bare)
    return bare.strip() or name


def find_submissions(
    folder: Path, assignment: Assignment, out: Path | None = None
) -> list[Submission]:
    """One notebook per student.

    Accepted are FOLDER/STUDENT/….ipynb, at any depth below the student, and FOLDER/STUDENT.ipynb;
    names are read by `student_of`. Of several notebooks in nbgrader's STUDENT/ASSIGNMENT/….ipynb
    those of this assignment count. A student of whom something else came gets a line as well.

    Raises:
        ValueError: there is no notebook.
    """
    came: dict[str, list[Path]] = {}  # student → files
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "_")) or path.is_symlink():
            continue
        if path.is_dir():
            if out is not None and path.resolve() == Path(out).resolve():
                continue
            files = [
                p
                for p in sorted(path.rglob("*"))
                if p.is_file()
                and not p.is_symlink()
                and not any(x.startswith((".", "__MACOSX")) for x in p.relative_to(folder).parts)
            ]
            came.setdefault(student_of(path.name), []).extend(files)
        elif path.is_file() and not _NOT_RETURNED.fullmatch(path.name):
            stem = _ENDING.sub("", path.name) if _ENDING.search(path.name) else path.stem
            came.setdefault(student_of(stem, assignment.name), []).append(path)
    if not any(_ENDING.search(path.name) for paths in came.values() for path in paths):
        raise ValueError(
            f"folder={folder} holds no notebooks; put one folder for each student into it, or "
            "STUDENT.ipynb files."
        )
    submissions, own = [], (short_name(assignment.name), assignment.name)
    for student, files in sorted(came.items()):
        paths = [path for path in files if _ENDING.search(path.name)]
        paths = [p for p in paths if p.parent.name in own] or paths
        if not paths:
            others = ", ".join(sorted(path.name for path in files)[:5])
            problem = "There is no notebook in the folder."
            if others:
                problem = f"No notebook came, only {others}."
            submissions.append(Submission(student, None, problem))
            continue
        # The one with the most answers; of equals the newest.
        best = max(paths, key=lambda p: (*_worth(p, assignment), p.stat().st_mtime))
        problem = ""
        if len(paths) > 1:
            names = ", ".join(str(p.relative_to(folder)) for p in paths)
            problem = f"{len(paths)} notebooks came ({names}); {best.name} was marked."
        submissions.append(Submission(student, best, problem))
    return submissions


def _worth(path: Path, assignment: Assignment) -> tuple[int, int]:
    """How many cells of the assignment a notebook holds, and how many of them with an answer."""
    try:
        returned = lay_out(assignment, read_notebook(path))
    except ValueError:
        return -1, 0
    answered = sum(
        texts[-1].split() != assignment.cells[i].released.split()
        for i, texts in returned.answers.items()
        if assignment.cells[i].kind in ("answer", "by hand")
    )
    return returned.found, answered


def read_notebook(path: Path) -> dict:
    """The notebook, whatever version of the format it has.

    Raises:
        ValueError: it is no notebook.
    """
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty, so it is not a notebook.")
    try:
        text = path.read_text(encoding="utf-8-sig")
        notebook = json.loads(text)
        if notebook.get("nbformat") != 4:
            import nbformat  # of the course extra; marking alone needs it

            notebook = nbformat.reads(text, as_version=4)
        cells = []
        for cell in notebook["cells"]:
            source = cell.get("source", "")
            source = "".join(source) if isinstance(source, list) else source
            if not isinstance(source, str):
                raise TypeError("source")
            metadata = cell.get("metadata")
            metadata = metadata if isinstance(metadata, dict) else {}
            mark = metadata.get("nbgrader")
            metadata = {"nbgrader": mark} if isinstance(mark, dict) else {}
            printed = _printed(cell)
            cells.append(
                {"cell_type": cell["cell_type"], "source": source, "metadata": metadata}
                | ({"printed": printed} if printed else {})
            )
        return {"cells": cells}
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as a notebook ({type(error).__name__}); ask for it again."
        ) from error


def _printed(cell: dict) -> str:
    """What a cell's stored outputs have printed, the last of it."""
    texts = [o.get("text", "") for o in cell.get("outputs") or [] if o.get("name") == "stdout"]
    return "".join("".join(t) if isinstance(t, list) else str(t) for t in texts)[-3000:]


# ---------------------------------------------------------------- the helper that runs code


class Helper:
    """The process that has torch loaded and forks for each notebook; its walls are fixed."""

    def __init__(
        self, walls: list[str], modules: list[str], hidden: Iterable[Path], slots: int = 1
    ) -> None:
        self.walls = walls
        self._setup = {
            "walls": walls,
            "modules": modules,
            "slots": slots,
            "data": [str(p) for p in _data_folders()],
            "hidden": [str(Path(p).absolute()) for p in hidden],
        }
        self._lock = threading.Lock()
        self._start()

    def _start(self) -> None:
        self._process = None
        env = {
            k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "LC_ALL", "VIRTUAL_ENV")
        }
        env |= {
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "MPLBACKEND": "Agg",
            "MPLCONFIGDIR": "/tmp",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONHASHSEED": "0",
            "USER": "student",
        }
        from sff_teach.data import data_home

        env["SFF_TEACH_DATA"] = str(data_home())
        places = [str(Path(__file__).parents[1]), *(p for p in sys.path if os.path.isabs(p))]
        self._control, theirs = socket.socketpair()
        try:
            with theirs, tempfile.TemporaryDirectory(prefix="sff-grade-") as room:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _START.format(places)],
                    stdin=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env,
                )  # fmt: skip
                theirs.close()  # so that the socket tells when the helper ends
                _sandbox.first_to_die(self._process.pid)
                ready = b""
                with contextlib.suppress(OSError):
                    self._control.sendall(json.dumps(self._setup | {"room": room}).encode())
                    ready = self._control.recv(4096)
            if not ready:
                said = self._process.stderr.read().decode(errors="replace").strip()
                raise OSError(
                    "the grader's helper did not start: " + (said.splitlines() or ["no word"])[-1]
                )
        except BaseException:
            self.close()
            raise
        self.first_user = json.loads(ready)["first_user"]  # None: all run as this one
        self.base = _sandbox.own_memory(self._process.pid)

    def session(self, request: dict) -> tuple[socket.socket, int]:
        """A socket to a new process that waits for a job, and the number of its guard."""
        with self._lock:
            for attempt in (1, 2):
                ours, theirs = socket.socketpair()
                try:
                    with theirs:
                        fds = array.array("i", [theirs.fileno()])
                        kind = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
                        self._control.sendmsg([json.dumps(request).encode()], kind)
                    answer = self._control.recv(4096)
                    if answer:
                        return ours, json.loads(answer)["pid"]
                except OSError:
                    pass
                ours.close()
                if attempt == 1:  # something ended the helper: start another
                    self.close()
                    self._start()
            raise OSError("the grader's helper ends as soon as it starts.")

    def close(self) -> None:
        """End the helper and with it all that it has started."""
        self._control.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stderr.close()

    def __enter__(self) -> Helper:
        return self

    def __exit__(self, *_) -> None:
        self.close()


_START = "import sys; sys.path[:] = {!r}; from sff_teach import _session; _session.main()"


def _data_folders() -> list[Path]:
    from sff_teach.data import data_home

    folder = Path(__file__).parents[1] / "data"
    embedded = [folder] if (folder / "fashion-mnist-sample.npz").is_file() else []
    return embedded + ([data_home()] if data_home().is_dir() else [])


# ---------------------------------------------------------------- one notebook


def run_steps(
    helper: Helper, steps: list[dict], own_names: list[str], student_id: str | None,
    limits: Limits, slot: int, files: dict[str, bytes] | None = None,
) -> dict:  # fmt: skip
    """Run a notebook's steps and report on each test.

    Whatever ends the process (a loop, a crash, ``os._exit``) costs the step it stood in: the
    notebook is run again, of that cell with its imports, functions and classes only.

    Returns ``{"tests": {cell: {"passed", "error", "line", "caught"}}, "caught": […]}``.
    """
    tests: dict[int, dict] = {}
    report: list[str] = []
    state = dict.fromkeys(range(len(steps)), "whole")  # or "definitions", "skipped"
    stuck = False
    for _ in range(2 * len(steps) + 2):
        ended, reason = _run_once(
            helper, steps, state, own_names, student_id, limits, slot, files or {}, tests, report
        )
        if ended is None:
            break
        if reason == STUCK and not stuck:
            stuck = True  # once more: it may have been the machine
            continue
        step = steps[ended]
        if step["kind"] == "test":
            tests[step["cell"]] = _failed(f"the test {reason}")
            state[ended] = "skipped"
        elif step["kind"] == "student" and state[ended] == "whole":
            report.append(f"{step['label']}: {reason}; only its functions and classes were used.")
            state[ended] = "definitions"
        else:
            if state[ended] == "whole":
                report.append(f"{step['label']}: {reason}.")
            state[ended] = "skipped"
    for step in steps:
        if step["kind"] == "test":
            tests.setdefault(step["cell"], _failed("the test was not reached"))
    return {"tests": tests, "caught": list(dict.fromkeys(report))}


def _failed(error: str, **more) -> dict:
    return {"passed": False, "error": error, "line": None, "caught": [], **more}


def _run_once(
    helper, steps, state, own_names, student_id, limits, slot, files, tests, report
) -> tuple[int | None, str]:
    """One run; the number of the step at which it ended before its time, and why; or None."""
    words = {n: [secrets.token_hex(16) for _ in range(4)] for n in range(len(steps))}
    job_steps = []
    for n, step in enumerate(steps):
        if state[n] == "skipped" or (step["kind"] == "test" and step["cell"] in tests):
            continue
        source = definitions_of(step["source"]) if state[n] == "definitions" else step["source"]
        item = {"kind": step["kind"], "at": n, "source": source, "file": f"<{step['label']}>"}
        if step["kind"] == "test":
            item |= {
                "file": f"<{secrets.token_hex(8)}>",
                "words": words[n],
                "changeable": step.get("changeable", True),
            }
        job_steps.append(item)
    job = {
        "steps": job_steps,
        "own_names": own_names,
        "seconds": limits.seconds,
        "student_id": student_id,
        "files": {name: content.hex() for name, content in files.items()},
    }
    request = {
        "slot": slot,
        "memory": int(limits.memory * 2**30),
        "seconds": 60 * limits.seconds,
    }
    most = int(1.25 * limits.memory * 2**30)  # above what each process may have by itself

    def greedy() -> bool:
        """Whether the notebook's processes take too much memory together."""
        return "sum" in helper.walls and _sandbox.memory_of(guard, helper.base, most) > most

    for _ in range(3):
        channel, guard = helper.session(request)
        with channel, _Guard(guard) as handle:
            try:
                with contextlib.suppress(OSError):
                    channel.sendall(json.dumps(job).encode())
                    channel.shutdown(socket.SHUT_WR)
                return _listen(channel, steps, words, limits, tests, report, greedy)
            except _NotBegun:
                time.sleep(0.5)
            finally:
                handle.end()
    raise OSError(
        "a notebook's process ended three times before it ran a cell, so this machine lacks memory "
        "or processes just now; the same command goes on where it was."
    )


class _NotBegun(Exception):
    """The process ended before any cell ran: this is no student's doing."""


def _listen(channel, steps, words, limits, tests, report, greedy) -> tuple[int | None, str]:
    at, since, got, buffer = 0, time.monotonic(), 0, b""
    looked, begun = since, False
    verdicts: dict[int, dict] = {}  # of the test as it is
    broken: dict[int, bool] = {}  # whether the test failed with changed answers
    finished = False

    def settle(n: int) -> None:
        """A test is over: what it is worth."""
        if n not in words or steps[n]["kind"] != "test" or steps[n]["cell"] in tests:
            return
        result = verdicts.get(n) or _failed("the answer ended the process")
        if result["passed"] and steps[n].get("changeable", True) and not broken.get(n):
            result["passed"] = False
            result["error"] = "the test passes with wrong numbers as well"
            result["caught"] = [
                *result["caught"],
                "wrong numbers pass as well: the test was fooled",
            ]
        tests[steps[n]["cell"]] = result

    while True:
        step = steps[at]
        # Cells and tests have a clock inside that counts computing; this one is for what stops it.
        allowed = SLOWER * limits.seconds * (2 if step["kind"] == "test" else 1) + 5
        now = time.monotonic()
        if now - looked >= LOOK:
            looked = now
            if greedy():
                if step["kind"] == "test":
                    settle(at)
                return at, f"took more than {limits.memory:g} GiB with all its processes"
        left = since + allowed - now
        if left <= 0:
            if step["kind"] == "test":
                settle(at)
            return at, f"took longer than {limits.seconds} s"
        if not select.select([channel], [], [], min(left, LOOK))[0]:
            continue
        try:
            data = channel.recv(1 << 16)
        except OSError:
            data = b""
        got += len(data)
        if not data or got > MOST_BYTES:
            if finished and data == b"":
                return None, ""
            if not begun:
                raise _NotBegun
            reason = "ended the process" if not data else "sent too much"
            if step["kind"] == "test":
                settle(at)
            return at, reason
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            try:
                event = json.loads(line)
                assert isinstance(event, dict)
            except (ValueError, AssertionError, RecursionError):
                _note(report, step, "wrote into the grader's channel")
                continue
            begun = True
            if event.get("start") in words:
                if steps[at]["kind"] == "test" and event["start"] != at:
                    settle(at)
                if event["start"] >= at:
                    at, since = event["start"], time.monotonic()
                    step = steps[at]
            elif "note" in event:
                _note(report, step, str(event["note"])[:300])
            elif "verdict" in event:
                n, proof = event["verdict"], event.get("proof")
                if n not in words or steps[n]["kind"] != "test":
                    _note(report, step, "wrote into the grader's channel")
                    continue
                passed, failed, broke_not, broke = words[n]
                if proof in (broke, broke_not) and event.get("changed"):
                    broken[n] = proof == broke
                elif proof in (passed, failed) and not event.get("changed"):
                    # A word comes once; the first verdict stands.
                    verdicts.setdefault(
                        n,
                        {
                            "passed": proof == passed,
                            "error": event.get("error"),
                            "line": event.get("line"),
                            "caught": [
                                f"replaced {c}; it was put back" for c in event.get("caught", [])
                            ],
                        },
                    )
                elif proof == "" and not event.get("changed"):
                    verdicts.setdefault(n, _failed(str(event.get("error"))[:600]))
                elif proof != "":
                    _note(report, step, "wrote a verdict of its own into the grader's channel")
            elif "stuck" in event:
                return at, STUCK
            elif "judged" in event:
                if event.get("late") and not event.get("changed"):
                    verdicts.setdefault(
                        event["judged"], _failed(f"took longer than {limits.seconds} s")
                    )
            elif "done" in event:
                for name in event.get("caught") or []:
                    _note(report, step, f"had replaced {name}; it was put back")
                error = event.get("error")
                if error and step["kind"] == "student" and not step.get("quiet"):
                    _note(report, step, f"stopped with {str(error).splitlines()[0][:200]}")
                elif error and step["kind"] == "given":
                    _note(report, step, f"the instructor's cell stopped with {str(error)[:200]}")
            elif event.get("end"):
                if steps[at]["kind"] == "test":
                    settle(at)
                finished = True


def _note(report: list[str], step: dict, text: str) -> None:
    line = f"{step['label']}: {text}."
    if line not in report and len(report) < 40:
        report.append(line)


class _Guard:
    """The process that watches over a notebook's; held so that no other can get its number."""

    def __init__(self, pid: int) -> None:
        self._pid, self._handle = pid, None
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                self._handle = os.pidfd_open(pid)

    def __enter__(self):
        return self

    def end(self) -> None:
        """Have it end the notebook's processes, and wait for that: the next has the same user."""
        with contextlib.suppress(OSError):
            if self._handle is not None:
                signal.pidfd_send_signal(self._handle, signal.SIGTERM)
                if not select.select([self._handle], [], [], 60)[0]:
                    signal.pidfd_send_signal(self._handle, signal.SIGKILL)
            elif not hasattr(os, "pidfd_open"):
                os.killpg(self._pid, signal.SIGTERM)

    def __exit__(self, *_) -> None:
        if self._handle is not None:
            os.close(self._handle)


# ---------------------------------------------------------------- marks


def mark(
    assignment: Assignment, submission: Submission, helper: Helper, limits: Limits, slot: int
) -> dict:
    """One student's result: points per task, and what was repaired and caught."""
    repaired = [submission.problem] if submission.problem else []
    result = {"student": submission.student, "repaired": repaired, "caught": [], "tasks": {}}
    returned = Returned({}, {}, [], [], 0)
    if submission.path is not None:
        try:
            returned = lay_out(assignment, read_notebook(submission.path))
        except ValueError:
            empty = not submission.path.stat().st_size
            repaired.append(
                "The file is empty." if empty else "The file is not a notebook that can be read."
            )
    repaired += returned.repaired
    result["caught"] += returned.caught
    result["id"] = _id_in(returned, assignment)
    outcome = {"tests": {}, "caught": []}
    if returned.found:
        steps = _prepared(assignment, returned)
        student_id = submission.student if _wants_id(assignment) else None
        outcome = run_steps(helper, steps, assignment.answer_names, student_id, limits, slot)
    elif submission.path is not None and not repaired:
        repaired.append("No cell of this assignment was found in the notebook.")
    result["caught"] += outcome["caught"]
    for i, cell in enumerate(assignment.cells):
        if cell.kind == "test":
            test = outcome["tests"].get(i) or _failed("no answer was found")
            for line in test["caught"]:
                result["caught"].append(f"{cell.grade_id}: {line}.")
            result["tasks"][cell.grade_id] = {
                "points": cell.points if test["passed"] else 0.0,
                "max": cell.points,
                "error": None if test["passed"] else _explain(cell, test),
            }
        elif cell.kind == "by hand":
            result["tasks"][cell.grade_id] = {
                "points": None,
                "max": cell.points,
                "error": None,
                "answer": "\n\n".join(returned.answers.get(i, [])),
                "printed": _printed_before(i, assignment, returned),
            }
    result["caught"] = list(dict.fromkeys(result["caught"]))
    result["answers"] = {
        assignment.cells[i].grade_id: texts
        for i, texts in returned.answers.items()
        if assignment.cells[i].kind == "answer" and assignment.cells[i].grade_id
    }
    return result


def _printed_before(place: int, assignment: Assignment, returned: Returned) -> str:
    """What the last code cell before a written answer had printed when the student saved it."""
    code = [i for i in range(place) if assignment.cells[i].code]
    return returned.printed.get(code[-1], "") if code else ""


def _prepared(assignment: Assignment, returned: Returned) -> list[dict]:
    steps = steps_of(assignment, returned)
    for step in steps:
        cell = assignment.cells[step["cell"]]
        if step["kind"] == "test":
            step["changeable"] = cell.changeable
        # An unanswered stub stops, of course; so do cells that weren't touched.
        step["quiet"] = step["cell"] >= 0 and step["source"].strip() == cell.released.strip()
    return steps


def _id_in(returned: Returned, assignment: Assignment) -> str:
    """The STUDENT_ID that stands in a notebook; empty if none does."""
    for i, texts in returned.answers.items():
        cell = assignment.cells[i]
        if cell.kind == "free" and "STUDENT_ID" in cell.names:
            found = re.search(r"""STUDENT_ID\s*=\s*(["'])(.*?)\1""", texts[-1])
            return found[2].strip() if found else ""
    return ""


def _wants_id(assignment: Assignment) -> bool:
    return any(cell.kind == "free" and "STUDENT_ID" in cell.names for cell in assignment.cells)


def _explain(cell: Cell, test: dict) -> str:
    """Why a test failed, in words for the student."""
    error, line = test["error"] or "", test["line"]
    if error.startswith("AssertionError"):
        text = error.partition(": ")[2].strip()
        if text:
            return text
        if line and not cell.hidden(line):
            return f"This does not hold: {cell.source.splitlines()[line - 1].strip()}"
        return "It does not hold for other numbers than those in the visible tests."
    if error.startswith("NotImplementedError"):
        return "There is no answer yet."
    return error


def check_assignment(assignment: Assignment, helper: Helper, limits: Limits) -> None:
    """Grade the instructor's own notebook and the empty release, before any student's.

    Also finds out which tests notice changed answers; only those are asked to (`_session.shaken`).

    Raises:
        ValueError: the solution lacks points, or a task gives points for an empty notebook.
    """

    def texts(pick: Callable[[Cell], str]) -> Returned:
        answers = {i: [pick(c)] for i, c in enumerate(assignment.cells) if c.code or c.points}
        return Returned(answers, {}, [], [], len(answers))

    student_id = "solution" if _wants_id(assignment) else None
    for cell in assignment.cells:
        cell.changeable = False
    steps = _prepared(assignment, texts(lambda c: c.source))
    own = assignment.answer_names
    outcome = run_steps(helper, steps, own, student_id, limits, 0)
    for i, test in outcome["tests"].items():
        if not test["passed"]:
            raise ValueError(
                f"the instructor's own solution fails {assignment.cells[i].grade_id}: "
                f"{test['error']} {' '.join(outcome['caught'])[:300]}"
            )
    for step in steps:
        step["changeable"] = step["kind"] == "test"
    for _ in range(2):  # again where a busy machine may have been in the way
        outcome = run_steps(helper, steps, own, student_id, limits, 0)
        for i, test in outcome["tests"].items():
            assignment.cells[i].changeable |= test["passed"]
        if all(cell.changeable for cell in assignment.tests):
            break
    steps = _prepared(assignment, texts(lambda c: c.released))
    outcome = run_steps(helper, steps, own, student_id, limits, 0)
    for i, test in outcome["tests"].items():
        if test["passed"]:
            raise ValueError(
                f"{assignment.cells[i].grade_id} gives points for the empty notebook; make its "
                "tests fail without an answer."
            )


# ---------------------------------------------------------------- a class


def grade(
    folder: Path, source: Path, out: Path, *, assignment: str | None = None,
    limits: Limits = Limits(), jobs: int | None = None, no_isolation: bool = False,
    say: Callable[[str], None] = print,
) -> list[dict]:  # fmt: skip
    """Mark every notebook in ``folder``; write marks.csv, feedback/ and results/ into ``out``.

    What is in ``out``/results already, of the same notebook and the same source, is not run again.
    Points from manual.csv (student, grade_id, points, comment), in ``out`` or ``folder``, go over
    those of the tests.

    Raises:
        ValueError: nothing to mark, a source that doesn't pass its own tests, or walls that this
            machine lacks without ``no_isolation``.
        OSError: ``out`` cannot be written, or another grading writes into it.
    """
    from .feedback import write_pages

    folder, out = Path(folder), Path(out)
    if not folder.is_dir():
        raise ValueError(f"folder={folder} is not a folder; unpack the returned notebooks first.")
    path = find_assignment(Path(source), assignment, folder)
    work = read_source(path, read_notebook(path))
    submissions = find_submissions(folder, work, out)
    walls = choose_walls(no_isolation, say)
    results = out / "results"
    make_folder(results)
    try:
        results.chmod(0o700)  # nobody else's business, student code's least of all
    except OSError as error:
        raise write_error(results, error) from None
    manual = read_manual([folder / "manual.csv", out / "manual.csv"], work)

    with exclusive_lock(results, f"out={out}"):
        _remove_unfinished(out, submissions)
        keys = {s.student: _key(path, s, limits, walls) for s in submissions}
        done = {s.student: _stored(results, s.student, keys[s.student]) for s in submissions}
        todo = [s for s in submissions if done[s.student] is None]
        before = len(submissions) - len(todo)
        say(f"{path.stem}: {len(submissions)} students, {before} marked before.")

        def keep(result: dict) -> None:
            result |= {"key": keys[result["student"]], "isolation": " ".join(walls) or "none"}
            _store(results, result)
            done[result["student"]] = result

        if todo:
            _mark_all(work, todo, [path.parent, folder, out], walls, limits, jobs, keep)
        marked = [done[s.student] for s in submissions]
        for result in marked:
            _merge(result, manual)
            result["look"] = _twins(result, marked)
        for student in sorted({student for student, _ in manual} - set(done)):
            say(f'manual.csv has points for "{student}", and nobody here is called that.')
        write_marks(out / "marks.csv", work, marked)
        write_pages(out, work, marked)
    return marked


def _mark_all(
    work: Assignment, todo: list[Submission], hidden: list[Path], walls: list[str], limits: Limits,
    jobs: int | None, keep: Callable[[dict], None],
) -> None:  # fmt: skip
    """Mark these submissions, and hand each result to ``keep`` at once."""
    from tqdm.auto import tqdm

    jobs = min(jobs or os.cpu_count() or 1, len(todo))
    modules = imports_of(work)
    with Helper(walls, modules, hidden, jobs + 1) as helper, ThreadPoolExecutor(jobs) as pool:
        check_assignment(work, helper, limits)
        slots = list(range(1, jobs + 1))  # each a user of its own; list.pop is atomic

        def one(submission: Submission) -> None:
            slot = slots.pop()
            try:
                result = mark(work, submission, helper, limits, slot)
            finally:
                slots.append(slot)
            keep(result)

        waiting = [pool.submit(one, s) for s in todo]
        try:
            for future in tqdm(as_completed(waiting), total=len(waiting), unit="notebook"):
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def choose_walls(no_isolation: bool, say: Callable[[str], None]) -> list[str]:
    """The walls to use; says which this machine lacks, and what that means.

    Raises:
        ValueError: walls that matter are lacking, and ``no_isolation`` was not given.
    """
    if sys.platform != "linux":
        if not no_isolation:
            raise ValueError(
                "student code is isolated on Linux only (also in WSL 2 or a container); give "
                "--no-isolation to run it here with your own rights."
            )
        if not hasattr(os, "fork"):
            raise ValueError(
                "grading needs a system that can fork; on Windows use WSL 2, also with "
                "--no-isolation."
            )
        say("No isolation: student code runs with your rights, reads your files, uses the network.")
        return []
    walls = [] if no_isolation else _sandbox.available_walls()
    if no_isolation:
        say("No isolation, as asked: student code runs with your rights and reads your files.")
        return ["limits"]
    for wall, what in _sandbox.WALLS.items():
        if wall in walls:
            continue
        say(f"This machine lacks {what}: {_sandbox.WITHOUT[wall]}.")
    if "files" not in walls and "user" not in walls:
        raise ValueError(
            "this machine lets the grader build no walls around files, so student code could read "
            "the hidden tests and change marks; grade as root or where user namespaces are "
            "allowed, or give --no-isolation."
        )
    if len(walls) == len(_sandbox.WALLS):
        say("Isolation: " + ", ".join(_sandbox.WALLS.values()) + ".")
    return walls


def _key(source: Path, submission: Submission, limits: Limits, walls: list[str]) -> str:
    from sff_teach import __version__

    digest = hashlib.sha256(f"{VERSION} {__version__} {limits} {walls}".encode())
    digest.update(hashlib.sha256(source.read_bytes()).digest())
    digest.update(submission.problem.encode())
    if submission.path is not None:
        digest.update(submission.path.read_bytes())
    return digest.hexdigest()


def _file(results: Path, student: str) -> Path:
    return results / f"{student}.json"


def _stored(results: Path, student: str, key: str) -> dict | None:
    """The result of an earlier run, if it is whole and of the same notebook and source."""
    try:
        result = json.loads(_file(results, student).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) and result.get("key") == key else None


def _store(results: Path, result: dict) -> None:
    text = json.dumps(result, indent=1, ensure_ascii=False)
    atomic_write(_file(results, result["student"]), lambda file: file.write(text.encode()))


def _remove_unfinished(out: Path, submissions: list[Submission]) -> None:
    """What a grading that was killed had begun to write."""
    students = [s.student for s in submissions]
    remove_partial_files(
        *(out / name for name in ("marks.csv", "by_hand.html", "manual-todo.csv")),
        *(_file(out / "results", student) for student in students),
        *(out / "feedback" / f"{student}.html" for student in students),
    )


def read_manual(paths: Iterable[Path], assignment: Assignment) -> dict[tuple[str, str], dict]:
    """Points given by hand: (student, grade_id) → points and comment.

    Raises:
        ValueError: a column is missing, a grade id is unknown, or points are no number in range.
    """
    known = {c.grade_id: c.points for c in assignment.cells if c.kind in ("test", "by hand")}
    manual = {}
    for path in paths:
        if not path.is_file():
            continue
        names, rows = read_table(path)
        lacking = {"student", "grade_id", "points"} - set(names)
        if lacking:
            raise ValueError(
                f"{path} has no column {sorted(lacking)[0]}; its columns are student, "
                "grade_id, points, comment."
            )
        for number, row in enumerate(rows, 2):
            grade_id, text = row["grade_id"].strip(), row["points"].strip()
            if not grade_id and not text:
                continue  # an empty line
            if grade_id not in known:
                raise ValueError(
                    f'{path}, line {number}: unknown grade id "{grade_id}"; known: '
                    f"{', '.join(known)}."
                )
            if not text:
                continue  # not marked yet
            try:
                points = float(text.replace(",", "."))
            except ValueError:
                points = float("nan")
            if not 0 <= points <= known[grade_id]:
                raise ValueError(
                    f'{path}, line {number}: points "{text}"; give a number from 0 to '
                    f"{known[grade_id]:g}."
                )
            student = unicodedata.normalize("NFC", row["student"].strip())
            manual[student, grade_id] = {
                "points": points,
                "comment": row.get("comment", "").strip(),
            }
    return manual


def _merge(result: dict, manual: dict) -> None:
    for grade_id, task in result["tasks"].items():
        entry = manual.get((result["student"], grade_id))
        if entry:
            task |= entry
            task["by_hand"] = True


def _twins(result: dict, marked: list[dict]) -> list[str]:
    """A line for the teacher where the notebooks of several students carry one id."""
    own = result["id"].casefold()
    names = [r["student"] for r in marked if r is not result and own and r["id"].casefold() == own]
    if not names:
        return []
    return [f'The notebook carries the STUDENT_ID "{result["id"]}", as does that of {names[0]}.']


def write_marks(path: Path, assignment: Assignment, marked: list[dict]) -> None:
    """One row per student: the sum, each task, what waits for the teacher, what was repaired."""
    ids = [c.grade_id for c in assignment.cells if c.kind in ("test", "by hand")]
    rows = [
        ["assignment", "student_id", "id in the notebook", "score", "max_score", *ids, BY_HAND,
         "repaired", "caught", "isolation"]
    ]  # fmt: skip
    for result in marked:
        tasks = result["tasks"]
        score = sum(task["points"] or 0 for task in tasks.values())
        rows.append(
            [
                assignment.name,
                result["student"],
                result["id"],
                f"{score:g}",
                f"{sum(task['max'] for task in tasks.values()):g}",
                *("" if tasks[i]["points"] is None else f"{tasks[i]['points']:g}" for i in ids),
                " ".join(i for i in ids if tasks[i]["points"] is None),
                " ".join(result["repaired"]),
                " ".join(result["caught"] + result["look"]),
                result["isolation"],
            ]
        )
    write_table(path, rows)
