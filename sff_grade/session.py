"""What runs a student's code: the grader starts `main` in a process of its own and talks to it.

The helper imports torch once, moves into the room (`_sandbox`), and forks a process for each
notebook that the grader sends. That process runs the cells in order and forks again for each test,
so that a test's end, also a violent one, is no other test's end.

Student code and tests share one Python process, so the student's code must not be able to say that
a test passed. What stands against that, from the outside to the inside:

- a pass counts only with a random word that stands nowhere but in local variables of this file;
- an audit hook (PEP 578), which Python code cannot remove, refuses student code the ways to
  frames, to the garbage collector's lists and to ctypes, so those variables are out of its reach;
- before a test, and whenever student code returns to it, replaced functions of torch, of the
  package, of builtins … and replaced names of the notebook are put back;
- values of a type that decides for itself what it equals are refused;
- every passed test runs once more with the answer's numbers changed, and must fail then.

No test source, no word and no other notebook is ever in the helper itself.
"""

from __future__ import annotations

import builtins
import collections
import contextlib
import functools
import gc
import importlib
import json
import linecache
import os
import resource
import signal
import socket
import sys
import sysconfig
import time
import types
from _thread import get_ident

from . import sandbox as _sandbox

# Modules whose functions tests may use, directly or not. A replaced one is put back.
WATCHED = (
    "builtins", "collections", "copy", "dataclasses", "functools", "inspect", "io", "itertools",
    "json", "math", "operator", "os", "posix", "random", "re", "statistics", "string", "sys",
    "types", "warnings", "_random", "_operator", "_functools", "_collections", "_io",
    "numpy", "torch", "torchvision", "sff_teach",
)  # fmt: skip
HEAVY = ("torch._inductor", "torch._dynamo", "torch.distributed", "torch.onnx", "torch.fx")
# … and these each time that student code returns to the test.
OFTEN = (
    "builtins", "math", "operator", "_operator", "numpy", "torch", "torch._C",
    "torch._C._nn", "torch._tensor", "torch.functional", "torch.nn", "torch.nn.functional",
    "torch.nn.modules.module", "torch.testing", "torch.testing._comparison", "torch.autograd",
)  # fmt: skip
# A value that brings one of these along decides itself what a test sees.
HOOKS = (
    "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__bool__", "__float__", "__int__",
    "__index__", "__len__", "__sub__", "__rsub__", "__abs__", "__array__", "__array_ufunc__",
    "__array_function__", "__torch_function__", "__torch_dispatch__", "__class__", "__format__",
    "__getattribute__", "__instancecheck__", "__contains__", "__iter__",
)  # fmt: skip
HARMLESS = (
    "__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__annotations__",
    "__slots__", "__orig_bases__", "__firstlineno__", "__static_attributes__", "__parameters__",
    "_fields", "_field_defaults", "__match_args__", "__new__", "_make", "_replace", "_asdict",
    "__replace__", "__repr__", "__getnewargs__", "__annotate__", "__annotate_func__",
    "__annotations_cache__",
)  # fmt: skip
EQUAL = ("__eq__", "__ne__", "__lt__", "__gt__", "__le__", "__ge__")
PLAIN = (
    "builtins", "collections", "datetime", "decimal", "enum", "fractions", "numpy", "pandas",
    "scipy", "sff_teach", "sklearn", "torch", "torchvision", "types", "typing",
)  # fmt: skip
# Audit events: refused to student code …
REFUSED = {
    "sys._getframe": "frames", "sys._current_frames": "frames", "sys.settrace": "frames",
    "sys._current_exceptions": "frames", "sys.setprofile": "frames", "code.__new__": "code objects",
    "sys.monitoring.register_callback": "frames", "sys.addaudithook": "audit hooks",
    "gc.get_objects": "the garbage collector's lists", "gc.get_referrers":
    "the garbage collector's lists", "gc.get_referents": "the garbage collector's lists",
    "object.__getattr__": "frames", "object.__setattr__": "code objects", "os.fork": "processes",
    "os.forkpty": "processes", "object.__delattr__": "code objects",
}  # fmt: skip
INNER = ("tb_frame", "gi_frame", "cr_frame", "ag_frame", "__code__", "__defaults__")
# … and told to the teacher; the walls stop them where they lead out of the student's folder.
TOLD = {
    "socket.connect": "tried to reach the network", "socket.getaddrinfo":
    "tried to reach the network", "socket.gethostbyname": "tried to reach the network",
    "socket.bind": "tried to reach the network", "subprocess.Popen": "tried to start a program",
    "os.system": "tried to start a program", "os.exec": "tried to start a program",
    "os.posix_spawn": "tried to start a program", "os.kill": "tried to end a process",
    "os.killpg": "tried to end a process", "open": "tried to open", "os.remove": "tried to delete",
    "os.rmdir": "tried to delete", "shutil.rmtree": "tried to delete",
    "os.rename": "tried to rename", "os.truncate": "tried to change", "os.chmod": "tried to change",
    "os.listdir": "tried to list", "os.scandir": "tried to list",
}  # fmt: skip
FILES = (
    "open", "shutil.rmtree", "os.remove", "os.rmdir", "os.rename", "os.truncate", "os.chmod",
    "os.listdir", "os.scandir",
)  # fmt: skip
# What these modules get, whoever called them gets.
PASS_ON = ("inspect", "traceback", "ctypes", "threading", "pathlib", "shutil", "glob", "os")
HEAP = 1 << 9  # the flag of types that are made while Python runs, and that can be changed
SLOWER = 10  # by the clock code may take this many times its seconds: a busy machine is no fault
OWN_TYPE = "AssertionError: a value of the type {}, which decides what it equals, is no answer"

