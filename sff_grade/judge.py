"""The judge: runs the tests, and asks the jailed process for answers.

A worker process (``python -m sff_grade.judge``) marks one notebook after another: it lays the
notebook out and runs its cells in a jail, and then runs the instructor's tests itself. The names of
answers are proxies here: calling one sends arrays into the jail and gets arrays back. So a test
sees numbers only, and a forged answer has to be a right one. No process forks: torch is loaded
afresh in each jail.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import json
import resource
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from . import wire
from .jail import Ended, Jail, Limits
from .source import Assignment, Cell, read_source

UNASKABLE = "The test hands over something that is no number, text or array; it needs an adapter."
RESTARTS = 6  # of a jail, for one notebook
FORGED = (TypeError, KeyError, ValueError, IndexError, AttributeError, RuntimeError)
JUDGE_MEMORY = 4 << 30  # bytes that the tests of one notebook may take


class AnswerError(Exception):
    """What an answer raised, where Python has no exception of that name."""


class Session:
    """A notebook in its jail, started again where its code ends the process.

    Attributes:
        layout: See `returned.lay_out`.
        notes: What stopped while the cells ran.
    """

    def __init__(self, job: dict, files: list[tuple[str, bytes]]) -> None:
        self.job = job
        self.files = files
        self.limits = Limits(**job["limits"])
        self.deadline = time.monotonic() + self.limits.notebook
        self.notes: list[str] = []
        self.layout: dict = {}
        self.states: dict[int, str] = {}  # of steps: "definitions" or "skipped"
        self.restarts = 0
        self.jail: Jail | None = None

    def _start(self) -> None:
        self.close()
        self.restarts += 1
        secret = [Path(path) for path in self.job["secret"]]
        self.jail = Jail(Path(self.job["room"]), self.limits, secret, self.job["isolated"])
        names, arrays = [], []
        for name, data in self.files:
            names.append([name, len(arrays)])
            arrays.append(torch.frombuffer(bytearray(data), dtype=torch.uint8).numpy()
                          if data else torch.zeros(0, dtype=torch.uint8).numpy())  # fmt: skip
        request = {"files": names, "skeleton": self.job["skeleton"], "student": self.job["id"]}
        answer = self._ask(wire.pack_tree(request, arrays), 60)
        self.layout = answer["layout"]

    def _ask(self, request: bytes, seconds: float) -> Any:
        tree, _ = self.jail.ask(request, max(seconds, 1))
        if not isinstance(tree, dict):
            raise Ended("it wrote into the grader's channel")
        return tree

    def ready(self) -> None:
        """Run all cells, if that has not been done since the jail was started.

        Raises:
            Ended: There is no time left, or the process ended too often.
        """
        while self.jail is None:
            if self.restarts >= RESTARTS or time.monotonic() > self.deadline:
                raise Ended("it was not reached: the notebook took too long or ended too often")
            self._start()
            for number, step in enumerate(self.layout["steps"]):
                try:
                    self._run(number, step)
                except Ended as ended:
                    self._note(step, f"{ended}; only its functions and classes were used")
                    now = self.states.get(number)
                    self.states[number] = "skipped" if now else "definitions"
                    self.close()
                    break

    def _run(self, number: int, step: dict) -> None:
        state = self.states.get(number)
        if state == "skipped":
            return
        left = self.deadline - self.limits.notebook / 3 - time.monotonic()
        request = {"run": number, "definitions": bool(state) or left < 0}
        seconds = 3 * self.limits.seconds + 10
        if step["kind"] == "own" and left > 0:
            seconds = min(seconds, left + 1)
        stopped = self._ask(wire.pack_tree(request, []), seconds).get("stopped")
        if stopped and not step["quiet"] and not state:
            at = f", line {stopped['line']}" if stopped["line"] else ""
            first = (stopped["text"].splitlines() or [""])[0][:200]
            self._note(step, f"stopped with {stopped['type']}: {first}{at}")

    def _note(self, step: dict, text: str) -> None:
        note = wire.clean(f"{step['label']}: {text}.", 400)
        if note not in self.notes and len(self.notes) < 30:
            self.notes.append(note)

    def call(self, name: str, args: tuple, kwargs: dict) -> Any:
        """Ask the jail for ``name(*args, **kwargs)``, as if it ran here."""
        self.ready()
        arrays: list = []
        sent: list = []
        request = {
            "name": name,
            "args": wire.encode((args, kwargs), arrays, sent),
            "inference": torch.is_inference_mode_enabled(),
            "grad": torch.is_grad_enabled(),
            "rng": len(arrays),
        }
        if '"other"' in json.dumps(request["args"]):
            raise Ended(UNASKABLE)  # numbers only: a test that hands over objects needs an adapter
        arrays.append(torch.get_rng_state().numpy())
        left = min(self.deadline - time.monotonic(), 3 * self.limits.seconds + 10)
        try:
            tree, returned = self.jail.ask(wire.pack_tree(request, arrays), left)
            reply = dict(wire.decode(tree, returned))
            _put_back(sent, reply["changed"])
            if reply["rng"] is not None:
                torch.set_rng_state(reply["rng"])
            error = reply["error"] and raised(reply["error"]["type"], reply["error"]["text"])
            value = reply["value"]
        except Ended:
            self.close()
            raise
        except FORGED:
            self.close()
            raise Ended("the answer wrote into the grader's channel") from None
        if error:
            raise error
        return value if any(array.dtype == "float64" for array in arrays) else _single(value)

    def close(self) -> None:
        """End the jail."""
        if self.jail is not None:
            self.jail.close()
            self.jail = None


def raised(kind: str, text: str) -> Exception:
    """The exception of an answer, as the tests would have met it in one process."""
    known = getattr(builtins, kind, None)
    plain = isinstance(known, type) and issubclass(known, Exception)
    if plain and not issubclass(known, UnicodeError):
        error = known(text)
    else:
        error = AnswerError(f"{kind}: {text}")
    error.from_answer = True
    return error


def _put_back(sent: list, changed: dict) -> None:
    """Write what the answer changed into the tests' own tensors and generators."""
    for number, new in changed.items():
        old = sent[number]
        if isinstance(old, torch.Generator):
            old.set_state(new.get_state())
        elif tuple(new.shape) == tuple(old.shape):
            old.data.copy_(new.data)


