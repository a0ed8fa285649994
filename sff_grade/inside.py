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
import sys
import types

import returned  # the folder of this file is on the path
import wire

FLAGS = {name: getattr(__future__, name).compiler_flag for name in __future__.all_feature_names}


def lower_limits(settings: dict) -> None:
    """Give up root and set what can be set before torch is there."""
    processes = settings["processes"]
    limits = [
        (resource.RLIMIT_FSIZE, 64 << 20),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_CPU, settings["cpu"]),
        *([(resource.RLIMIT_NPROC, processes)] if processes else []),
    ]
    for what, most in limits:
        resource.setrlimit(what, (most, most))
    if settings["user"]:
        os.setgroups([])
        os.setgid(settings["user"])
        os.setuid(settings["user"])


def limit_memory(memory: int) -> None:
    """Allow so many bytes on top of what torch has mapped."""
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + memory, size + memory))


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


def told(error: BaseException, label: str, seconds: float) -> dict:
    """What is said about an error: its type, its text, and the line of the student's cell."""
    if isinstance(error, Late):
        return {"type": "TimeoutError", "text": f"took longer than {seconds:g} s", "line": None}
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == label:
            line = trace.tb_lineno
        trace = trace.tb_next
    return {"type": type(error).__name__, "text": _message(error), "line": line}


def _message(error: BaseException) -> str:
    try:
        return wire.clean(error, 500)
    except BaseException:
        return "an error without a text"


class Notebook:
    """The student's names, and the cells that made them.

    Attributes:
        names: What cells define.
        given: What the instructor's cells defined; it is put back before each call.
        answers: What answer cells defined, put back as well: a later cell may use the name anew.
    """

    def __init__(self, skeleton: list[dict], files: list, student: str | None) -> None:
        self.layout, self.layout["notes"] = self._chosen(skeleton, files)
        self.student = student
        self.names: dict = {"__name__": "__main__", "get_ipython": lambda: _Quiet("ipython")}
        self.names["display"] = lambda *_, **__: None
        self.given: dict = {}
        self.answers: dict = {}
        self.asked = {n for c in skeleton if c["kind"] in ("answer", "adapter") for n in c["names"]}

    @staticmethod
    def _chosen(skeleton: list[dict], files: list) -> tuple[dict, list[str]]:
        layout, notes = returned.choose(skeleton, files)
        return layout, [*notes, *layout["notes"]]

    def run(self, number: int, definitions: bool, seconds: float) -> dict | None:
        """Run a step; return what stopped it, if anything did.

        A line that stops costs that line: what stands below it is run all the same.
        """
        step = self.layout["steps"][number]
        label = f"<{step['label']}>"
        before = dict(self.names)
        try:
            with time_limit(seconds):
                stopped = self._run(step, label, definitions or step.get("definitions"), seconds)
        except Late as error:
            stopped = told(error, label, seconds)
        new = {k: v for k, v in self.names.items() if k not in before or before[k] is not v}
        if step["kind"] == "given":
            self.given |= new
        elif step["kind"] in ("answer", "adapter"):
            self.answers |= {k: v for k, v in new.items() if k in self.asked}
        if self.student is not None and "STUDENT_ID" in self.names:
            self.names["STUDENT_ID"] = self.student
        return stopped

    def _run(self, step: dict, label: str, definitions: bool, seconds: float) -> dict | None:
        source = returned.python_of(step["source"])
        linecache.cache[label] = (len(source), None, source.splitlines(keepends=True), label)
        flags, stopped = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, None
        try:
            body = ast.parse(source).body
        except BaseException as error:
            return {"type": type(error).__name__, "text": _message(error),
                    "line": getattr(error, "lineno", None)}  # fmt: skip
        for node in body:
            if isinstance(node, ast.ImportFrom) and node.module == "__future__":
                for alias in node.names:
                    flags |= FLAGS.get(alias.name, 0)
            if definitions and not isinstance(node, returned.DEFINITIONS):
                continue
            try:
                code = compile(ast.Module([node], []), label, "exec", flags)
                result = eval(code, self.names)
                if isinstance(result, types.CoroutineType):
                    asyncio.run(result)
            except BaseException as error:
                stopped = stopped or told(error, label, seconds)
                definitions = definitions or isinstance(error, Late)
        return stopped

    def call(self, request: dict, arrays: list, seconds: float) -> dict:
        """Call a function by its name; arguments that it changes are sent back."""
        import torch

        made: dict = {}
        args, kwargs = wire.decode(request["args"], arrays, made)
        self.names |= {**self.given, **self.answers}
        torch.set_default_dtype(torch.float32)  # the tests' own, whatever a cell has set
        torch.set_default_device(None)
        torch.set_rng_state(torch.from_numpy(arrays[request["rng"]].copy()))
        reply: dict = {"value": None, "error": None}
        label = ""
        try:
            function = self.names[request["name"]]
            label = getattr(getattr(function, "__code__", None), "co_filename", "")
            with time_limit(seconds), torch.inference_mode(request["inference"]):
                grad = torch.enable_grad if request["grad"] else torch.no_grad
                with grad() if not request["inference"] else contextlib.nullcontext():
                    reply["value"] = function(*args, **kwargs)
            wire.pack(reply["value"])  # a value that cannot be sent is this call's error
        except KeyError as error:
            missing = request["name"] not in self.names
            reply = {"value": None, "error": told(error, label, seconds)}
            if missing:
                text = f"name '{request['name']}' is not defined"
                reply["error"] = {"type": "NameError", "text": text, "line": None}
        except BaseException as error:
            reply = {"value": None, "error": told(error, label, seconds)}
        reply["rng"] = torch.get_rng_state()
        reply["changed"] = {n: v for n, v in made.items() if _changed(v, arrays[n])}
        return reply