# Nothing below may be a class, or keep what it needs in a module: student code finds both
# (``object.__subclasses__()``, ``sys.modules``). It cannot find local variables, see `_audit`.
# Built-ins are taken as default values, because student code can replace them.

# ---------------------------------------------------------------- what was there at first


def belongings(names):
    """Two functions: what has changed in these modules and their classes, and one to put it back.

    Only what can be called is held, and numbers such as ``math.pi``: other values change in honest
    work as well.
    """
    loaded = sys.modules
    modules = {n: loaded[n] for n in names if n in loaded}
    kept, seen = [], set()  # (owner, its dict, name → value)

    def keep(owner) -> None:
        if id(owner) in seen:
            return
        seen.add(id(owner))
        held = {
            name: value
            for name, value in vars(owner).items()
            if callable(value)
            or isinstance(value, (float, types.ModuleType, property, classmethod, staticmethod))
        }
        kept.append((owner, vars(owner), held))

    for module in modules.values():
        keep(module)
        for value in list(vars(module).values()):
            if isinstance(value, type) and value.__module__ in modules and value.__flags__ & HEAP:
                keep(value)  # other types are built in; nobody can change them
    # assert_close goes by tables of tolerances, which can't be called
    comparison = vars(sys.modules.get("torch.testing._comparison", types))
    tables = [
        (value, dict(value))
        for name, value in comparison.items()
        if isinstance(value, dict) and name.isupper()
    ]

    missing = object()

    def changes(enumerate=enumerate, dict=dict) -> dict:
        """What differs from what was held: (where, name) → what is there now."""
        found = {}
        for name, module in modules.items():
            if loaded.get(name) is not module:
                found[-1, name] = loaded.get(name, missing)
        for where, (_, now, held) in enumerate(kept):
            for name, value in held.items():
                if now.get(name, missing) is not value:
                    found[where, name] = now.get(name, missing)
        for where, (table, held) in enumerate(tables):
            if table != held:
                found[-2, where] = dict(table)
        return found

    def put_back(
        before=None, set_=setattr, delete=delattr, errors=(AttributeError, TypeError)
    ) -> list[str]:
        """Undo all changes but those that were there ``before``; name what was undone."""
        before, told = before or {}, []
        for (where, name), now in changes().items():
            if (where, name) in before and (
                before[where, name] is now or (where == -2 and before[where, name] == now)
            ):
                continue
            if where == -2:
                table, held = tables[name]
                table.clear()
                table.update(before.get((where, name), held))
                told.append("the tolerances of torch.testing")
                continue
            if where == -1:
                loaded[name] = before.get((where, name), modules[name])
                told.append(name)
                continue
            owner, _, held = kept[where]
            value = before.get((where, name), held[name])
            try:
                if value is missing:
                    delete(owner, name)
                else:
                    set_(owner, name, value)
            except errors:
                continue
            told.append(f"{owner.__name__}.{name}")
        return told

    return changes, put_back


