"""The helper that judges must refuse what is not one clear sentence, or the tests prove nothing."""

import inspect
import pkgutil
import re
import time
from importlib import import_module

import numpy as np
import pytest
import torch
from PIL import Image

import sff_teach
from sff_teach import _checks, goodness
from sff_teach._checks import check_count, check_samples, explained

from . import hostile
from .hostile import Hung, call, complaint, explore, little_memory, outcome, patience

# ---------------------------------------------------------------- the verdict


def error_of(function, *arguments) -> BaseException:
    with pytest.raises(BaseException) as caught:
        function(*arguments)
    return caught.value


def in_package(code: str, **names):
    """A function that looks as if it stood in the package's ``_checks.py``."""
    space = {**vars(_checks), **names}
    exec(compile("\n" * 500 + code, _checks.__file__, "exec"), space)
    return space["f"]


@pytest.mark.parametrize(
    "bad, words",
    [
        (lambda: torch.ones(2) @ torch.ones(3), "outside"),  # torch, called by a test
        (lambda: torch.nn.Linear(2, 2)(torch.ones(3)), "outside"),
        (lambda: np.ones(2) + np.ones(3), "outside"),
        (lambda: Image.open("/nowhere"), "outside"),
        (
            lambda: (_ for _ in ()).throw(ValueError("x is wrong; give y.")),
            "outside",
        ),  # not by the package
        (lambda: _checks.shown.__wrapped__, "outside"),
        (lambda: _checks.printable(), "outside"),
        (
            lambda: _checks.check_labels(torch.zeros(2, dtype=torch.int64), "a"),
            "on purpose",
        ),  # by a comparison
    ],
)
def test_what_comes_from_elsewhere_is_refused(bad, words):
    assert words in complaint(error_of(bad))


@pytest.mark.parametrize(
    "raised, words",
    [
        ("RuntimeError('x is wrong; give y.')", "RuntimeError"),
        ("KeyError('x is wrong; give y.')", "KeyError"),
        ("AssertionError('x is wrong; give y.')", "AssertionError"),
        ("ValueError('x is wrong; give y')", "one sentence"),
        ("ValueError('x is wrong;\\ngive y.')", "one sentence"),
        ("ValueError('x is wrong. ' * 100 + 'Give y: z.')", "one sentence"),
        ("ValueError('x is wrong.')", "remedy"),
        ("ValueError('x (cannot allocate 7 bytes); give y.')", "memory"),
        ("ValueError('x is wrong; give y.')", ""),
        ("TypeError('x is wrong; give y.')", ""),
        ("FileNotFoundError('x is not there; make it first.')", ""),
    ],
)
def test_what_the_package_says_is_judged_by_its_form(raised, words, monkeypatch):
    monkeypatch.setattr(hostile, "_raises", lambda file: [(1, 10_000)])
    said = complaint(error_of(in_package(f"def f():\n    raise {raised}")))
    assert words in said if words else said == ""


def test_an_error_inside_the_package_that_nobody_raised_is_refused(monkeypatch):
    monkeypatch.setattr(hostile, "_raises", lambda file: [])
    assert "on purpose" in complaint(error_of(in_package("def f():\n    return int('a')")))


def test_a_good_sentence_and_a_result_pass():
    assert isinstance(outcome(check_count, value="a", argument="epochs"), TypeError)
    assert outcome(check_count, value=3, argument="epochs") is None
    with pytest.raises(AssertionError, match="outside the package"):
        outcome(torch.ones, size="a")


def test_hanging_and_hoarding_are_refused():
    with pytest.raises(Hung), patience(0.05):
        time.sleep(5)
    with pytest.raises((RuntimeError, MemoryError)), little_memory(1 << 28):
        torch.empty(1 << 28).fill_(1.0)
    assert torch.empty(1 << 20).fill_(1.0)[0] == 1  # and afterwards there is memory again


def test_a_family_with_a_fault_is_red():
    """A function that passes hostile input on to torch does not get through 500 cases."""

    def careless(x):
        return torch.linalg.inv(torch.eye(2)) if x is None else x.flatten(7)

    found = explore("careless", [call(careless, x=(None, hostile.tensors))])
    with pytest.raises(AssertionError, match="careless"):
        found()


# ---------------------------------------------------------------- explained


