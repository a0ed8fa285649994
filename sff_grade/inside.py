"""What runs inside the jail: the cells of one notebook, and then the calls that tests ask for.

It knows the students' copy of the assignment and nothing else: no hidden test, no expected value.
Requests come on the standard input and answers leave on the standard output, see `wire`. Whatever
students' code does to this process, it can only change the answers that it sends.
"""

from __future__ import annotations
import __future__

import ast
import asyncio
import builtins
import contextlib
import json
import linecache
import os
import resource
import signal
import struct
import sys
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

    def __init__(self, request: dict, arrays: list, seconds: float) -> None:
        files = [(name, bytes(data)) for name, data in zip(request["files"], arrays)]
        self.layout = returned.choose(request["skeleton"], files)
        self.student = request["student"]
        self.seconds = seconds
        self.names: dict = {"__name__": "__main__", "get_ipython": MagicMock()}
        self.names["display"] = lambda *_, **__: None
        self.kept: dict = {}
        asked = [c for c in request["skeleton"] if c["kind"] in ("answer", "adapter")]
        self.asked = {name for cell in asked for name in cell["names"]}

    def run(self, number: int, definitions: bool) -> dict | None:
        """Run a step; return what stopped it, if anything did.

        A line that stops costs that line: what stands below it is run all the same.
        """
        step = self.layout["steps"][number]
        label = f"<{step['label']}>"
        before = dict(self.names)
        try:
            with time_limit(self.seconds):
                stopped = self._run(step, label, definitions or step["definitions"])
        except Late as error:
            stopped = self.told(error, label)
        new = {k: v for k, v in self.names.items() if k not in before or before[k] is not v}
        if step["kind"] != "own":
            given = step["kind"] == "given"
            self.kept |= {k: v for k, v in new.items() if given or k in self.asked}
        if self.student is not None and "STUDENT_ID" in self.names:
            self.names["STUDENT_ID"] = self.student
        return stopped

    def _run(self, step: dict, label: str, definitions: bool) -> dict | None:
        source = returned.python_of(step["source"])
        linecache.cache[label] = (len(source), None, source.splitlines(keepends=True), label)
        flags, stopped = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, None
        try:
            body = ast.parse(source).body
        except BaseException as error:
            return self.told(error, label) | {"line": getattr(error, "lineno", None)}
        for node in body:
            if isinstance(node, ast.ImportFrom) and node.module == "__future__":
                for alias in node.names:
                    flags |= getattr(__future__, alias.name).compiler_flag
            if definitions and not isinstance(node, returned.DEFINITIONS):
                continue
            try:
                code = compile(ast.Module([node], []), label, "exec", flags)
                result = eval(code, self.names)
                if isinstance(result, types.CoroutineType):
                    asyncio.run(result)
            except BaseException as error:
                stopped = stopped or self.told(error, label)
                definitions = definitions or isinstance(error, Late)
        return stopped

    def told(self, error: BaseException, label: str) -> dict:
        """What is said about an error: its type, its text, and the line of the student's cell."""
        if isinstance(error, Late):
            text = f"took longer than {self.seconds:g} s"
            return {"type": "TimeoutError", "text": text, "line": None}
        line, trace = None, error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == label:
                line = trace.tb_lineno
            trace = trace.tb_next
        try:
            text = wire.clean(error, 500)
        except BaseException:
            text = "an error without a text"
        return {"type": type(error).__name__, "text": text, "line": line}

    def call(self, request: dict, arrays: list) -> bytes:
        """Call a function by its name; return the answer's message.

        It holds the value, the error, and by their numbers the arguments that the answer changed;
        the last argument is the state of torch's random numbers.
        """
        made: list = []
        args, kwargs, generator = wire.decode(request["args"], arrays, made)
        self.names |= self.kept
        torch.set_default_dtype(torch.float32)  # the tests' own, whatever a cell has set
        torch.set_default_device(None)
        torch.default_generator.set_state(generator.get_state())
        inference, grad = request["inference"], request["grad"]
        try:
            if request["name"] not in self.names:
                raise NameError(f"name '{request['name']}' is not defined")
            grad_mode = torch.set_grad_enabled(grad and not inference)
            with time_limit(self.seconds), torch.inference_mode(inference), grad_mode:
                value = self.names[request["name"]](*args, **kwargs)
            out: list = []
            wire.pack(wire.encode(value, out, []), out)  # what cannot be sent is this call's error
            error = None
        except BaseException as raised:
            value, error = None, self.told(raised, "")
        generator.set_state(torch.default_generator.get_state())
        changed = {n: v for n, (v, sent) in enumerate(zip(made, arrays)) if _changed(v, sent)}
        out = []
        return wire.pack(wire.encode([value, error, changed], out, []), out)


def _changed(value, sent) -> bool:
    data = value.get_state() if isinstance(value, torch.Generator) else value
    data = data.detach().numpy() if isinstance(data, torch.Tensor) else data
    return data.shape != sent.shape or data.tobytes() != sent.tobytes()


def main() -> None:
    settings = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    lower_limits(settings)
    channel_in, channel_out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    builtins.input = lambda *_: ""
    for name in ("google", "google.colab"):
        sys.modules[name] = MagicMock()
    notebook = None
    while head := channel_in.read(4):
        request, arrays = wire.unpack(channel_in.read(struct.unpack("<I", head)[0]))
        if "args" in request:
            answer = notebook.call(request, arrays)
        elif "run" in request:
            answer = wire.pack(notebook.run(request["run"], request["definitions"]))
        else:
            notebook = Notebook(request, arrays, settings["seconds"])
            steps = [step | {"source": ""} for step in notebook.layout["steps"]]
            answer = wire.pack(notebook.layout | {"steps": steps})
        channel_out.write(answer)
        channel_out.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