def watched_modules() -> list[str]:
    """The names of all loaded modules that `WATCHED` covers."""
    return [
        name
        for name in sys.modules
        if (name in WATCHED or name.startswith(tuple(f"{w}." for w in WATCHED)))
        and not name.startswith(HEAVY)
        and isinstance(getattr(sys.modules[name], "__dict__", None), dict)
    ]


def modes():
    """Two functions for torch's modes, which reroute its functions: how many, and leave some."""
    import torch
    from torch.utils import _python_dispatch

    functions, pop_function = torch._C._len_torch_function_stack, torch._C._pop_torch_function_stack
    dispatches, pop_dispatch = torch._C._len_torch_dispatch_stack, _python_dispatch._pop_mode

    def count() -> tuple[int, int]:
        return functions(), dispatches()

    def leave(but: tuple[int, int] = (0, 0)) -> list[str]:
        found = []
        while functions() > but[0]:
            pop_function()
            found = ["torch's functions, by a mode"]
        while dispatches() > but[1]:
            pop_dispatch()
            found = ["torch's functions, by a mode"]
        return found

    return count, leave


# ---------------------------------------------------------------- the audit hook


def trusted_places() -> tuple[str, ...]:
    """Where the code lies that is not the student's: the installation and this package."""
    paths = sysconfig.get_paths()
    places = {paths[k] for k in ("stdlib", "platstdlib", "purelib", "platlib")}
    places |= {p for p in sys.path if p.endswith(("site-packages", "dist-packages"))}
    places.add(os.path.dirname(os.path.abspath(__file__)))
    return (*sorted(p + os.sep for p in places), "<frozen ")