def test_a_call_that_works_is_what_it_was():
    x = torch.randn(2, 3)
    assert torch.equal(goodness.sum_squares(x), x.square().sum(1))
    assert goodness.sum_squares.__doc__ and list(
        inspect.signature(goodness.sum_squares).parameters
    ) == ["h"]


def test_a_failure_is_explained_by_the_check_and_else_by_the_library():
    said = outcome(goodness.sum_squares, h=[1.0])
    assert (
        type(said) is TypeError
        and str(said) == "h must be a torch tensor, not list; use torch.as_tensor(h)."
    )
    said = outcome(
        goodness.head_activation, h=torch.ones(2, 3, 4, 4), weight="w", bias=None, channel_dim=1
    )
    assert "weight = 'w'" in str(said) and "help(head_activation)" in str(said)
    assert isinstance(said.__cause__, AttributeError)  # the library's own traceback stays attached


@explained(x=check_samples)
def _body(x, callback):
    """A function that calls what the user gave."""
    return callback(x)


def test_what_must_not_be_explained():
    def full(x):
        raise torch.OutOfMemoryError("out of memory")

    def stop(x):
        raise KeyboardInterrupt

    def missing(x):
        raise FileNotFoundError("mine")

    for callback, kind in (
        (full, torch.OutOfMemoryError),
        (stop, KeyboardInterrupt),
        (missing, FileNotFoundError),
    ):
        with pytest.raises(kind):
            _body(torch.ones(2, 2), callback)
    with pytest.raises(TypeError, match="missing 1 required"):
        _body(torch.ones(2, 2))


def test_a_generator_is_explained_when_it_is_used():
    @explained()
    def numbers(n):
        for i in range(3):
            yield i / n

    assert list(numbers(2)) == [0, 0.5, 1]
    with pytest.raises(ValueError, match="numbers can't work with n = 0"):
        list(numbers(0))


# ---------------------------------------------------------------- all that is public is tried

FAMILIES = [
    name
    for name in (m.name for m in pkgutil.iter_modules(import_module(__package__).__path__))
    if name.startswith("test_") and name != "test_helper"
]
ELSEWHERE = {  # public functions that no family calls, and why
    "load_for",
    "run",
    "measure_run",
    "machine",
    "peak_memory",  # they train or ask the machine; fit, build and load are tried
    "fit_pipeline",  # starts processes; its checks are fit's, see test_pipeline
    "recipe",
    "family",  # decorators for the course's own recipes
    "fetch",
    "read_arrays",  # named sets from fixed addresses, see test_download
    "main",  # the command line: test_cli has a family of its own
    "running",
    "torchrun",  # need the environment of torchrun, see test_distributed
    "address",
    "watch_saved",  # of the counting itself, no input
    "as_good",
    "better",
    "similar",
    "less",  # of one Effect each
    "tested",
    "installed",
    "nearest_set",
    "advice",
    "report",  # of the doctor: they are given what is installed, see test_doctor
    "layer",
    "make_network",
    "train_step",
    "predict",  # sff_minimal: 100 lines to read, no checks on purpose
    "find_assignment",
    "find_submissions",
    "read_notebook",
    "run_steps",
    "mark",
    "check_assignment",
    "grade",
    "choose_walls",
    "short_name",
    "student_of",
    "read_manual",
    "write_marks",  # grading has hostile notebooks by the dozen: tests/classroom
}


def public_functions() -> set[str]:
    found = set()
    for module in pkgutil.iter_modules(sff_teach.__path__):
        if module.name[0] == "_" or module.ispkg:
            continue
        space = vars(import_module(f"sff_teach.{module.name}"))
        found |= {
            name
            for name, thing in space.items()
            if name[0] != "_"
            and inspect.isfunction(inspect.unwrap(thing) if callable(thing) else thing)
            and getattr(thing, "__module__", "") == f"sff_teach.{module.name}"
        }
    return found


def test_every_public_function_is_in_a_family():
    tried, names = set(), set()
    for name in FAMILIES:
        module = import_module(f"{__package__}.{name}")
        for thing in vars(module).values():
            for one in getattr(thing, "calls", ()):
                tried |= set(re.findall(r"\w+", one.name))
                names.add(one.name)
    recipes = import_module("sff_teach.recipes").RECIPES
    named = {function.__name__ for function in recipes.values()}
    missing = public_functions() - tried - ELSEWHERE - named
    assert not missing
    assert not ELSEWHERE & names
