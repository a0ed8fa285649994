"""What the property tests share: hostile values, calls to spoil, and the verdict on an error.

``explore(calls)`` makes a test of a family of functions: it takes a call that works, spoils some of
its arguments, and asks ``outcome`` for the verdict. PROPERTY_EXAMPLES=20000 searches further than
CI does, with other examples every time.
"""

import ast
import copy
import inspect
import math
import os
import signal
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from io import StringIO
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import sff_teach
from sff_teach import SFF, FFNetwork, GoodnessHead, LocalBlock, from_arrays, mlp
from sff_teach.distributed import LostProcess

PACKAGE = Path(sff_teach.__file__).parent
EXAMPLES = int(os.environ.get("PROPERTY_EXAMPLES", 500))
SECONDS = 60  # a call that takes longer hangs; a busy machine is no bug
ROOM = 2 << 30  # bytes that a test may take on top of what the process has

# ---------------------------------------------------------------- files

FOLDERS: list[Path] = []  # conftest.py removes them


def new_folder() -> Path:
    """An empty folder for the files of a module, which its strategies name before any test runs."""
    FOLDERS.append(Path(mkdtemp(prefix="sff-properties-")))
    return FOLDERS[-1]


# ---------------------------------------------------------------- the verdict

KINDS = (ValueError, TypeError, OSError, ImportError, LostProcess)
MORE = ("allocate", "out of memory")  # what a library says when it was asked for too much


def complaint(error: BaseException) -> str:
    """Why an error is not a clear sentence of this package; empty if it is one.

    It has to be raised by a ``raise`` in the package, be a ValueError, a TypeError or one of their
    kin, and be one sentence: a line that ends with a full stop and holds a remedy behind a
    semicolon or colon.
    """
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is None:  # pragma: no cover
        return "it was raised nowhere"
    file, line = Path(place.tb_frame.f_code.co_filename), place.tb_lineno
    where = f"{file.name}:{line}"
    if not file.is_relative_to(PACKAGE):
        return f"it comes from outside the package, {file}:{line}"
    if not any(start <= line <= stop for start, stop in _raises(file)):
        return f"nothing is raised on purpose at {where}"
    if not isinstance(error, KINDS):
        return f"it is a {type(error).__name__} ({where})"
    text = str(error)
    if "\n" in text or not text.endswith((".", "?")) or len(text) > 700:
        return f"it is not one sentence ({where})"
    if not any(mark in text for mark in ";:"):
        return f"it has no remedy ({where})"
    if any(words in text.lower() for words in MORE):
        return f"it tried to take too much memory ({where})"
    return ""


@lru_cache
def _raises(file: Path) -> list[tuple[int, int]]:
    """First and last lines of the raise statements of a file."""
    return [
        (node.lineno, node.end_lineno)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Raise)
    ]


class Hung(BaseException):
    """A call that took too long."""