def add_audit_hook(
    tell,
    closed,
    folder,
    running,
    *,
    getframe=sys._getframe,
    ident=get_ident,
    starts=str.startswith,
    plain=str.__add__,
    decode=os.fsdecode,
    is_a=isinstance,
    text=str,
    data=bytes,
    error=PermissionError,
    plain_data=bytes.__add__,
    exists=os.stat,
    creates=os.O_CREAT,
    open_=os.open,
    read=os.read,
    close=os.close,
) -> None:
    """Refuse (`REFUSED`) and tell (`TOLD`); see PEP 578.

    ``tell(text)`` reports; ``closed`` are the walls that the kernel doesn't build, so that this has
    to refuse what they would; ``running["student"]``: whether student code may be what runs.
    """
    refused, told, inner, pass_on = dict(REFUSED), dict(TOLD), INNER, PASS_ON
    places = trusted_places()
    readable = (*places, sys.prefix + "/", sys.base_prefix + "/", "/usr/", "/dev/", "/etc/")
    own = (folder + "/", "/tmp/", "/dev/shm/")
    busy: set[int] = set()

    def trusted(frame) -> bool:
        return starts(plain("", frame.f_code.co_filename), places)

    def student_asks(frame) -> bool:
        """Whether a student's frame gets the answer; helpers in between only pass it on."""
        while frame is not None:
            if not trusted(frame):
                return True
            if frame.f_globals.get("__name__") not in pass_on:
                return False
            frame = frame.f_back
        return False

    def disguised(source, name) -> bool:
        """Whether code is compiled under the name of a file of the installation that it isn't."""
        if is_a(name, data):
            name = decode(name)
        if not is_a(name, text):
            return False
        name = plain("", name)
        if not starts(name, places):
            return False
        if is_a(source, text):
            source = plain("", source).encode()
        if not is_a(source, data):
            return True
        source, there = plain_data(b"", source), b""
        try:
            handle = open_(name, 0)  # to read
        except OSError:
            return True
        while more := read(handle, 1 << 20):
            there += more
        close(handle)
        return source != there

    def look(event, args, frame) -> None:
        if event == "compile":
            if disguised(args[0], args[1]):
                tell("tried to pass its code off as a library's")
                raise error("the grader refuses code in disguise")
            return
        what = refused.get(event) or ("ctypes" if starts(event, "ctypes.") else None)
        if what is not None:
            if starts(event, "object.") and args[1] not in inner:
                return
            if event == "sys.setprofile" and running["student"] is None:
                return
            if student_asks(frame):
                tell(f"tried to get at {what}, which the grader refuses")
                raise error(f"the grader gives no access to {what}")
            return
        if not running["student"]:
            return
        if starts(event, "socket."):
            wall, words = "network", told[event]
        elif event in FILES:
            path = args[0]
            if is_a(path, data):
                path = decode(path)
            if not is_a(path, text):
                return
            path = plain(
                "", path
            )  # of a subclass the text alone: its methods would be student code
            if starts(path, own) or path == folder:
                # /tmp is the student's own here, so only what was somewhere else is worth a word
                if event != "open" or starts(path, folder + "/") or args[2] & creates:
                    return
                try:
                    exists(path)
                    return
                except OSError:
                    pass
            if not starts(path, "/") and ".." not in path:
                return
            if event in ("open", "os.listdir", "os.scandir") and starts(path, readable):
                return
            # Libraries look around as well: /proc, settings, caches.
            if not student_asks(frame) and not (frame.f_back and student_asks(frame.f_back)):
                return
            wall, words = "files", f"{told[event]} {path[:200]}"
        else:
            wall, words = "processes", told[event]
        tell(words)
        if wall in closed:
            raise error("the grader does not allow that")

    def hook(event, args) -> None:
        if event in refused or event in told or event == "compile" or starts(event, "ctypes."):
            me = ident()
            if me not in busy:  # what this hook does itself is not looked at
                busy.add(me)
                try:
                    look(event, args, getframe(1))
                finally:
                    busy.discard(me)

    sys.addaudithook(hook)


# ---------------------------------------------------------------- values


def type_checker():
    """A function that names the type of a value, or of one inside it, that could lie to a test.

    These are types that student code made and that either inherit from numbers, tensors and the
    like, or bring methods along that decide what a comparison says.
    """
    import numpy
    import torch

    plain = (
        int, float, complex, str, bytes, list, tuple, dict, set, torch.Tensor, numpy.ndarray,
        numpy.generic,
    )  # fmt: skip
    # Types that were there at first; true: one that says itself what it equals, like mock.ANY.
    known = {
        value: value.__module__.partition(".")[0] not in PLAIN
        and any(n in vars(base) for base in value.__mro__ if base.__flags__ & HEAP for n in EQUAL)
        for module in list(sys.modules.values())
        for value in list(getattr(module, "__dict__", {}).values())
        if isinstance(value, type) and value.__flags__ & HEAP and isinstance(value.__module__, str)
    }

    places, getter = trusted_places(), type(collections.namedtuple("_", "x").x)

    def ours(kind) -> bool:
        return not kind.__flags__ & HEAP or kind in known

    def lies(kind) -> bool:
        meta = type(kind)
        if meta is not type and not ours(meta):
            return True
        if ours(kind):
            return known.get(kind, False)
        own = {
            name: value
            for base in kind.__mro__
            if not ours(base)
            for name, value in vars(base).items()
            if not library(value)
        }
        if issubclass(kind, plain):
            # A named tuple is one, too; nothing of its own stands between a test and its values.
            return any(
                name not in HARMLESS and not isinstance(v, getter) for name, v in own.items()
            )
        return any(name in own for name in HOOKS)

    def library(value) -> bool:
        """Whether this is a function from a file of the installation."""
        code = getattr(value, "__code__", None)
        return isinstance(code, types.CodeType) and code.co_filename.startswith(places)

    def vet(value) -> str | None:
        # Into containers and into what student code made, no deeper; and not for ever.
        waiting, left = [value], 3000
        while waiting and left:
            left -= 1
            value = waiting.pop()
            kind = type(value)
            if lies(kind):
                return kind.__name__
            if issubclass(kind, torch.Tensor):
                # its attributes stand in front of its methods
                if any(callable(v) for v in (getattr(value, "__dict__", None) or {}).values()):
                    return kind.__name__
                continue
            if kind in (list, tuple, set, frozenset):
                waiting += list(value)[:1000]
            elif kind is dict:
                waiting += [*list(value)[:1000], *list(value.values())[:1000]]
            elif not ours(kind) and isinstance(getattr(value, "__dict__", None), dict):
                waiting += list(vars(value).values())[:1000]
        return None

    return vet


