"""The judge: runs the tests, and asks the jailed process for answers.

A judge process marks one notebook after another: it lets the jail lay the notebook out and run its
cells, and then runs the instructor's tests itself. The names of answers are proxies here: calling
one sends arrays into the jail and gets arrays back. So a test sees numbers only, and a forged
answer has to be a right one. No process forks: torch is loaded afresh in each jail.
"""

import ast
import builtins
import contextlib
import os
import resource
import secrets
import signal
import threading
import time
from functools import partial
from multiprocessing import parent_process
from pathlib import Path
from traceback import walk_tb
from typing import Any

import numpy as np
import torch

from . import wire
from .jail import Ended, Jail, Rules
from .source import HIDDEN, Assignment, Cell, regions

RESTARTS = 6  # of a jail, for one notebook
TEST = "<a test>"  # as Python calls the file that an error is in
MOST_NOTES = 30
JUDGE_MEMORY = 4 << 30  # bytes that the tests may take
NOTHING = {"answers": {}, "own": {}, "printed": {}, "id": "", "notes": []}


class AnswerError(Exception):
    """What an answer raised, where Python has no exception of that name."""


class Session:
    """A notebook in its jail, started again where its code ends the process.

    Attributes:
        asked: What tests may ask for: the names that answers and adapters define.
        layout: What `returned.choose` made of the notebook, once the jail has told it.
        notes: What stopped while the cells ran.
    """

    def __init__(self, work: Assignment, rules: Rules, student: str, files: list[Path]) -> None:
        self.rules = rules
        most = wire.MOST_BYTES // 2 // len(files)
        data = [(path.name, np.frombuffer(path.read_bytes()[:most], "uint8")) for path in files]
        self.asked = [name for cell in work.of("answer", "adapter") for name in cell.names]
        self.notebook = {"files": data, "student": student, "skeleton": work.skeleton(),
                         "asked": self.asked}  # fmt: skip
        self.deadline = time.monotonic() + rules.notebook
        self.notes: list[str] = []
        self.layout = NOTHING | {"notes": ["The notebook could not be read within its limits."]}
        self.broken: set[int] = set()  # steps of which only definitions are run
        self.restarts = 0
        self.jail: Jail | None = None

    def _ask(self, request: dict, sent: list) -> Any:
        """Return the reply; a jail that gives none is ended."""
        message = wire.pack(request, sent)
        # float64 and half are as good an answer as float32, where the tests use nothing else
        single = not any("float64" in str(getattr(value, "dtype", "")) for value in sent)
        left = min(3 * self.rules.seconds + 30, self.deadline - time.monotonic())
        try:
            return wire.unpack(self.jail.ask(message, left), [], wire.clean, single)
        except Ended:
            self.close()
            raise
        except Exception:  # bytes of a student's choice
            self.close()
            raise Ended("the answer wrote into the grader's channel") from None

    def ready(self) -> None:
        """Run all cells, if that has not been done since the jail was started.

        Raises:
            Ended: There is no time left, or the process ended too often.
        """
        while self.jail is None:
            if self.restarts >= RESTARTS or time.monotonic() > self.deadline:
                raise Ended("it was not reached: the notebook took too long or ended too often")
            self.restarts += 1
            self.jail = Jail(self.rules)
            self.layout = self._ask(self.notebook, [])
            for number, step in enumerate(self.layout["steps"]):
                broken = number in self.broken
                try:
                    stopped = self._ask({"run": number, "definitions": broken}, [])
                except Ended as ended:
                    what = f"{ended}; only its functions and classes were used."
                    self.notes.append(f"{step['label']}: {what}")
                    self.broken.add(number)
                    break
                if stopped and not step["quiet"] and not broken:
                    self.notes.append(f"{step['label']}: stopped with {stopped}.")

    def call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Ask the jail for ``name(*args, **kwargs)``, as if it ran here."""
        self.ready()
        request = {"call": name, "args": args, "kwargs": kwargs, "grad": torch.is_grad_enabled(),
                   "inference": torch.is_inference_mode_enabled(),
                   "generator": torch.default_generator}  # fmt: skip
        sent: list = []
        value, kind, text, changed = self._ask(request, sent)  # a forged one fails the test
        _put_back(sent, changed)
        if kind:
            raise raised(kind, text)
        return value

    def close(self) -> None:
        """End the jail."""
        if self.jail is not None:
            self.jail.close()
            self.jail = None


def raised(kind: str, text: str) -> Exception:
    """The exception of an answer, as the tests would have met it in one process."""
    error = AnswerError(f"{kind}: {text}")
    known = getattr(builtins, kind, None)
    with contextlib.suppress(TypeError):  # it is no class, or wants more than a text
        error = known(text) if issubclass(known, Exception) else error
    error.from_answer = True
    return error


def _put_back(sent: list, changed: dict) -> None:
    """Write what the answer changed into the tests' own tensors, arrays and generators."""
    for number, new in changed.items():
        old = sent[number]
        if isinstance(old, torch.Generator):
            old.set_state(new.get_state())
        elif new.shape == old.shape:
            (old.data if isinstance(old, torch.Tensor) else old)[...] = new