def _single(value: Any) -> Any:
    """Numbers in float32, the tests' own type: float64 and half are as good an answer."""
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        grad = value.requires_grad
        return value.detach().float().requires_grad_(grad)
    if isinstance(value, (list, tuple)):
        return type(value)(_single(item) for item in value)
    if isinstance(value, dict):
        return {key: _single(item) for key, item in value.items()}
    return value


# ---------------------------------------------------------------- tests


@contextmanager
def test_time(seconds: float) -> Iterator[None]:
    """Raise TimeoutError after so many seconds by the clock."""

    def late(*_: object) -> None:
        raise TimeoutError(f"the test took longer than {seconds:g} s")

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def judge(
    assignment: Assignment, session: Session, student: str
) -> tuple[dict[str, dict], dict[str, float]]:
    """Run every test against the answers in the jail.

    The hidden part of a test runs with a ``seed`` that nobody can know, where the assignment draws
    its numbers from one.

    Returns:
        grade id → ``{"passed", "error"}``; and the line of the leaderboard, which the hidden part
        of a test calls ``entry``.
    """
    names: dict[str, Any] = {"__name__": "__main__", "STUDENT_ID": student}
    for name in assignment.asked_names:
        names[name] = _proxy(session, name)
    outcome: dict[str, dict] = {}
    entry: dict[str, float] = {}
    for cell in assignment.cells:
        if cell.kind == "given":
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(cell.source, f"<{cell.grade_id}>", "exec"), names)
        elif cell.kind == "test":
            space = dict(names)
            error = _run_test(cell, space, session)
            outcome[cell.grade_id] = {"passed": error is None, "error": error}
            entry |= space.get("entry", {})
    return outcome, entry


def _proxy(session: Session, name: str):
    def ask(*args: Any, **kwargs: Any) -> Any:
        return session.call(name, args, kwargs)

    ask.__name__ = ask.__qualname__ = name
    return ask


def _run_test(cell: Cell, names: dict, session: Session) -> str | None:
    """Return why a test failed, or None."""
    label = f"<{cell.grade_id}>"
    is_hidden = False
    try:
        session.ready()
        with test_time(session.deadline - time.monotonic()):
            for is_hidden, source in cell.parts:
                if is_hidden and isinstance(names.get("seed"), int):
                    names["seed"] = secrets.randbits(31)
                with contextlib.redirect_stdout(io.StringIO()):
                    exec(compile(source, label, "exec"), names)
    except Ended as ended:
        return str(ended)
    except Exception as error:
        return wire.clean(_explain(cell, error, is_hidden, label), 600)
    return None