def shaken(value):
    """The value with its numbers changed, or None for what has none: no test may find it right."""
    import numpy
    import torch

    kind = type(value)
    if isinstance(value, torch.Tensor):
        if value.is_floating_point() or value.is_complex():
            return value * 1.37 + 0.61
        return ~value if value.dtype == torch.bool else value + 1
    if isinstance(value, (bool, numpy.bool_)):
        return not value
    if isinstance(value, (numpy.ndarray, numpy.generic)):
        return ~value if value.dtype == bool else value + 1
    if kind in (int, float, complex):
        return value + 1 if kind is int else value * 1.37 + 0.61
    if kind is str:
        return value + "?"
    if kind in (list, tuple, torch.Size):
        return (tuple if kind is torch.Size else kind)(shaken(v) for v in value)
    if isinstance(value, tuple):  # a named one
        return kind(*(shaken(v) for v in value))
    if isinstance(value, dict):
        return {k: shaken(v) for k, v in value.items()}
    if value is None:
        return "None"
    return shake(value) if callable(value) else None


def shake(value):
    """A function, or a class's methods, whose results are `shaken`; other values themselves."""
    if isinstance(value, type):
        for name, method in list(vars(value).items()):
            if isinstance(method, types.FunctionType) and not name.startswith("__"):
                setattr(value, name, shake(method))
            elif isinstance(method, property):
                setattr(value, name, property(shake(method.fget)))
        if any("__call__" in vars(base) for base in value.__mro__):
            value.__call__ = shake(value.__call__)
        return value
    if not callable(value):
        return shaken(value)

    def changed(*args, **kwargs):
        return shaken(value(*args, **kwargs))

    return functools.wraps(value)(changed) if isinstance(value, types.FunctionType) else changed


# ---------------------------------------------------------------- one notebook


def stand_ins():
    """Functions that do nothing in place of those that would hand out this file's frames.

    A signal handler gets the running frame, whosever it is. Without an error: libraries set
    handlers as well. They come from a namespace of their own, which leads nowhere.

    Returns ``setitimer``, which they replace, and that namespace.
    """
    import _signal

    nowhere: dict = {}
    exec(
        "def nothing(*args, **kwargs):\n    return None\n"
        "class IPython:\n    run_line_magic = run_cell_magic = system = getoutput = nothing\n"
        "def get_ipython():\n    return IPython\n",
        nowhere,
    )
    timer = _signal.setitimer
    for owner in (signal, _signal):
        for name in ("signal", "setitimer", "siginterrupt", "getsignal"):
            setattr(owner, name, nowhere["nothing"])
    for name in ("getprofile", "gettrace"):
        setattr(sys, name, nowhere["nothing"])
    return timer, nowhere