def judge(work: Assignment, session: Session, student: str) -> tuple[dict, dict]:
    """Run every test against the answers in the jail.

    The hidden part of a test runs with a ``seed`` that nobody can know, where the assignment draws
    its numbers from one.

    Returns:
        Why each test failed, or None, by grade id; and the line of the leaderboard, which the
        hidden part of a test calls ``entry``.
    """
    names: dict[str, Any] = {"__name__": "__main__", "STUDENT_ID": student}
    names |= {name: partial(session.call, name) for name in session.asked}
    outcome: dict[str, str | None] = {}
    entry: dict[str, float] = {}
    for cell in work.cells:
        if cell.kind == "given":
            exec(compile(cell.source, f"<{cell.grade_id}>", "exec"), names)
        elif cell.kind == "test":
            space = dict(names)
            outcome[cell.grade_id] = _run_test(cell, space, session)
            entry |= space.get("entry", {})
    return outcome, entry


def _late(*_: object) -> None:
    raise TimeoutError("the test took too long")


def _run_test(cell: Cell, names: dict, session: Session) -> str | None:
    """Return why a test failed, or None."""
    hidden, source = False, ""
    try:
        session.ready()
        signal.signal(signal.SIGALRM, _late)
        signal.alarm(max(2, int(session.deadline - time.monotonic()) + 2))
        for hidden, lines in regions(cell.source, HIDDEN):
            source = "\n".join(lines)
            if hidden and isinstance(names.get("seed"), int):
                names["seed"] = secrets.randbits(31)
            exec(compile(source, TEST, "exec"), names)
    except Ended as ended:
        return str(ended)
    except Exception as error:
        return wire.clean(_explain(error, "" if hidden else source), 600)
    finally:
        signal.alarm(0)
    return None


def _explain(error: Exception, visible: str) -> str:
    """Why a test failed, in words for the student, who knows what is ``visible`` of it."""
    text, kind = str(error).strip(), type(error).__name__
    if any(isinstance(e, NotImplementedError) and not str(e) for e in (error, error.__cause__)):
        return "There is no answer yet."
    if isinstance(error, AnswerError) or (isinstance(error, AssertionError) and text):
        return text
    if isinstance(error, AssertionError) and not hasattr(error, "from_answer"):
        if not visible:
            return "It does not hold for other numbers than those in the visible tests."
        at = [n for f, n in walk_tb(error.__traceback__) if f.f_code.co_filename == TEST]
        for node in ast.walk(ast.parse(visible)):
            if isinstance(node, ast.Assert) and node.lineno <= at[-1] <= node.end_lineno:
                return f"This does not hold: {ast.unparse(node.test)}"
    return f"{kind}: {text}" if text else kind


def mark(work: Assignment, rules: Rules, student: str, files: list[Path]) -> dict:
    """Mark one notebook.

    Args:
        work: The instructor's.
        rules: Of the jail.
        student: The key.
        files: Notebooks and archives of notebooks, the newest first.
    """
    outcome, entry = {}, {}
    with contextlib.closing(Session(work, rules, student, files)) as session:
        with contextlib.suppress(Ended):
            session.ready()
        if session.layout["answers"]:
            outcome, entry = judge(work, session, student)
    return _result(work, student, session.layout, outcome, session.notes, entry)


def not_marked(work: Assignment, student: str, why: str) -> dict:
    """The result of a student who has no points for a reason that no test has found."""
    why = wire.clean(why, 400)
    outcome = {cell.grade_id: why for cell in work.of("test", "by hand")}
    return _result(work, student, NOTHING, outcome, [why], {})


def _result(
    work: Assignment, student: str, layout: dict, outcome: dict, notes: list[str], entry: dict
) -> dict:
    """What is stored of a student; all texts are clean, by `Session` or here."""
    tasks, above = {}, ""
    for place, cell in enumerate(work.cells):
        task = {"points": None, "max": cell.points, "error": None}
        if cell.kind == "test":
            error = outcome.get(cell.grade_id, "No answer was found.")
            tasks[cell.grade_id] = task | {"points": 0 if error else cell.points, "error": error}
        elif cell.kind == "by hand":
            tasks[cell.grade_id] = task | {"printed": above}
        elif cell.code:
            above = layout["printed"].get(place, "")
    notes = [wire.clean(note, 400) for note in layout["notes"] + notes]
    return {
        "student": student,
        "notes": list(dict.fromkeys(notes))[:MOST_NOTES],
        "id": layout["id"],
        "tasks": tasks,
        "entry": entry,
        "answers": layout["answers"],
        "own": layout["own"],
        "printed": "".join(layout["printed"].values())[:5_000],
    }


def prepare() -> None:
    """Limit a judge process before its first notebook, and end it when the grader is killed."""
    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what tests print is for students
    threading.Thread(target=_end_with_the_grader, daemon=True).start()
    resource.setrlimit(resource.RLIMIT_DATA, (JUDGE_MEMORY, JUDGE_MEMORY))


def _end_with_the_grader() -> None:
    parent_process().join()
    os._exit(1)
