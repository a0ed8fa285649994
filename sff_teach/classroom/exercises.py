"""Exercises in a notebook: stored predictions, checked answers, comparisons."""

import ast
import dis
import inspect
import sys
import textwrap
import traceback
from collections.abc import Callable, Mapping
from types import CodeType
from typing import Any

import torch
from torch import Tensor


class Prediction:
    """A stored prediction, made by ``predict``.

    Args:
        question: the question.
        guess: the answer, or ``...`` if there is none.
    """

    def __init__(self, question: str, guess: Any) -> None:
        self.question = question
        self.guess = guess

    def compare(self, result: Any) -> None:
        """Print your prediction beside the result.

        Args:
            result: What the notebook measured, as a number or as text.
        """
        guess = "none was written" if self.guess is ... else _readable(self.guess)
        _say(f"{self.question}\n  your prediction: {guess}\n  the result:      {_readable(result)}")


def predict(question: str, guess: Any = ...) -> Prediction:
    """Store what you expect before you run a cell; ``.compare(result)`` shows both.

    Args:
        question: the question, with its unit.
        guess: your answer, a number or a text; ``...`` while there is none.
    """
    if guess is ...:
        _say(question)
        _say("  Write your guess in place of the three dots, and run this cell again.")
    else:
        _say(f"Kept: {_readable(guess)}")
    return Prediction(question, guess)


def checked(
    answer: Callable,
    course: Callable,
    probe: Callable[[Callable], Any],
    mistakes: Mapping[str, Callable] | None = None,
    atol: float = 1e-5,
) -> Callable:
    """Compare your function or class with the course's, and return the one to continue with.

    An answer that is missing, fails or differs never stops the notebook: what is wrong is printed,
    and the course's version is returned.

    Args:
        answer: yours.
        course: the course's version.
        probe: called with either of them; returns the numbers to compare: a tensor, a number, or a
            list of them.
        mistakes: description of a usual mistake → a function that makes it; the description is
            printed if its numbers are yours. None may have the course's numbers.
        atol: how far a value may be off, as in ``check_equal``.

    Returns:
        ``answer`` if its numbers are the course's, else ``course``.
    """
    name = getattr(answer, "__name__", "your answer")
    go_on = "The notebook goes on with the course's version."
    right = probe(course)
    if _is_empty(answer):
        for what, wrong in (mistakes or {}).items():
            if _difference(probe(wrong), right, atol) is None:
                raise AssertionError(f"The course's own check cannot see this mistake: {what}")
        _say(f"○ {name} is not written yet. {go_on}")
        return course
    try:
        mine = probe(answer)
    except Exception as error:
        _say(f"✗ {name} {_what_stopped(answer, error)}\n{go_on}")
        return course
    problem = _difference(mine, right, atol)
    if problem is None:
        _say(f"✓ {name} is right.")
        return answer
    for what, wrong in (mistakes or {}).items():
        if _difference(mine, probe(wrong), atol) is None:
            problem = what
            break
    _say(f"✗ {name} is not right yet: {problem}\n{go_on}")
    return course


def check_equal(
    name: str, mine: Tensor | float, reference: Tensor | float, atol: float = 1e-5
) -> None:
    """Print how close your result is to the reference; AssertionError if it is not close.

    Args:
        name: what is compared.
        mine: your result.
        reference: the right one, of the same shape.
        atol: how far a value may be off, times the largest reference value where that is above 1.
    """
    mine, reference = torch.as_tensor(mine), torch.as_tensor(reference)
    problem = _difference(mine, reference, atol)
    if problem is not None:
        raise AssertionError(f"{name}: {problem}")
    off = _largest_difference(mine, reference)
    _say(f"✓ {name}: " + ("exact" if off == 0 else f"close, largest difference {off:.1e}"))


def _say(text: str) -> None:
    """Print, with ? in place of what a stream in cp1252 does not have, such as ✓."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding))


def _difference(mine: Any, reference: Any, atol: float) -> str | None:
    """What differs, in a sentence, or None."""
    if mine is None:
        return "nothing is returned. Is a return missing?"
    if isinstance(reference, (list, tuple)):
        if not isinstance(mine, (list, tuple, Tensor)) or len(mine) != len(reference):
            return f"{len(reference)} values are expected."
        pairs = zip(mine, reference, strict=True)
        found = (_difference(one, other, atol) for one, other in pairs)
        return next((problem for problem in found if problem is not None), None)
    if not isinstance(mine, (Tensor, int, float)):
        return f"a number or a tensor is expected, not {type(mine).__name__}."
    mine, reference = torch.as_tensor(mine), torch.as_tensor(reference)
    if mine.shape != reference.shape:
        return f"your result has shape {tuple(mine.shape)}, the right one {tuple(reference.shape)}."
    off = _largest_difference(mine, reference)
    scale = max(reference.detach().double().abs().max().item(), 1.0) if mine.numel() else 1.0
    return None if off <= atol * scale else f"the largest difference is {off:.4g}."


def _largest_difference(mine: Tensor, reference: Tensor) -> float:
    if not mine.numel():
        return 0.0
    return (mine.detach().double() - reference.detach().double()).abs().max().item()


def _is_empty(answer: Callable) -> bool:
    """Whether a function, or a method of a class, still holds ``...`` or has no body."""
    return any(_holds_dots(code) or _does_nothing(code) for code in _codes(answer))


def _holds_dots(code: CodeType) -> bool:
    """Whether ``...`` is a placeholder, and not an index as in ``z[..., 1:]``."""
    if ... not in code.co_consts:
        return False
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
    except (OSError, SyntaxError):
        return True
    nodes = list(ast.walk(tree))
    indices = [n for index in nodes if isinstance(index, ast.Subscript) for n in ast.walk(index)]
    dots = [n for n in nodes if isinstance(n, ast.Constant) and n.value is ...]
    return any(dot not in indices for dot in dots)


def _codes(answer: Callable) -> list[CodeType]:
    functions = vars(answer).values() if isinstance(answer, type) else [answer]
    return [inspect.unwrap(f).__code__ for f in functions if hasattr(f, "__code__")]


def _what_stopped(answer: Callable, error: Exception) -> str:
    """The student's own lines of a traceback; without any, the returned value was the wrong one."""
    what = "".join(traceback.format_exception_only(error))
    frames = traceback.extract_tb(error.__traceback__)
    generated = "site-packages", "<eval_with_key"  # of libraries, and of torch.fx
    written = [f for f in frames if not any(word in f.filename for word in generated)]
    own_files = {code.co_filename for code in _codes(answer)}
    first = next((i for i, frame in enumerate(written) if frame.filename in own_files), None)
    if first is None:
        lost = " (Is a return missing?)" if "NoneType" in what else ""
        return f"does not return what is asked for.{lost}\n\n{what}"
    lines = traceback.format_list(written[first:])
    return f"stops with an error:\n\n{''.join(lines)}{what}"


def _does_nothing(code: CodeType) -> bool:
    steps = [step for step in dis.get_instructions(code) if step.opname not in ("RESUME", "NOP")]
    return len(steps) <= 2 and steps[-1].opname.startswith("RETURN") and steps[0].argval is None


def _readable(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