def run_job(
    job: dict,
    channel: int,
    walls: list[str],
    folder: str,
    put_back,
    vet,
    set_timer,
    nowhere,
    running_cell: list,
) -> None:
    """Run a job's steps and write what happened, a JSON object per line, into ``channel``."""
    import torch

    # All that is used while student code is around is a local name from here on.
    threads, set_threads = torch.get_num_threads, torch.set_num_threads
    write, fork, wait, kill, leave = os.write, os.fork, os.waitpid, os.kill, os._exit
    clock, sleep, compile_, execute, encode = time.monotonic, time.sleep, compile, exec, encoder()
    nohang, sigkill, out_of_time, setprofile, new_group = (
        os.WNOHANG,
        signal.SIGKILL,
        signal.SIGXCPU,
        sys.setprofile,
        os.setpgid,
    )
    steps, own_names, seconds = job["steps"], job["own_names"], job["seconds"]
    changes, put_back_often = belongings([n for n in OFTEN if n in sys.modules])
    alone, places, (count_modes, leave_modes) = "processes" in walls, trusted_places(), modes()
    timer = signal.ITIMER_PROF
    set_limit, cpu = resource.setrlimit, resource.RLIMIT_CPU
    lines_of, starts, module_type, failures = (
        linecache.cache,
        str.startswith,
        types.ModuleType,
        OSError,
    )
    builtins_ = vars(builtins)
    running, in_cell = {"student": False}, running_cell
    in_cell[1] = seconds
    told: list[str] = []

    def send(**event) -> None:
        data = encode(event)
        while data:
            data = data[write(channel, data) :]

    def tell(text: str) -> None:
        if text not in told and len(told) < 20:
            told.append(text)
            send(note=text)

    def describe(error: BaseException) -> str:
        try:
            return f"{type(error).__name__}: {error}"[:600]
        except BaseException:
            return type(error).__name__

    def line_of(error: BaseException, name: str) -> int | None:
        trace, line = error.__traceback__, None
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == name:
                line = trace.tb_lineno
            trace = trace.tb_next
        return line

    namespace: dict = {
        "__name__": "__main__",
        "__builtins__": builtins_,
        "get_ipython": nowhere["get_ipython"],  # cells may talk to IPython; nobody answers here
        "display": nowhere["nothing"],
    }
    given: dict = {}

    def restore(put, before=None, but=(0, 0)) -> list[str]:
        """Put modules, torch's modes and the notebook's given names back."""
        found = put(before) + leave_modes(but)
        for name, value in given.items():
            if namespace.get(name) is not value:
                now = namespace.get(name)
                if callable(now) or isinstance(now, module_type):
                    found.append(name)  # another value is a name used twice, no more
                namespace[name] = value
        namespace["__builtins__"] = builtins_
        return found

    add_audit_hook(tell, tuple({"files", "network", "processes"} - set(walls)), folder, running)

    def judge(step: dict, change: bool) -> None:
        """In a process of its own: run the test and send the verdict."""
        told.clear()
        caught: list[str] = []
        names = dict(namespace)
        bad = [vet(names[name]) for name in own_names if name in names]
        refused = [kind for kind in bad if kind]
        if change:
            for name in own_names:
                if name in names:
                    names[name] = shake(names[name])
        file = step["file"]
        code = compile_(step["source"], file, "exec", optimize=0)

        def is_students(code) -> bool:
            return code.co_filename != file and not starts(code.co_filename, places)

        def lend() -> None:
            """What the test puts in the place of something given, to listen in or to try other
            data, answers see, too; no other name of the test, and so no value that it expects."""
            for name, value in list(given.items()):
                now = names.get(name, value)
                if now is not value:
                    namespace[name] = given[name] = now

        entered: list = []  # the student's call that the test, or a library for it, has made

        def watch(frame, event, value) -> None:
            # The moments at which control goes from the test to student code, and back. What the
            # test itself or a library has replaced for the time of the call stays.
            if event == "call":
                if not entered and is_students(frame.f_code):
                    lend()
                    entered.extend((frame, changes(), count_modes()))
            elif event == "return" and entered and entered[0] is frame:
                _, before, but = entered
                entered.clear()
                caught.extend(restore(put_back_often, before, but))
                kind = vet(value)
                if kind:
                    refused.append(kind)
                    running["student"] = None  # the error ends this very function: no news
                    raise AssertionError(OWN_TYPE.format(kind))

        error, line = None, None
        set_limit(cpu, (seconds, seconds + 1))
        running["student"] = True
        setprofile(watch)
        try:
            execute(code, names)
        except BaseException as problem:
            setprofile(None)
            error, line = describe(problem), line_of(problem, file)
        else:
            setprofile(None)
        if refused:
            error = OWN_TYPE.format(refused[0])
            tell(f"gave a test a value of a type that decides what it equals, {refused[0]}")
        proof = step["words"][2 * change + (error is not None)]
        send(
            verdict=step["at"],
            changed=change,
            proof=proof,
            error=error,
            line=line,
            caught=sorted(set(caught))[:10],
        )

    def test(step: dict, change: bool) -> None:
        """Fork, judge, and wait; then end whatever the test has started."""
        end_others()
        for name in restore(put_back)[:10]:
            tell(f"had replaced {name}; it was put back")
        pid, patience = None, clock() + 3
        while pid is None:
            try:
                pid = fork()
            except failures:  # no more processes: the machine's fault, or that of many threads
                if clock() > patience:
                    send(stuck=step["at"])
                    leave(1)
                sleep(0.05)
        if pid == 0:
            try:
                new_group(0, 0)
                set_threads(threads())
                judge(step, change)
            except BaseException as problem:
                send(verdict=step["at"], changed=change, proof="", error=describe(problem))
            finally:
                leave(0)
        end, pause, ended, late = clock() + SLOWER * seconds, 0.001, False, True
        while not ended and clock() < end:
            number, status = wait(pid, nohang)
            ended = number != 0
            if ended:
                late = status & 0x7F == out_of_time  # the signal that ended it
            else:
                sleep(pause)
                pause = min(2 * pause, 0.02)
        send(judged=step["at"], changed=change, late=late)
        if not ended:
            kill(pid, sigkill)
        end_others(-pid)

    def end_others(group: int = 0) -> None:
        """End what cells or tests have started: everything, where this is the first process."""
        try:
            if alone or group:
                kill(-1 if alone else group, sigkill)
        except failures:  # contextlib could be replaced; this can't
            pass
        try:
            while wait(-1, 0 if alone else nohang)[0]:
                pass
        except failures:
            return  # no child any more

    # After a fork torch renews its threads at first use. Autograd's own threads come to that two at
    # a time and abort; so here and in each test one thread comes first.
    set_threads(threads())
    send(begin=True)  # what ends the process before this is no student's fault
    for step in steps:
        send(start=step["at"])
        if step["kind"] == "test":
            test(step, False)
            if step["changeable"]:
                test(step, True)
            continue
        error, caught, before = None, [], dict(namespace)
        if step["kind"] == "given":
            caught = restore(put_back)
            if job["student_id"] is not None:
                namespace["STUDENT_ID"] = job["student_id"]
            before = dict(namespace)
        running["student"] = step["kind"] == "student"
        name, source = step["file"], step["source"]
        lines_of[name] = (len(source), None, source.splitlines(True), name)
        try:
            in_cell[0] = True
            set_timer(timer, seconds, 0.5)  # and again, if the cell's own "except" takes it
            execute(compile_(source, name, "exec", optimize=0), namespace)
            in_cell[0] = False
        except BaseException as problem:
            in_cell[0] = False
            error = describe(problem)
            memory = isinstance(problem, MemoryError)
        else:
            memory = False
        set_timer(timer, 0)
        running["student"] = False
        if memory:  # what filled it would be in the way of all that follows
            for name in set(namespace) - set(before):
                if not isinstance(namespace[name], (type, types.FunctionType, module_type)):
                    del namespace[name]
        if step["kind"] == "given":
            for name, value in namespace.items():
                if before.get(name, before) is not value and name not in own_names:
                    given[name] = value
        send(done=step["at"], error=error, caught=sorted(set(caught))[:10])
    send(end=True)


