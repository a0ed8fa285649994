"""What runs inside the jail: the cells of one notebook, and then the calls that tests ask for.

It knows the students' copy of the assignment and nothing else: no hidden test, no expected value.
Requests come on the standard input and answers leave on the standard output, see `wire`. Whatever
students' code does to this process, it can only change the answers that it sends.
"""

import ast
import asyncio
import builtins
import codeop
import contextlib
import json
import linecache
import os
import resource
import signal
import struct
import sys
import traceback
import types
from unittest.mock import MagicMock

import returned  # the folder of this file is on the path
import torch
import wire


def lower_limits(settings: dict) -> None:
    """Set what students' code may use, on top of what torch has taken, and give up root."""
    with open("/proc/self/statm") as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    limits = {"AS": mapped + settings["memory"], "CPU": settings["cpu"], "CORE": 0, "NOFILE": 256,
              "FSIZE": 64 << 20, "NPROC": settings["processes"]}  # fmt: skip
    for name, most in limits.items():
        if most is not None:
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))
    if settings["user"]:
        os.setgroups([])
        os.setgid(settings["user"])
        os.setuid(settings["user"])


class Late(BaseException):
    """A cell or a call has used up its time; few students catch this by accident."""


def _late(*_: object) -> None:
    raise Late


@contextlib.contextmanager
def time_limit(seconds: float):
    """Raise `Late` after so many seconds of computing, and again and again after that."""
    signal.signal(signal.SIGPROF, _late)
    signal.setitimer(signal.ITIMER_PROF, seconds, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


class Notebook:
    """The student's names, and the cells that made them.

    Attributes:
        names: What cells define.
        kept: What the instructor's cells and the answers defined; it is put back before each call,
            because a later cell may use a name anew.
    """

    def __init__(self, request: dict, seconds: float) -> None:
        files = [(name, data.tobytes()) for name, data in request["files"]]
        self.layout = returned.choose(request["skeleton"], files)
        self.student = request["student"]
        self.seconds = seconds
        self.names: dict = {"__name__": "__main__"}
        self.names |= {"get_ipython": MagicMock(), "display": MagicMock()}
        self.kept: dict = {}
        self.asked = request["asked"]

    def run(self, number: int, definitions: bool) -> str | None:
        """Run a step; return what stopped it, if anything did.

        A line that stops costs that line: what stands below it is run all the same.
        """
        step = self.layout["steps"][number]
        label, kind = f"<{step['label']}>", step["kind"]
        before = dict(self.names)
        try:
            with time_limit(self.seconds):
                stopped = self._run(step["source"], label, definitions or step["definitions"])
        except BaseException as error:
            stopped = self.told(error, label)
        for name, value in self.names.items():
            known = before.get(name, before) is value
            if not known and (kind == "given" or (kind == "answer" and name in self.asked)):
                self.kept[name] = value
        if "STUDENT_ID" in self.names:
            self.names["STUDENT_ID"] = self.student
        if stopped is None:
            return None
        kind, text, line = stopped
        said = ": ".join(filter(None, (kind, text.partition("\n")[0][:200])))
        return f"{said}, line {line}" if line else said

    def _run(self, source: str, label: str, definitions: bool) -> tuple | None:
        source = returned.python_of(source)
        linecache.cache[label] = (len(source), None, source.splitlines(keepends=True), label)
        compiler, stopped = codeop.Compile(), None  # remembers ``from __future__ import …``
        compiler.flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        for node in ast.parse(source, label).body:
            if definitions and not isinstance(node, returned.DEFINITIONS):
                continue
            try:
                result = eval(compiler(ast.Module([node], []), label, "exec"), self.names)
                if isinstance(result, types.CoroutineType):
                    asyncio.run(result)
            except BaseException as error:
                stopped = stopped or self.told(error, label)
                definitions = definitions or isinstance(error, Late)
        return stopped

    def told(self, error: BaseException, label: str = "") -> tuple[str, str, int | None]:
        """What is said about an error: its type, its text, and the line of the student's cell."""
        if isinstance(error, Late):
            return "TimeoutError", f"took longer than {self.seconds:g} s", None
        frames = traceback.walk_tb(error.__traceback__)
        lines = [line for frame, line in frames if frame.f_code.co_filename == label]
        try:
            text = wire.clean(error, 500)
        except BaseException:
            text = "an error without a text"
        return type(error).__name__, text, lines[-1] if lines else None

    def call(self, request: dict, made: list) -> tuple:
        """Call a function by its name; return its value, or the type and text of its error.

        With them go, by their numbers, the arguments that the call has changed, and the state of
        torch's random numbers.
        """
        before = [wire.as_array(value).tobytes() for value in made]
        self.names |= self.kept
        torch.set_default_dtype(torch.float32)  # the tests' own, whatever a cell has set
        torch.set_default_device(None)
        torch.default_generator.set_state(request["generator"].get_state())
        value = kind = text = None
        try:
            if request["call"] not in self.names:
                raise NameError(f"name '{request['call']}' is not defined")
            grad_mode = torch.set_grad_enabled(request["grad"] and not request["inference"])
            with time_limit(self.seconds), torch.inference_mode(request["inference"]), grad_mode:
                value = self.names[request["call"]](*request["args"], **request["kwargs"])
            wire.pack(value, [])  # what cannot be sent is this call's error
        except BaseException as error:
            value = None
            kind, text, _ = self.told(error)
        request["generator"].set_state(torch.default_generator.get_state())
        after = [wire.as_array(value).tobytes() for value in made]
        changed = {n: made[n] for n in range(len(made)) if after[n] != before[n]}
        return value, kind, text, changed


def main() -> None:
    settings = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    lower_limits(settings)
    channel_in, channel_out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    builtins.input = lambda *_: ""
    sys.modules |= {name: MagicMock() for name in ("google", "google.colab")}
    notebook = None
    while head := channel_in.read(4):
        made: list = []
        request = wire.unpack(channel_in.read(struct.unpack("<I", head)[0]), made)
        if "call" in request:
            answer = notebook.call(request, made)
        elif "run" in request:
            answer = notebook.run(request["run"], request["definitions"])
        else:
            notebook = Notebook(request, settings["seconds"])
            answer = notebook.layout
        channel_out.write(wire.pack(answer, []))
        channel_out.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