@contextmanager
def patience(seconds: float = SECONDS):
    """End what hangs, where the system can."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def ring(number, frame):
        raise Hung

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def little_memory(room: int = ROOM):
    """Refuse this process more memory than ``room``, where the system can."""
    status = Path("/proc/self/status")
    if not status.exists():
        yield
        return
    import resource

    has = next(int(s.split()[1]) for s in status.read_text().splitlines() if "VmData" in s) * 1024
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (has + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def outcome(function: Callable, **arguments) -> object:
    """The result of a call, or its error if that is clear; anything else fails the test."""
    try:
        with (
            patience(),
            warnings.catch_warnings(),
            redirect_stdout(StringIO()),
            redirect_stderr(StringIO()),
        ):
            warnings.simplefilter("ignore")  # of NaN and infinity, which give results
            return function(**arguments)
    except (Exception, Hung, SystemExit) as error:
        problem = "it hangs" if isinstance(error, Hung) else complaint(error)
        if problem:
            given = ", ".join(f"{name}={brief(value)}" for name, value in arguments.items())
            raise AssertionError(
                f"{_name(function)}({given}) ends in {type(error).__name__}: {error}\n{problem}"
            ) from error
        return error


def brief(value: object) -> str:
    """A value as a failing test shows it."""
    if isinstance(value, torch.Tensor):
        return f"<{value.dtype} {tuple(value.shape)} {value.device}>"
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**40 else "10**…"
    return text if len(text) <= 80 else text[:79] + "…"


def _name(function: Callable) -> str:
    return getattr(function, "__qualname__", repr(function))


# ---------------------------------------------------------------- hostile values

ANYTHING = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    3,
    7,
    10**9,
    10**18,
    10**30,
    -(10**30),
    0.0,
    0.5,
    1.5,
    -0.5,
    1e-300,
    1e300,
    math.nan,
    math.inf,
    -math.inf,
    1j,
    Decimal("0.5"),
    Fraction(1, 3),
    np.float64(0.5),
    np.int64(2),
    np.float32("nan"),
    "",
    "a",
    "sff",
    "1",
    "\n",
    "\0",
    "ä" * 500,
    "../..",
    b"",
    b"\0\xff",
    (),
    [],
    {},
    set(),
    (1,),
    (None, None),
    [1, 2],
    ["a"],
    [[1], [2, 3]],
    {"a": 1},
    {1: None},
    range(3),
    object(),
    int,
    Ellipsis,
    slice(0, 2),
    lambda *_: 1,
    np.array([]),
    np.zeros((2, 2)),
    np.array(["a"]),
    np.array(None),
    torch.tensor(1.0),
    torch.tensor([1, 2]),
    torch.zeros(2, 3),
    Path("nowhere"),
    Exception("x"),
    nn.ReLU(),
]
anything = st.sampled_from(ANYTHING).map(copy.deepcopy)
numbers = st.one_of(
    st.sampled_from([v for v in ANYTHING if isinstance(v, int | float | np.number)]),
    st.integers(-5, 40),
    st.floats(-3, 3),
    anything,
)
WORDS = [
    "all",
    "mean",
    "last",
    "sum",
    "auto",
    "direct",
    "moments",
    "layer",
    "block",
    "stage",
    "MEAN",
    "bp",
    "ff",
    "none",
    "cpu",
    "meta",
    "cuda",
    "cuda:9",
    "mps",
    "xpu",
    "a b",
    " ",
    "test",
]
words = st.one_of(st.sampled_from(WORDS), st.text(max_size=8), anything)
SHAPES = [
    (),
    (0,),
    (1,),
    (3,),
    (4,),
    (2, 0),
    (0, 3),
    (2, 3),
    (4, 3),
    (4, 36),
    (3, 4),
    (2, 1, 6),
    (4, 1, 6, 6),
    (4, 3, 6, 6),
    (4, 6, 6, 1),
    (1, 1, 1, 1),
    (0, 1, 6, 6),
    (4, 0, 6, 6),
    (4, 1, 0, 6),
    (4, 1, 6),
    (2, 1, 2, 2, 2),
    (4, 2, 3),
    (1, 2, 3),
]
DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
    torch.complex64,
]
FILLS = [
    "normal",
    "zeros",
    "ones",
    "nan",
    "one nan",
    "inf",
    "huge",
    "tiny",
    "negative",
    "classes",
    "far",
]
LAYOUTS = [
    "plain",
    "plain",
    "plain",
    "transposed",
    "expanded",
    "strided",
    "channels last",
    "gradient",
    "meta",
    "sparse",
]


def make_tensor(shape, dtype, fill, layout) -> torch.Tensor:
    """A tensor with one trouble or several."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        if fill in ("zeros", "ones"):
            x = torch.full_like(x, float(fill == "ones"))
        elif fill in ("nan", "inf", "huge", "tiny", "negative"):
            value = {
                "nan": math.nan,
                "inf": math.inf,
                "huge": 3e38,
                "tiny": 1e-40,
                "negative": -1.0,
            }
            x = torch.full_like(x, value[fill])
        elif fill == "one nan" and x.numel():
            x.view(-1)[0] = math.nan
        elif fill == "classes":
            x = torch.arange(x.numel(), dtype=torch.float64).reshape(shape) % 3
        elif fill == "far":
            x = x * 1e6
        x = x.to(dtype)
        if layout == "transposed" and x.dim() > 1:
            x = x.transpose(-1, -2)
        elif layout == "expanded" and x.dim():
            x = x[..., :1].expand(shape)
        elif layout == "strided" and x.dim():
            x = torch.cat([x, x], -1)[..., ::2]
        elif layout == "channels last" and x.dim() == 4:
            x = x.to(memory_format=torch.channels_last)
        elif layout == "gradient" and (x.is_floating_point() or x.is_complex()):
            x.requires_grad_()
        elif layout == "meta":
            x = x.to("meta")
        elif layout == "sparse" and x.dim():
            x = x.to_sparse()
    return x


shapes = st.one_of(st.sampled_from(SHAPES), st.lists(st.integers(0, 5), max_size=5).map(tuple))
tensors = st.builds(
    make_tensor, shapes, st.sampled_from(DTYPES), st.sampled_from(FILLS), st.sampled_from(LAYOUTS)
)
arrays = st.one_of(
    tensors,
    tensors.filter(lambda t: t.is_cpu and not t.is_sparse and t.dtype != torch.bfloat16).map(
        lambda t: t.detach().numpy()
    ),
    st.lists(st.one_of(st.floats(width=32), st.integers(-3, 5)), max_size=6),
    anything,
)


