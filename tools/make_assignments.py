"""Make the copies of every assignment from its source, and the table of usual mistakes.

    python tools/make_assignments.py

For each notebook under notebooks/assignments/source it writes the students' copy (release/, which
is committed), one with the answers for after the deadline (solution/) and one to mark by
(teacher/); git ignores the last two. Sources and copies get the current bootstrap cell.
Then it runs the check of tools/mutation_check.py and writes docs/teaching_mutations.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that this file also runs as a script

from tools import assignments, mutation_check  # noqa: E402
from tools.assignments import grade_id  # noqa: E402


def mark_scheme(notebook) -> str:
    """Return the marks of an assignment as a Markdown cell for the teacher's copy."""
    rows = ["## Mark scheme", "", "| task | points | given for |", "|---|---|---|"]
    total = 0
    for cell in notebook.cells:
        if "points" in cell.metadata.get("nbgrader", {}):
            points = cell.metadata.nbgrader["points"]
            total += points
            how = (
                "by hand, after the scheme in the cell"
                if assignments.is_marked_by_hand(cell)
                else "all tests passing, the visible and the hidden ones; else 0"
            )
            name = mutation_check.title(notebook, grade_id(cell))
            rows.append(f"| {name} | {points:g} | {how} |")
    rows.append(f"| together | {total:g} | |")
    rows += [
        "",
        "[docs/teaching_mutations.md](../../../../docs/teaching_mutations.md) lists the messages "
        "that students get for usual mistakes. Copies with answers or hidden tests are for you "
        "alone; hand out the files in `release/`.",
    ]
    return "\n".join(rows)


def copies(source: Path) -> dict[str, str]:
    """Return the texts of a source's ``"source"``, ``"release"``, ``"solution"``, ``"teacher"``."""
    notebook = assignments.read(source)
    made = {
        "source": notebook,
        "release": assignments.release(notebook),
        "solution": assignments.solution(notebook),
        "teacher": assignments.teacher(notebook, mark_scheme(notebook)),
    }
    return {kind: assignments.text_of(copy) for kind, copy in made.items()}


def main() -> int:
    for source in assignments.sources():
        for kind, text in copies(source).items():
            path = assignments.copy_path(source, kind)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        notebook = assignments.read(source)
        found = assignments.leaks(notebook, assignments.release(notebook))
        if found:
            print(f"{source.name}: the students' copy would give away {found}")
            return 1
        points = sum(assignments.points(notebook).values())
        print(f"{source.parent.name}: {len(assignments.points(notebook))} tasks, {points:g} points")
    return mutation_check.main()


if __name__ == "__main__":
    sys.exit(main())
