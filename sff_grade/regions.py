"""The marked regions of a source notebook: solutions, hidden tests, mark schemes.

A region begins and ends with a line that holds ``BEGIN …`` and ``END …``, which is nbgrader's rule.
The grader and the tool that makes the students' copies both read regions with these functions.
"""

import re
from collections.abc import Callable, Iterator

SOLUTION, HIDDEN, SCHEME = "SOLUTION", "HIDDEN TESTS", "MARK SCHEME"
CODE_STUB = ["# YOUR CODE HERE", "raise NotImplementedError()"]  # nbgrader's own
TEXT_STUB = ["YOUR ANSWER HERE"]


def regions(text: str, kind: str) -> Iterator[tuple[bool, list[str]]]:
    """Yield (inside, lines) for the parts of a cell outside and inside regions of a kind.

    The lines with the marks come first and last in an inside part.

    Raises:
        ValueError: The marks do not match.
    """
    begin, end = f"BEGIN {kind}", f"END {kind}"
    inside, part = False, []
    for line in text.split("\n"):
        if (inside and begin in line) or (not inside and end in line):
            raise ValueError(f"{begin} and {end} do not take turns; look at the line {line!r}")
        if begin in line:
            yield False, part
            inside, part = True, []
        part.append(line)
        if end in line:
            yield True, part
            inside, part = False, []
    if inside:
        raise ValueError(f"{begin} without its {end}")
    yield False, part


def replace_regions(text: str, kind: str, make: Callable[[list[str]], list[str]]) -> str:
    """Return a text with the lines of every region of a kind replaced by what ``make`` returns."""
    parts = [make(part) if inside else part for inside, part in regions(text, kind)]
    return "\n".join(line for part in parts for line in part)


def with_stub(text: str, stub: list[str]) -> str:
    """Return a text with a stub in the place of each solution, indented like it."""
    return replace_regions(
        text, SOLUTION, lambda lines: [re.match(r"\s*", lines[0])[0] + line for line in stub]
    )
