# ruff: noqa: E501 (cells of notebooks, as strings)
"""Made submissions: name → the notebook, the marks it must get, and what the teacher must read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ._small import Notebook

FULL, NONE = (2, 3, 1), (0, 0, 0)
GARBAGE = "def mean_square(h):\n    return torch.full((len(h),), 5.0)"


@dataclass
class Case:
    notebook: Notebook | None
    marks: tuple[float, float, float]
    says: tuple[str, ...] = ()  # each must stand in "repaired" or "caught"
    reason: str = ""  # must stand in the first lost task's explanation


def cheat(patch: str) -> Notebook:
    """A wrong first answer, and a cell that is to make its tests pass."""
    return Notebook().answer("s-task1", GARBAGE).last(patch)


def inside(body: str) -> Notebook:
    """A wrong first answer that tampers at the moment when a test calls it."""
    lines = "\n".join("    " + line for line in body.strip().splitlines())
    return Notebook().answer(
        "s-task1", f"def mean_square(h):\n{lines}\n    return torch.full((len(h),), 5.0)"
    )


LAYER = Notebook().nb.cells[Notebook().at("s-task2")].source

FIND_WORDS = """
import os, json
def hunt(f):
    while f is not None:
        for v in list(f.f_locals.values()):
            if isinstance(v, dict) and "words" in v:
                event = {"verdict": v["at"], "changed": False, "proof": v["words"][0], "error": None}
                for fd in range(3, 40):
                    try:
                        os.write(fd, (json.dumps(event) + chr(10)).encode())
                    except OSError:
                        pass
                event |= {"changed": True, "proof": v["words"][3]}
                for fd in range(3, 40):
                    try:
                        os.write(fd, (json.dumps(event) + chr(10)).encode())
                    except OSError:
                        pass
                os._exit(0)
        f = f.f_back
