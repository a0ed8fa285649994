"""How long a class takes: 100 returned copies of assignment 1, each with a student's id of its own.

    python results/grading_speed.py [NUMBER]

Every third copy lacks one answer, every tenth has none. Needs what ``sff-grade`` needs: Linux and
bubblewrap. Writes grading_speed.md.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # the tools that make assignments are not installed

from sff_grade.grading import grade  # noqa: E402
from sff_teach.study import machine  # noqa: E402
from tools import assignments  # noqa: E402


def returned(source: Path, number: int) -> str:
    """The students' copy with answers in it, as student ``number`` hands it in."""
    notebook = assignments.read(source)
    empty, copy = assignments.release(notebook), assignments.answered(notebook)
    answers = [i for i, cell in enumerate(notebook.cells) if assignments.is_answer(cell)]
    lacking = answers if number % 10 == 0 else []
    if number % 3 == 0:
        lacking = [*lacking, answers[number // 3 % len(answers)]]
    for i in lacking:
        copy.cells[i] = empty.cells[i]
    assignments.set_student(copy, f"student{number:03}")
    return assignments.text_of(copy)


def main() -> None:
    """Write the copies, grade them, say how long it took."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    source = assignments.sources()[0]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "returned"
        place.mkdir()
        for number in range(1, count + 1):
            (place / f"student{number:03}.ipynb").write_text(returned(source, number), "utf-8")
        load = os.getloadavg()[0]
        start = time.perf_counter()
        marked = grade(place, source, Path(folder) / "marks")
        seconds = time.perf_counter() - start
    points = [sum(task["points"] or 0 for task in row["tasks"].values()) for row in marked]
    made = machine()
    text = [
        "# How long a class takes to grade",
        "",
        "Written by `python results/grading_speed.py`; do not edit.",
        f"{count} copies of assignment 1, {made['cores']} cores of {made['device']}, load "
        f"{load:.1f} before: **{seconds:.0f} s**, {seconds / count:.1f} s a copy, the check of the "
        f"instructor's own answers included. Points from {min(points):g} to {max(points):g}.",
    ]
    (HERE / "grading_speed.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    print(text[-1])


if __name__ == "__main__":
    main()