def _explain(cell: Cell, error: Exception, is_hidden: bool, label: str) -> str:
    """Why a test failed, in words for the student."""
    text = str(error).strip()
    for cause in (error, error.__cause__):
        if isinstance(cause, NotImplementedError) and not str(cause):
            return "There is no answer yet."
    if getattr(error, "from_answer", False):
        kind = "" if isinstance(error, AnswerError) else f"{type(error).__name__}: "
        return f"{kind}{text}" if text else kind.rstrip(": ")
    if isinstance(error, AssertionError):
        if text:
            return text
        if is_hidden:
            return "It does not hold for other numbers than those in the visible tests."
        lines = [
            frame.tb_lineno
            for frame in _frames(error)
            if frame.tb_frame.f_code.co_filename == label
        ]
        return f"This does not hold: {cell.source.splitlines()[lines[-1] - 1].strip()}"
    if isinstance(error, (MemoryError, TimeoutError)):
        return f"The test could not work with what was returned ({type(error).__name__})."
    return f"{type(error).__name__}: {text}"


def _frames(error: BaseException) -> Iterator:
    trace = error.__traceback__
    while trace is not None:
        yield trace
        trace = trace.tb_next


# ---------------------------------------------------------------- one notebook


def mark(assignment: Assignment, job: dict) -> dict:
    """Mark one notebook.

    Args:
        assignment: The instructor's.
        job: ``student``, ``id`` (what STUDENT_ID is set to), ``files``, and what `Jail` needs.

    Returns:
        ``tasks`` by grade id, ``notes``, ``answers``, and the ``id`` that stood in the notebook.
    """
    files = [(Path(path).name, Path(path).read_bytes()[: wire.MOST_BYTES]) for path in job["files"]]
    session = Session(job, files)
    notes = []
    try:
        with contextlib.suppress(Ended):
            session.ready()
        layout = session.layout or {"answers": {}, "printed": {}, "notes": [], "id": "", "own": {}}
        if not session.layout:
            notes.append("The notebook could not be read within its limits.")
        if layout.get("answered") or (layout.get("steps") and layout["answers"]):
            outcome, entry = judge(assignment, session, job["id"] or job["student"])
        else:
            outcome, entry = {}, {}
    finally:
        session.close()
    notes += [wire.clean(note, 400) for note in layout["notes"]] + session.notes
    return {
        "student": job["student"],
        "notes": list(dict.fromkeys(notes)),
        "id": wire.clean(layout["id"], 200),
        "tasks": _tasks(assignment, layout, outcome),
        "entry": entry,
        "answers": {
            assignment.cells[int(i)].grade_id: [wire.clean(text, 20_000) for text in texts]
            for i, texts in layout["answers"].items()
            if assignment.cells[int(i)].kind == "answer"
        },
        "own": {
            place: [wire.clean(text, 20_000) for text in texts]
            for place, texts in layout["own"].items()
        },
        "printed": wire.clean("".join(layout["printed"].values()), 5_000),
    }


def _tasks(assignment: Assignment, layout: dict, outcome: dict) -> dict[str, dict]:
    tasks = {}
    for i, cell in enumerate(assignment.cells):
        if cell.kind == "test":
            test = outcome.get(cell.grade_id) or {"passed": False, "error": "No answer was found."}
            points = cell.points if test["passed"] else 0.0
            tasks[cell.grade_id] = {"points": points, "max": cell.points, "error": test["error"]}
        elif cell.kind == "by hand":
            before = [str(n) for n in range(i) if assignment.cells[n].code]
            tasks[cell.grade_id] = {
                "points": None,
                "max": cell.points,
                "error": None,
                "answer": wire.clean("\n\n".join(layout["answers"].get(str(i), [])), 20_000),
                "printed": wire.clean(
                    layout["printed"].get(before[-1], "") if before else "", 3000
                ),
            }
    return tasks


def main() -> None:
    """Mark what the standard input asks for, a JSON text a line; answer in the same way."""
    channel = sys.stdout
    sys.stdout = sys.stderr
    torch.set_num_threads(1)
    assignment = read_source(Path(sys.argv[1]))
    size = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 0
    if size:
        most = size * resource.getpagesize() + JUDGE_MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for line in sys.stdin:
        channel.write(json.dumps(mark(assignment, json.loads(line))) + "\n")
        channel.flush()


if __name__ == "__main__":
    main()
