"""The pages that `grading` writes: one per student, and one for what the teacher marks by hand.

Plain HTML without scripts and without anything from a network; what students wrote is escaped.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from .output import save
from .source import Assignment
from .submissions import Submission, code_of, file_name
from .tables import write_table

PAGE = Path(__file__).with_name("page.html").read_text(encoding="utf-8")


def _page(title: str, parts: list[str]) -> str:
    return PAGE.format(title=escape(title), body="\n".join(parts))


def _text(text: str, code: bool = False) -> str:
    # Long lines of code are scrolled, by keyboard as well.
    return f"<pre {'tabindex=0' if code else 'class=words'}>{escape(text)}</pre>"


def headings(work: Assignment) -> dict[str | None, str]:
    """The heading that each marked cell stands under, by its grade id; the first one by None."""
    heading, found = work.name, {}
    for cell in work.cells:
        lines = [] if cell.code else [x for x in cell.source.splitlines() if x.startswith("#")]
        heading = lines[-1].lstrip("#").strip().replace("$", "") if lines else heading
        found.setdefault(cell.grade_id, heading)
    return found


def student_page(work: Assignment, result: dict) -> str:
    """What one student gets to read."""
    tasks, heading = result["tasks"], headings(work)
    points = sum(t["points"] or 0 for t in tasks.values())
    waiting = sum(t["max"] for t in tasks.values() if t["points"] is None)
    more = f", {waiting:g} more are still to be marked by hand" if waiting else ""
    most = sum(t["max"] for t in tasks.values())
    parts = [f"<p><strong>{points:g} of {most:g} points</strong>{more}</p>", "<h2>Tasks</h2>"]
    answer, code = "", True
    for cell in work.cells:
        if cell.kind in ("answer", "by hand"):
            answer, code = result["answers"].get(cell.grade_id, ""), cell.code
        if cell.grade_id in tasks:
            verdict, said = _verdict(tasks[cell.grade_id])
            shown = f"<details><summary>Your answer</summary>{_text(answer, code)}</details>"
            parts.append(
                f"<article><h3>{escape(heading[cell.grade_id])}: {verdict}</h3>"
                f"<p>{escape(said)}</p>{shown if answer.strip() else ''}</article>"
            )
    if result["notes"]:
        items = "".join(f"<li>{escape(note)}</li>" for note in result["notes"])
        parts.append(f"<h2>Notes</h2><ul>{items}</ul>")
    return _page(f"{heading[None]}: {result['student']}", parts)


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
    heading = headings(work)
    parts = [
        "<p>For the teacher only. Write points and comments into <code>manual.csv</code> and grade "
        "again; nothing is run a second time.</p>",
    ]
    for cell in [cell for cell in work.marked if cell.kind == "by hand"]:
        title = f"{heading[cell.grade_id]} ({cell.grade_id}, {cell.points:g} points)"
        parts.append(f"<h2>{escape(title)}</h2>")
        parts.append(f"<h3>Mark scheme</h3>{_text(cell.scheme)}" if cell.scheme else "")
        for name, result in named:
            task = result["tasks"][cell.grade_id]
            got = "not marked" if task["points"] is None else f"{task['points']:g} points"
            body = _text(result["answers"].get(cell.grade_id, "").strip() or "(no answer)")
            if printed := task.get("printed", "").strip():
                above = "<p>Printed in the notebook, above the answer:</p>"
                body = above + _text(printed, code=True) + body
            parts.append(f"<article><h3>{escape(name)}: {got}</h3>{body}</article>")
    return _page(f"{heading[None]}: to be marked by hand", parts)


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
    by_hand = [cell.grade_id for cell in work.marked if cell.kind == "by hand"]
    if by_hand:
        names = [code_of(s.student) if anonymous else s.student for s in came]
        named = sorted(zip(names, marked, strict=True), key=lambda each: each[0])
        save(out / "by_hand.html", by_hand_page(work, named))
        todo = [[name, grade_id, "", ""] for grade_id in by_hand for name, result in named
                if result["tasks"][grade_id]["points"] is None]  # fmt: skip
        write_table(out / "manual-todo.csv", [["student", "grade_id", "points", "comment"], *todo])