def _changed(value: object, sent) -> bool:
    import torch

    if isinstance(value, torch.Generator):
        value = value.get_state()
    data = value.detach()
    return tuple(data.shape) != sent.shape or data.numpy().tobytes() != sent.tobytes()


class _Quiet:
    """Stands for IPython, Colab and the like: whatever is asked of it does nothing."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __getattr__(self, name: str) -> _Quiet:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Quiet(name)

    def __call__(self, *_: object, **__: object) -> None:
        return None


def furnish() -> None:
    """What notebooks expect of Jupyter and Colab."""
    builtins.input = lambda *_: ""
    for name in ("google", "google.colab"):
        module = types.ModuleType(name)
        module.__getattr__ = _Quiet(name).__getattr__
        module.__path__ = []
        sys.modules[name] = module


def main() -> None:
    settings = json.loads(sys.argv[1])
    lower_limits(settings)
    channel_in, channel_out = os.fdopen(os.dup(0), "rb"), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    furnish()
    notebook = None
    while (body := wire.read(channel_in)) is not None:
        tree, arrays = wire.unpack(body)
        plain = False  # what is said about cells is JSON as it is
        if "args" in tree:
            answer = notebook.call(tree, arrays, settings["seconds"])
        elif "run" in tree:
            if "torch" not in sys.modules:
                import torch

                torch.set_num_threads(1)
                limit_memory(settings["memory"])
            stopped = notebook.run(tree["run"], tree["definitions"], settings["seconds"])
            answer = {"stopped": stopped}
            plain = True
        else:
            files = [(name, bytes(arrays[n])) for name, n in tree["files"]]
            notebook = Notebook(tree["skeleton"], files, tree["student"])
            answer = {"layout": notebook.layout}
            plain = True
        try:
            data = wire.pack_tree(answer, []) if plain else wire.pack(answer)
        except Exception as error:
            what = {"type": type(error).__name__, "text": "cannot be sent", "line": None}
            data = wire.pack({"value": None, "error": what, "rng": None, "changed": {}})
        wire.send(channel_out, data)
    os._exit(0)


if __name__ == "__main__":
    main()
