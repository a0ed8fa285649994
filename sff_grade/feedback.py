"""The pages that `grading` writes: one per student, and one for what the teacher marks by hand.

Plain HTML without scripts and without anything from a network; what students wrote is escaped.
"""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from .output import save, write_table
from .returned import ANSWERS
from .source import Assignment
from .submissions import Submission, code_of, file_name

PAGES = Environment(loader=FileSystemLoader(Path(__file__).with_name("pages")), autoescape=True,
                    trim_blocks=True, lstrip_blocks=True)  # fmt: skip


def student_page(work: Assignment, result: dict) -> str:
    """What one student gets to read."""
    tasks, rows, answer = result["tasks"], [], ("", True)
    for cell in work.cells:
        if cell.kind in ANSWERS:
            answer = result["answers"].get(cell.grade_id, ""), cell.code
        if cell.grade_id in tasks:
            rows.append((cell.heading, *_verdict(tasks[cell.grade_id]), *answer))
    points = sum(t["points"] or 0 for t in tasks.values())
    most = sum(t["max"] for t in tasks.values())
    waiting = sum(t["max"] for t in tasks.values() if t["points"] is None)
    return PAGES.get_template("student.html").render(
        title=f"{work.cells[0].heading}: {result['student']}", tasks=rows, notes=result["notes"],
        points=f"{points:g}", most=f"{most:g}", waiting=f"{waiting:g}" if waiting else "",
    )  # fmt: skip


def _verdict(task: dict) -> tuple[str, str]:
    """A task's points, and what is said about them."""
    points, most = task["points"], task["max"]
    if points is None:
        return f"? of {most:g} points", "To be marked by hand."
    said = "All tests passed." if points >= most else task["error"] or ""
    if task.get("by_hand"):
        said = task["comment"] or "Marked by hand."
    sign = "✓ " if points >= most else "" if points else "✗ "
    return f"{sign}{points:g} of {most:g} points", said


def by_hand_page(work: Assignment, named: list[tuple[str, dict]]) -> str:
    """For the teacher: each written task with its mark scheme, then every student's answer.

    Args:
        work: The instructor's.
        named: Results, each behind the student's name or code.
    """
    title = f"{work.cells[0].heading}: to be marked by hand"
    page = PAGES.get_template("by_hand.html")
    return page.render(title=title, cells=work.of("by hand"), named=named)


def write_pages(
    out: Path, work: Assignment, marked: list[dict], came: list[Submission], anonymous: bool
) -> None:
    """Write a page for each student, under the platform's name where there is one.

    Moodle takes a zip of ``feedback`` back because its folders keep Moodle's names, Canvas because
    the files do. ``by_hand.html`` and ``manual-todo.csv`` are written where a task needs them.
    """
    for student, result in zip(came, marked, strict=True):
        name = file_name(student.folder if student.platform else student.student)
        page = f"{name}/feedback.html" if student.platform == "moodle" else f"{name}.html"
        save(out / "feedback" / page, student_page(work, result))
    names = [code_of(s.student) if anonymous else s.student for s in came]
    named = sorted(zip(names, marked, strict=True), key=lambda each: each[0])
    if work.of("by hand"):
        save(out / "by_hand.html", by_hand_page(work, named))
    todo = [{"student": name, "grade_id": cell.grade_id, "points": "", "comment": ""}
            for cell in work.of("by hand") for name, result in named
            if result["tasks"][cell.grade_id]["points"] is None]  # fmt: skip
    write_table(out / "manual-todo.csv", todo)