def several(values, most: int = 4):
    """Lists and tuples of such values, and what is none."""
    return st.one_of(
        st.lists(values, max_size=most), st.lists(values, max_size=most).map(tuple), anything
    )


# ---------------------------------------------------------------- what works


def images(n: int = 4) -> torch.Tensor:
    """(n, 1, 6, 6) that nothing is wrong with."""
    return torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def labels(n: int = 4) -> torch.Tensor:
    """(n,) of three classes."""
    return torch.arange(n) % 3


def data(n: int = 4):
    """A small ImageSet."""
    return from_arrays(images(n), labels(n), mean=(0.5,), std=(0.3,))


def network() -> SFF:
    """Two blocks for (1, 6, 6) and three classes."""
    return SFF(
        [
            LocalBlock(nn.Conv2d(1, 2, 3, padding=1), GoodnessHead(2, 3)),
            LocalBlock(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU()), GoodnessHead(3, 3)),
        ]
    )


def ff_network() -> FFNetwork:
    """Two layers for (1, 6, 6) and three classes."""
    return FFNetwork(mlp(36, (5, 4)), 3)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """An optimiser that changes next to nothing."""
    return torch.optim.SGD(model.parameters(), lr=1e-6)


models = st.one_of(
    st.sampled_from(
        [
            network,
            ff_network,
            lambda: nn.Linear(36, 3),
            nn.Sequential,
            nn.ReLU,
            lambda: nn.Conv2d(1, 3, 3),
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 3)),
            lambda: nn.LSTM(3, 3),
            lambda: network().double(),
            lambda: network().half(),
            lambda: network().to("meta"),
        ]
    ).map(lambda make: make()),
    anything,
)
datasets = st.one_of(
    st.sampled_from(
        [data, lambda: data(1), lambda: data().subset([]), lambda: (images(), labels())]
    ).map(lambda make: make()),
    st.tuples(tensors, tensors),
    st.tuples(tensors, st.just(labels())),
    st.tuples(st.just(images()), tensors),
    anything,
)

# ---------------------------------------------------------------- calls and how to spoil them


@dataclass(frozen=True)
class Call:
    """A call that works, and for each argument what to spoil it with."""

    function: Callable
    good: dict[str, Callable[[], object]]
    hostile: dict[str, st.SearchStrategy]
    name: str = field(default="")


def call(function: Callable, *, named: str = "", **arguments: tuple) -> Call:
    """``call(f, x=(images, tensors))``: f works with x=images() and is to be tried with tensors.

    A good value that isn't callable is taken as it is. Every parameter has to be there.
    """
    parameters = {
        name
        for name, p in inspect.signature(function).parameters.items()
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }
    assert parameters == set(arguments), (function, parameters ^ set(arguments))
    good = {n: g if inspect.isfunction(g) else (lambda g=g: g) for n, (g, _) in arguments.items()}
    return Call(function, good, {n: h for n, (_, h) in arguments.items()}, named or _name(function))


COUNTS: Counter = Counter()  # family → calls that were made


def explore(family: str, calls: list[Call], after: Callable[[object], object] | None = None):
    """A test that spoils one to three arguments of the family's calls, at least 500 times.

    ``after`` is done with every result that is no error: drawing a figure, say.
    """

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize="PROPERTY_EXAMPLES" not in os.environ,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def test(given):
        one = given.draw(st.sampled_from(calls))
        names = list(one.good)
        spoiled = given.draw(
            st.lists(st.sampled_from(names), min_size=min(1, len(names)), max_size=3, unique=True)
            if names
            else st.just([])
        )
        arguments = {
            name: given.draw(one.hostile[name]) if name in spoiled else make()
            for name, make in one.good.items()
        }
        COUNTS[family] += 1
        torch.manual_seed(0)
        result = outcome(one.function, **arguments)
        if after is not None and not isinstance(result, Exception):
            outcome(after, result=result)

    def test_family():
        for one in calls:  # what the calls spoil works
            result = outcome(one.function, **{name: make() for name, make in one.good.items()})
            assert not isinstance(result, Exception), (one.name, result)
        COUNTS[family] = 0
        with little_memory():
            test()
        assert COUNTS[family] >= EXAMPLES

    test_family.calls = calls
    return test_family


# torch imports more when it meets its first tensor of a kind; that is nobody's hang.
for _layout in LAYOUTS:
    make_tensor((2, 2), torch.float32, "normal", _layout).sum()