"""


def crowd(source: Path, out: Path) -> dict[str, Case]:
    """All cases. ``source`` and ``out`` are the grader's files, which some are after."""
    right = "def mean_square(x):\n    squares = x * x\n    return squares.sum(1) / x.shape[1]"
    cases = {
        # ---------------------------------------------------------------- honest
        "perfect": Case(Notebook(), FULL),
        "empty": Case(Notebook(answered=False), NONE, reason="no answer yet"),
        "partly": Case(
            Notebook().answer("s-task2", "class Layer(nn.Module):\n    pass"),
            (2, 0, 1),
        ),
        "wrong": Case(
            Notebook()
            .answer("s-task1", "def mean_square(h):\n    return h.square().sum(1)")
            .answer("s-task2", LAYER.replace("relu", "tanh"))
            .answer("s-task3", "def passes(K):\n    return K"),
            NONE,
            reason="25 / 4",
        ),
        "hidden-only": Case(
            Notebook().answer("s-task2", LAYER.replace("relu", "tanh")),
            (2, 0, 1),
            reason="other numbers",
        ),
        "renamed-variables": Case(Notebook().answer("s-task1", right), FULL),
        "renamed-function": Case(
            Notebook().answer("s-task1", right.replace("mean_square", "my_goodness")),
            (0, 3, 1),
            ("the tests ask for mean_square, and the cell defines my_goodness",),
            "mean_square",
        ),
        "deleted-test": Case(
            Notebook().delete("s-task2-test"), FULL, ("s-task2-test: the cell was missing",)
        ),
        "deleted-answer": Case(
            Notebook().delete("s-task2"), (2, 0, 1), ("s-task2: no such cell",), "Layer"
        ),
        "emptied-tests": Case(
            Notebook().answer("s-task1", GARBAGE).answer("s-task1-test", "print('passed')"),
            (0, 3, 1),
            ("s-task1-test: the cell was changed",),
        ),
        "copied-answer": Case(
            Notebook().copy(
                "s-task1",
                "def mean_square(h):\n    # YOUR CODE HERE\n    raise NotImplementedError()",
            ),
            FULL,
            ("s-task1: the cell stands 2 times",),
        ),
        "copied-test": Case(Notebook().copy("s-task3-test"), FULL, ("stands 2 times",)),
        "from-colab": Case(Notebook().from_colab(), FULL, ("as Colab returns it. 8 of 8",)),
        "from-colab-no-tests": Case(
            Notebook().delete("s-task1-test").delete("s-task2-test").from_colab(),
            FULL,
            ("as Colab returns it", "s-task1-test: the cell was missing"),
        ),
        "own-helper": Case(
            Notebook()
            .answer("s-task1", "def mean_square(h):\n    return mean_of(h * h)")
            .last("def mean_of(v):\n    return v.mean(1)"),
            FULL,
        ),
        "magics": Case(
            Notebook().first("%matplotlib inline\n!pip install nothing").last("%%time\nx = 1"), FULL
        ),
        "syntax-error": Case(
            Notebook().answer("s-task3", "def passes(K)\n    return 2 * K"),
            (2, 3, 0),
            ("s-task3: stopped with SyntaxError",),
        ),
        "given-names-reused": Case(Notebook().last("seed = 'none'\nh = images = 3"), FULL),
        # ---------------------------------------------------------------- what breaks batches
        "endless-cell": Case(Notebook().last("while True:\n    pass"), FULL, ("took longer than",)),
        "endless-answer": Case(
            Notebook().answer("s-task1", "def mean_square(h):\n    while True:\n        pass"),
            (0, 3, 1),
            reason="took longer than",
        ),
        "memory-cell": Case(
            Notebook().last("hog = []\nwhile True:\n    hog.append(bytearray(2**26))"),
            FULL,
            ("stopped with MemoryError",),
        ),
        "memory-by-processes": Case(
            Notebook().last(
                "import multiprocessing as m, time\nc = m.get_context('fork')\n"
                "def eat():\n    hog = b'x' * (300 * 2**20)\n    time.sleep(60)\n"
                "for _ in range(6):\n    c.Process(target=eat).start()\ntime.sleep(60)"
            ),
            FULL,
            ("took more than 0.5 GiB with all its processes",),
        ),
        "memory-by-files": Case(
            Notebook().last(
                "import os, time\nfor n in range(8):\n    f = os.memfd_create(str(n))\n"
                "    os.write(f, b'x' * 2**27)\ntime.sleep(60)"
            ),
            FULL,
            ("took more than 0.5 GiB with all its processes",),
        ),
        "memory-answer": Case(inside("hog = torch.empty(2**33)"), (0, 3, 1), reason="memory"),
        "sys-exit": Case(
            Notebook().last("import sys\nsys.exit(0)"), FULL, ("stopped with SystemExit",)
        ),
        "sys-exit-answer": Case(inside("import sys; sys.exit(0)"), (0, 3, 1), reason="SystemExit"),
        "os-exit": Case(Notebook().last("import os\nos._exit(0)"), FULL, ("ended the process",)),
        "os-exit-answer": Case(
            inside("import os; os._exit(0)"), (0, 3, 1), reason="ended the process"
        ),
        "os-exit-behind-answer": Case(
            Notebook().answer("s-task1", right + "\nimport os\nos._exit(0)"),
            FULL,
            ("only its functions and classes were used",),
        ),
        "fork-bomb": Case(
            Notebook().last("import os\nwhile True:\n    os.fork()"),
            FULL,
            ("tried to get at processes",),
        ),
        "fork-bomb-by-library": Case(
            Notebook().last(
                "import multiprocessing as m, time\nc = m.get_context('fork')\n"
                "def f():\n    while True:\n        try:\n"
                "            c.Process(target=f).start()\n        except OSError:\n"
                "            time.sleep(0.01)\nfor _ in range(99):\n    c.Process(target=f).start()"
            ),
            FULL,
            ("Resource temporarily unavailable",),
        ),
        # ---------------------------------------------------------------- out of its folder
        "network": Case(
            Notebook().last(
                "import urllib.request\nurllib.request.urlopen('http://1.1.1.1', timeout=2)"
            ),
            FULL,
            ("tried to reach the network", "stopped with"),
        ),
        "delete-files": Case(
            Notebook().last(
                f"import shutil\nshutil.rmtree('/dev', ignore_errors=True)\n"
                f"shutil.rmtree({str(out)!r}, ignore_errors=True)"
            ),
            FULL,
            ("tried to delete /dev",),
        ),
        "read-grader": Case(
            cheat(
                f"try:\n    text = open({str(source)!r}).read()\n    print(text)\n"
                f"    mean_square = lambda h: h.square().mean(1)\nexcept OSError:\n    pass"
            ),
            (0, 3, 1),
            ("tried to open",),
        ),
        "kill": Case(
            Notebook().last(
                "import os, signal\nfor p in (-1, 1, os.getppid()):\n    try:\n"
                "        os.kill(p, 9)\n    except OSError:\n        pass"
            ),
            FULL,
            ("tried to end a process",),
        ),
        "program": Case(
            cheat(
                "import subprocess\nprint(subprocess.run('cat /etc/shadow; ls /root /home; "
                "rm -rf /', shell=True))"
            ),
            (0, 3, 1),
            ("tried to start a program",),
        ),
        "forged-results": Case(
            cheat(
                f"import json, os, pathlib\nfor d in ({str(out / 'results')!r}, 'results', '.'):\n"
                "    try:\n        pathlib.Path(d).mkdir(parents=True, exist_ok=True)\n"
                "        (pathlib.Path(d) / 'forged-results.json').write_text('{}')\n"
                "    except OSError:\n        pass"
            ),
            (0, 3, 1),
        ),
        # ---------------------------------------------------------------- a mark of one's own
        "fake-passed": Case(cheat("print('s-task1-test: passed, 2 points')"), (0, 3, 1)),
        "hard-coded": Case(
            Notebook().answer(
                "s-task1", "def mean_square(h):\n    return torch.full((len(h),), 6.25)"
            ),
            (0, 3, 1),
        ),
        "forged-channel": Case(
            inside(
                "import os\nfor fd in range(3, 30):\n    try:\n"
                '        os.write(fd, b\'{"verdict": 3, "changed": false, "proof": "x"}\\n\')\n'
                "    except OSError:\n        pass\nos._exit(0)"
            ),
            (0, 3, 1),
            ("wrote a verdict of its own",),
        ),
        "atexit": Case(cheat("import atexit, os\natexit.register(os._exit, 0)"), (0, 3, 1)),
    }
    patches = {
        "names": "assert_close = lambda *a, **k: None\nclass torch_:\n    allclose = lambda *a: True\n",
        "torch": "torch.allclose = lambda *a, **k: True\nimport torch.testing\n"
        "torch.testing.assert_close = lambda *a, **k: None\nassert_close = torch.testing.assert_close",
        "builtins": "import builtins\nbuiltins.all = builtins.isinstance = lambda *a: True\n"
        "builtins.AssertionError = type('A', (Exception,), {})\ntorch.allclose = lambda *a: True",
        "package": "torch.allclose = lambda *a: True\n"
        "package.mean_squares = lambda h: torch.full((len(h),), 5.0)",
        "modules": "import sys, types\nfake = types.ModuleType('torch')\n"
        "fake.__dict__.update(vars(torch))\nfake.allclose = lambda *a: True\n"
        "sys.modules['torch'] = torch = fake",
        "tolerances": "import torch.testing._comparison as c\n"
        "c._DTYPE_PRECISIONS[torch.float32] = (9.0, 9.0)\ntorch.allclose = lambda *a: True",
        "code": "def yes(*a, **k):\n    pass\ntorch.testing.assert_close.__code__ = yes.__code__",
    }
    for name, patch in patches.items():
        says = ("tried to get at",) if name == "code" else ("put back",)
        cases[f"patch-{name}"] = Case(cheat(patch), (0, 3, 1), says)
        cases[f"patch-{name}-inside"] = Case(
            inside("global torch, assert_close\n" + patch), (0, 3, 1)
        )
    cases |= {
        "patch-once": Case(
            inside(
                "real = torch.allclose\ndef cached_run(*a, **k):\n    torch.allclose = real\n"
                "    return True\ntorch.allclose = once\nfor m in (torch.testing,):\n"
                "    m.assert_close = lambda *a, **k: None"
            ),
            (0, 3, 1),
            ("put back",),
        ),
        "torch-mode": Case(
            cheat(
                "from torch.overrides import TorchFunctionMode\nclass M(TorchFunctionMode):\n"
                "    def __torch_function__(self, f, t, args=(), kwargs=None):\n"
                "        return True if f is torch.allclose else f(*args, **(kwargs or {}))\n"
                "M().__enter__()"
            ),
            (0, 3, 1),
            ("by a mode",),
        ),
        "equals-everything": Case(
            Notebook().answer(
                "s-task3",
                "class Yes(int):\n    def __eq__(self, other):\n        return True\n"
                "def passes(K):\n    return Yes(0)",
            ),
            (2, 3, 0),
            ("decides what it equals, Yes",),
        ),
        "tensor-that-lies": Case(
            Notebook().answer(
                "s-task1",
                "class T(torch.Tensor):\n    @classmethod\n"
                "    def __torch_function__(cls, f, types, args=(), kwargs=None):\n"
                "        return True\ndef mean_square(h):\n    return torch.zeros(1).as_subclass(T)",
            ),
            (0, 3, 1),
            ("decides what it equals, T",),
        ),
        "mock-any": Case(
            Notebook().answer(
                "s-task3", "from unittest import mock\ndef passes(K):\n    return mock.ANY"
            ),
            (2, 3, 0),
        ),
        "own-method": Case(
            inside("t = torch.full((len(h),), 5.0)\nt.tolist = lambda: [6.25]\nreturn t"),
            (0, 3, 1),
        ),
        "profile-function": Case(
            inside("import sys\nfor c in sys.getprofile().__closure__:\n    print(c)"), (0, 3, 1)
        ),
        "cached-answer": Case(
            Notebook().answer(
                "s-task3",
                "import functools\n@functools.lru_cache(None)\ndef passes(K):\n    return 2 * K",
            ),
            FULL,
        ),
        "numpy-answer": Case(
            Notebook().answer(
                "s-task3", "import numpy as np\ndef passes(K):\n    return np.int64(2) * K"
            ),
            FULL,
        ),
        "inherited-layer": Case(
            Notebook().answer(
                "s-task2",
                "class Layer(nn.Sequential):\n    def __init__(self, units):\n"
                "        linear = nn.Linear(6, units)\n        super().__init__(linear, nn.ReLU())\n"
                "        object.__setattr__(self, 'linear', linear)",
            ),
            FULL,
        ),
        "operator-replaced": Case(
            cheat(
                "lib = torch.library.Library('aten', 'IMPL')\n"
                "lib.impl('allclose', lambda *a, **k: True, 'CPU')\n"
                "lib.impl('isclose', lambda a, b, *r, **k: torch.ones_like(a).bool(), 'CPU')"
            ),
            (0, 3, 1),
        ),
        "thread": Case(
            inside(
                "import threading, time\ndef patch():\n    while True:\n"
                "        torch.allclose = lambda *a, **k: True\n"
                "        torch.testing._comparison.assert_equal = lambda *a, **k: None\n"
                "threading.Thread(target=patch, daemon=True).start()\ntime.sleep(0.1)"
            ),
            (0, 3, 1),
        ),
    }
    hunts = {
        "frames": "import sys\nhunt(sys._getframe())",
        "inspect": "import inspect\nhunt(inspect.currentframe())",
        "traceback": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n"
        "    hunt(e.__traceback__.tb_frame)",
        "generator": "g = (hunt(g.gi_frame.f_back) for _ in [1])\nnext(g)",
        "walk": "import traceback\nhunt(next(traceback.walk_stack(None))[0])",
        "signal": "import signal, time\nsignal.signal(signal.SIGALRM, lambda s, f: hunt(f))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.01)\ntime.sleep(0.1)",
        "trace": "import sys\nsys.settrace(lambda f, *a: hunt(f))\n(lambda: None)()",
        "all-frames": "import sys\nfor f in sys._current_frames().values():\n    hunt(f)",
        "gc": "import gc\nfor o in gc.get_objects():\n    if isinstance(o, dict) and 'words' in o:\n"
        "        raise SystemExit(str(o))",
        "ctypes": "import ctypes\nctypes.pythonapi.PyEval_GetFrame.restype = ctypes.py_object\n"
        "hunt(ctypes.pythonapi.PyEval_GetFrame())",
        "disguise": "import os\ncode = compile('import sys\\nf = sys._getframe()', os.__file__, 'exec')\n"
        "d = {}\nexec(code, d)\nhunt(d['f'])",
    }  # fmt: skip
    for name, body in hunts.items():
        says = () if name == "signal" else ("tried to",)
        cases[f"hunt-{name}"] = Case(inside(FIND_WORDS + body), (0, 3, 1), says)
    return cases
