"""docs/reliability.md: what the tests of this folder saw, for the reader whose run it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"

WHAT = {  # the columns of the first table
    "train": "train",
    "compare": "compare",
    "grade": "grade",
    "download": "download",
}
FAULTS = {  # heading → how it is made
    "It is killed": "`SIGKILL`, which no program can answer, at random moments spread over a whole "
    "run; and at the worst one, while a file is being written, whose end then never reaches the "
    "disk. Then the same command again.",
    "The disk is full": "A small disk of the test's own, filled to the last byte while or before "
    "the command runs. Then space is made, and the same command is given again.",
    "The folder is read-only": "A read-only mount, which binds the administrator as well.",
    "Two at once": "Two processes with one folder or file.",
    "The clock jumps": "During the run the system's clock is set by days, forth and back in turn, "
    "between any two looks at it.",
    "A file is damaged": "A file that an earlier run has left is cut off, or zeroed in the middle, "
    "as after a power cut or a full quota.",
}
INTRO = """\
# When something goes wrong

What happens to a run when the machine fails it. Everything here was made to happen: `make
reliability` makes each fault, looks at what is left, and writes this page; the tests fail if it
says something else than they saw. Sentences in quotes are what the command printed.

What stands behind it: a file is written beside its place and moved there once it is on the disk, so
it is whole or not there. A file of runs grows by whole lines. Whatever has a checksum is checked
before it is read. And what is finished is not done again: the same command goes on."""


@dataclass(frozen=True)
class Row:
    """One fault happened to one command."""

    fault: str
    what: str
    short: str
    """For the first table: one or two words."""
    command: str
    happens: str

    def line(self) -> str:
        return f"| {self.command} | {self.happens} |"


def render(rows: list[Row]) -> str:
    """The page."""
    lines = [INTRO, "", f"| | {' | '.join(WHAT.values())} |", "|---" * (len(WHAT) + 1) + "|"]
    for fault in FAULTS:
        cells = []
        for what in WHAT:
            short = [r.short for r in rows if r.fault == fault and r.what == what and r.short]
            cells.append("; ".join(dict.fromkeys(short)) or "–")
        lines.append(f"| {fault.lower()} | {' | '.join(cells)} |")
    for fault, how in FAULTS.items():
        lines += ["", f"## {fault}", "", how, "", "| the command | what happens |", "|---|---|"]
        order = list(WHAT)
        found = [r for r in rows if r.fault == fault]
        lines += [r.line() for r in sorted(found, key=lambda r: order.index(r.what))]
    return "\n".join(lines) + "\n"
