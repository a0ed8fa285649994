"""Put each usual mistake into an assignment's solution, and see that the students' tests name it.

    python tools/mutation_check.py          writes docs/teaching_mutations.md

The mistakes are in notebooks/assignments/mutations, by the grade id of the solution cell. Each has
a description, a change of the solution (`old` becomes `new`, or `code` replaces the solution), and
words of the visible tests' message for it (`says`).
"""

from __future__ import annotations

import copy
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that this file also runs as a script

from sff_grade.source import ADAPTER  # noqa: E402
from tools import assignments  # noqa: E402
from tools.assignments import SOLUTION, grade_id, is_test  # noqa: E402

PAGE = ROOT / "docs" / "teaching_mutations.md"
STUDENT = "ada17"
WANTED = 10  # usual mistakes for each task; `fewer` gives a reason for a smaller number


@dataclass(frozen=True)
class Task:
    """A task's usual mistakes: dicts with `mistake`, `says`, and `old` and `new`, or `code`."""

    cell: str
    mistakes: list[dict]
    fewer: str = ""


@dataclass(frozen=True)
class Outcome:
    """The result for a mistake: the message of the visible tests, None if they all passed."""

    cell: str
    mistake: str
    says: str
    message: str | None
    by_test: bool  # False if the mistake crashed and no test said anything

    @property
    def caught(self) -> bool:
        return self.message is not None and self.by_test and self.says in self.message


def tasks(source: Path) -> list[Task]:
    """Return the mistakes that belong to a source notebook."""
    path = assignments.FOLDER / "mutations" / f"{source.parent.name}.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [Task(cell, **entry) for cell, entry in content.items()]


def mutate(cell, mistake: dict):
    """Return a copy of a solution cell with a mistake in it."""
    cell = copy.deepcopy(cell)
    if "code" in mistake:
        lines = mistake["code"].rstrip("\n").split("\n")
        cell.source = assignments.replace_regions(
            cell.source,
            SOLUTION,
            lambda region: [_indent(region[0]) + line if line else "" for line in lines],
        )
        return cell
    count = cell.source.count(mistake["old"])
    if count != 1:
        raise ValueError(
            f"{grade_id(cell)}, {mistake['mistake']!r}: {mistake['old']!r} is {count} times in "
            "the solution; it must be there once"
        )
    cell.source = cell.source.replace(mistake["old"], mistake["new"])
    return cell


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def check(source: Path, student_id: str = STUDENT) -> list[Outcome]:
    """Run every mistake of a source's tasks against the visible tests of the same task."""
    notebook = assignments.read(source)
    assignments.set_student(notebook, student_id)
    by_cell = {task.cell: task for task in tasks(source)}
    code = [c for c in notebook.cells if c.cell_type == "code" and not assignments.is_bootstrap(c)]
    namespace: dict = {"__name__": "__main__"}
    outcomes = []
    for number, cell in enumerate(code):
        task = by_cell.pop(grade_id(cell), None)
        if task:
            test = next(i for i in range(number, len(code)) if is_test(code[i]))
            after = [assignments.visible(c) for c in code[number + 1 : test + 1]]
            adapters = [c for c in code[:number] if (grade_id(c) or "").endswith(ADAPTER)]
            for mistake in task.mistakes:
                cells = [*adapters, mutate(cell, mistake), *after]  # adapters call the mistake
                outcomes.append(_try(task.cell, mistake, cells, namespace))
        if not by_cell:
            break
        error = assignments.run_cell(cell, namespace)
        if error:
            raise RuntimeError(f"{source.name}: {cell.id} fails: {error}") from error
    if by_cell:
        raise ValueError(f"{source.name} has no cells {', '.join(by_cell)}")
    return outcomes


def _try(name: str, mistake: dict, cells: list, namespace: dict) -> Outcome:
    namespace = dict(namespace)  # without the mistake's definitions afterwards
    for cell in cells:
        error = assignments.run_cell(cell, namespace)
        if error:
            by_test = isinstance(error, AssertionError) and is_test(cell)
            message = str(error) if by_test else f"{type(error).__name__}: {error}"
            return Outcome(name, mistake["mistake"], mistake["says"], message, by_test)
    return Outcome(name, mistake["mistake"], mistake["says"], None, False)


def title(notebook, cell: str) -> str:
    """Return the heading above a solution cell."""
    heading = ""
    for c in notebook.cells:
        if c.cell_type == "markdown" and c.source.startswith("## "):
            heading = c.source.split("\n")[0].removeprefix("## ")
        if grade_id(c) == cell:
            return heading
    raise ValueError(f"no cell {cell}")


def table(outcomes: list[Outcome]) -> str:
    """Return the mistakes of a task and what the tests say, as a Markdown table."""
    rows = ["| mistake | what the student reads |", "|---|---|"]
    for outcome in outcomes:
        said = outcome.message if outcome.caught else f"**not caught:** {outcome.message}"
        rows.append(f"| {_cell(outcome.mistake)} | {_cell(said)} |")
    return "\n".join(rows)


def _cell(text: str) -> str:
    text = re.sub(r"\d+\.\d{4,}", "…", " ".join(str(text).split()))  # differs by machine
    for mark in "\\|*_<[$`":
        text = text.replace(mark, "\\" + mark)
    return text


def page(outcomes_of: dict[Path, list[Outcome]]) -> str:
    """Return docs/teaching_mutations.md."""
    count = sum(len(outcomes) for outcomes in outcomes_of.values())
    caught = sum(outcome.caught for outcomes in outcomes_of.values() for outcome in outcomes)
    parts = [
        "# The usual mistakes, and what the tests say",
        "<!-- written by tools/mutation_check.py; `make assignments` writes it anew -->",
        f"Each mistake below was put into the solution, and the tests that a student sees ran. "
        f"They caught {caught} of {count}, each with the message on its right. Use the table when "
        "you help: the left column is what happened, the right one what the student came with.",
    ]
    for source, outcomes in outcomes_of.items():
        notebook = assignments.read(source)
        heading = notebook.cells[0].source.split("\n")[0].removeprefix("# ")
        parts.append(f"## {heading}")
        for task in tasks(source):
            of_task = [outcome for outcome in outcomes if outcome.cell == task.cell]
            parts.append(f"### {title(notebook, task.cell)}")
            if task.fewer:
                parts.append(f"{len(of_task)} mistakes only: {task.fewer}")
            parts.append(table(of_task))
    return "\n\n".join(parts) + "\n"


def main() -> int:
    outcomes_of = {source: check(source) for source in assignments.sources()}
    PAGE.write_text(page(outcomes_of), encoding="utf-8")
    missed = [o for outcomes in outcomes_of.values() for o in outcomes if not o.caught]
    for outcome in missed:
        print(
            f"{outcome.cell}: {outcome.mistake!r} wanted {outcome.says!r}, got {outcome.message!r}"
        )
    print(f"{sum(map(len, outcomes_of.values()))} mistakes, {len(missed)} not caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