def encoder(
    string=json.encoder.encode_basestring_ascii, is_a=isinstance, text=str, many=list, yes=bool
):
    """A function that writes a flat dict as a line of JSON, with nothing that can be replaced."""

    def one(value) -> str:
        if value is None:
            return "null"
        if is_a(value, yes):
            return "true" if value else "false"
        if is_a(value, text):
            return string(value)
        if is_a(value, many):
            return "[" + ", ".join([one(v) for v in value]) + "]"
        return value.__repr__()

    def line(event: dict) -> bytes:
        pairs = [string(k) + ": " + one(v) for k, v in event.items()]
        return ("{" + ", ".join(pairs) + "}\n").encode()

    return line


# ---------------------------------------------------------------- the helper


def main() -> None:
    """Wait for notebooks: each comes with a socket of its own, and gets a process of its own."""
    control = socket.socket(fileno=0)
    setup = json.loads(control.recv(65536))
    walls = setup["walls"]
    devnull = os.open(os.devnull, os.O_RDWR)
    first_user = _sandbox.other_users(setup["slots"])
    note_size = _sandbox.watch_size()
    if "files" in walls:
        _sandbox.enter_room(setup["room"], setup["data"], setup["hidden"])
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot
    import torch

    for name in setup["modules"]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    torch.set_num_threads(1)
    # What imports more of torch at its first use does so here, once, and not in each test.
    weight = torch.ones(2, requires_grad=True)
    torch.testing.assert_close(weight, torch.ones(2))
    weight.grad = torch.ones(2)
    torch.optim.AdamW([weight]).step()
    # Student code may import these modules anew; it must not find the ones that run.
    package = sys.modules["sff_teach"]
    for name in ("_session", "_sandbox"):
        del sys.modules[f"sff_teach.{name}"]
        delattr(package, name)
    in_cell = [False, 0]

    def interrupt(*_) -> None:
        if in_cell[0]:
            raise TimeoutError(f"took longer than {in_cell[1]} s")

    signal.signal(signal.SIGPROF, interrupt)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    set_timer, nowhere = stand_ins()
    (_, put_back), vet = belongings(watched_modules()), type_checker()
    note_size()
    gc.collect()
    gc.freeze()  # forks share this memory as long as nobody touches it
    control.sendall(json.dumps({"first_user": first_user}).encode())
    while True:
        data, handles, *_ = socket.recv_fds(control, 65536, 1)
        if not data:
            return
        request = json.loads(data)
        pid = os.fork()
        if pid == 0:
            control.close()
            request["first_user"] = first_user
            _one(request, handles[0], walls, devnull, put_back, vet, set_timer, nowhere, in_cell)
            os._exit(0)
        os.close(handles[0])
        control.sendall(json.dumps({"pid": pid}).encode())


def _one(request: dict, handle: int, walls: list[str], devnull: int, *tools) -> None:
    """Turn this fork into a notebook's process, and run the job that comes through ``handle``."""
    folder = _sandbox.drop_rights(walls, **request)
    for number in (0, 1, 2):
        os.dup2(devnull, number)
    channel = socket.socket(fileno=handle)
    data = b""
    while chunk := channel.recv(1 << 16):
        data += chunk
    job = json.loads(data)
    for name, content in job.pop("files").items():
        with open(os.path.join(folder, os.path.basename(name)), "wb") as file:
            file.write(bytes.fromhex(content))
    del data
    run_job(job, channel.fileno(), walls, folder, *tools)
    os._exit(0)
