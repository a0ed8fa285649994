"""The pages that `grading` writes: one per student, and one for what the teacher marks by hand.

Plain HTML without scripts and without anything from a network; what students wrote is escaped.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from sff_teach.util.files import atomic_write, make_folder, write_table

from .source import Assignment
from .submissions import Submission, code_of, file_name

STYLE = """
:root { color-scheme: light dark; --good: #00694c; --bad: #a33c00; --wait: #0a5a8a; }
@media (prefers-color-scheme: dark) { :root { --good: #5fd3a8; --bad: #ffab70; --wait: #7cc4f5; } }
body { font: 1rem/1.55 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem;
  overflow-wrap: anywhere; }
article { border: 1px solid; border-left-width: .4rem; border-radius: .4rem; padding: .7rem 1rem;
  margin: 0 0 .8rem; }
article h3 { font-size: 1rem; margin: 0; display: flex; flex-wrap: wrap; gap: 0 1rem;
  justify-content: space-between; }
.good { border-color: var(--good); } .good .mark { color: var(--good); }
.bad { border-color: var(--bad); } .bad .mark { color: var(--bad); }
.wait, .part { border-color: var(--wait); } .wait .mark, .part .mark { color: var(--wait); }
pre { overflow-x: auto; font: .9rem/1.45 ui-monospace, monospace; }
pre.words { white-space: pre-wrap; font: inherit; }
"""


def _page(title: str, body: list[str]) -> bytes:
    lines = "\n".join(body)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{lines}\n</main>\n</body>\n</html>\n"
    ).encode()


def _text(text: str, code: bool = False) -> str:
    # Long lines of code are scrolled, by keyboard as well.
    return f"<pre {'tabindex=0' if code else 'class=words'}>{escape(text)}</pre>"


def _article(kind: str, name: str, mark: str, body: str) -> str:
    return (
        f'<article class="{kind}"><h3><span>{escape(name)}</span><span class="mark">{mark}</span>'
        f"</h3>{body}</article>"
    )


def headings(work: Assignment) -> dict[str, str]:
    """The heading that each cell stands under, by grade id; the title by ""."""
    heading, found = work.name, {"": work.name}
    for cell in work.cells:
        for line in () if cell.code else cell.source.splitlines():
            if line.startswith("#"):
                heading = line.lstrip("#").strip().replace("$", "")
                if line.startswith("# ") and found[""] == work.name:
                    found[""] = heading
        if cell.grade_id:
            found[cell.grade_id] = heading
    return found


def student_page(work: Assignment, result: dict) -> bytes:
    """What one student gets to read."""
    tasks, heading = result["tasks"], headings(work)
    points = sum(t["points"] or 0 for t in tasks.values())
    most = sum(t["max"] for t in tasks.values())
    waiting = sum(t["max"] for t in tasks.values() if t["points"] is None)
    more = f", {waiting:g} more are still to be marked by hand" if waiting else ""
    parts = [
        f"<h1>{escape(heading[''])}</h1>",
        f"<p>{escape(result['student'])}: <strong>{points:g} of {most:g} points</strong>{more}</p>",
        "<h2>Tasks</h2>",
    ]
    answer, code = "", True
    for cell in work.cells:
        if cell.kind in ("answer", "by hand"):
            answer, code = result["answers"].get(cell.grade_id, ""), cell.code
        if cell.grade_id in tasks:
            kind, mark, text = _verdict(tasks[cell.grade_id])
            shown = f"<details><summary>Your answer</summary>{_text(answer, code)}</details>"
            body = f"<p>{escape(text)}</p>{shown if answer.strip() else ''}"
            parts.append(_article(kind, heading[cell.grade_id], mark, body))
    if result["notes"]:
        items = "".join(f"<li>{escape(note)}</li>" for note in result["notes"])
        parts.append(f"<h2>Notes</h2><ul>{items}</ul>")
    return _page(f"{heading['']}: {result['student']}", parts)


def _verdict(task: dict) -> tuple[str, str, str]:
    """The kind of a task's article, its mark, and what is said."""
    points, most = task["points"], task["max"]
    if points is None:
        return "wait", f"? of {most:g} points", "To be marked by hand."
    kind, sign = ("good", "✓ ") if points >= most else ("part", "") if points else ("bad", "✗ ")
    said = "All tests passed." if kind == "good" else task["error"] or ""
    if task.get("by_hand"):
        said = task["comment"] or "Marked by hand."
    return kind, f"{sign}{points:g} of {most:g} points", said


def by_hand_page(work: Assignment, marked: list[dict], names: dict[str, str]) -> bytes:
    """For the teacher: each written task with its mark scheme, then every student's answer."""
    heading = headings(work)
    title = f"{heading['']}: to be marked by hand"
    parts = [
        f"<h1>{escape(title)}</h1>",
        "<p>For the teacher only. Write points and comments into <code>manual.csv</code> and grade "
        "again; nothing is run a second time.</p>",
    ]
    for cell in work.marked:
        if cell.kind == "test":
            continue
        name = f"{heading[cell.grade_id]} ({cell.grade_id}, {cell.points:g} points)"
        parts.append(f"<h2>{escape(name)}</h2>")
        parts.append(f"<h3>Mark scheme</h3>{_text(cell.scheme)}" if cell.scheme else "")
        for result in marked:
            task = result["tasks"][cell.grade_id]
            got = "not marked" if task["points"] is None else f"{task['points']:g} points"
            body = _text(result["answers"].get(cell.grade_id, "").strip() or "(no answer)")
            if printed := task.get("printed", "").strip():
                above = "<p>Printed in the notebook, above the answer:</p>"
                body = above + _text(printed, code=True) + body
            parts.append(_article("wait", names[result["student"]], got, body))
    return _page(title, parts)


def write_pages(
    out: Path, work: Assignment, marked: list[dict], came: list[Submission], anonymous: bool
) -> None:
    """Write a page for each student, under the platform's name where there is one.

    Moodle takes a zip of ``feedback`` back because its folders keep Moodle's names, Canvas because
    the files do. ``by_hand.html`` and ``manual-todo.csv`` are written where a task needs them.
    """

    def write(path: Path, page: bytes) -> None:
        make_folder(path.parent)
        atomic_write(path, lambda file: file.write(page))

    for student, result in zip(came, marked, strict=True):
        place = Path(f"{file_name(student.student)}.html")
        if student.platform == "moodle":
            place = Path(file_name(student.folder), "feedback.html")
        elif student.platform == "canvas":
            place = Path(f"{file_name(student.folder)}.html")
        write(out / "feedback" / place, student_page(work, result))
    by_hand = [cell.grade_id for cell in work.marked if cell.kind == "by hand"]
    if by_hand:
        names = {s.student: code_of(s.student) if anonymous else s.student for s in came}
        order = sorted(marked, key=lambda result: names[result["student"]])
        write(out / "by_hand.html", by_hand_page(work, order, names))
        todo = [[names[result["student"]], grade_id, "", ""] for grade_id in by_hand
                for result in order if result["tasks"][grade_id]["points"] is None]  # fmt: skip
        write_table(out / "manual-todo.csv", [["student", "grade_id", "points", "comment"], *todo])
