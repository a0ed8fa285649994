"""The pages that `grading` writes: one per student, and one for what the teacher marks by hand.

Plain HTML without scripts and without anything from a network; what students wrote is
escaped.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from sff_teach.util.files import atomic_write, make_folder, write_table

from .source import Assignment
from .submissions import Submission, code_of, file_name

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1a1a1a; --line: #c8c8c8; --soft: #f4f4f2;
  --good: #00694c; --bad: #a33c00; --wait: #0a5a8a; background: var(--paper); color: var(--ink); }
@media (prefers-color-scheme: dark) { :root { --paper: #121212; --ink: #ececec; --line: #555;
  --soft: #262626; --good: #5fd3a8; --bad: #ffab70; --wait: #7cc4f5; } }
body { background: var(--paper); font: 1rem/1.55 system-ui, sans-serif; max-width: 46rem;
  margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
.score { font-size: 1.25rem; margin: 0 0 1rem; }
article { border: 1px solid var(--line); border-left-width: .4rem; border-radius: .4rem;
  padding: .7rem 1rem; margin: 0 0 .8rem; }
article h3 { font-size: 1rem; margin: 0; display: flex; flex-wrap: wrap; gap: 0 1rem;
  justify-content: space-between; }
article p { margin: .4rem 0 0; }
.good { border-left-color: var(--good); } .good .mark { color: var(--good); }
.bad { border-left-color: var(--bad); } .bad .mark { color: var(--bad); }
.wait, .part { border-left-color: var(--wait); } .wait .mark, .part .mark { color: var(--wait); }
.mark { white-space: nowrap; }
pre { background: var(--soft); padding: .7rem; overflow-x: auto; border-radius: .3rem;
  font: .9rem/1.45 ui-monospace, monospace; }
pre.words { white-space: pre-wrap; font: inherit; }
summary { cursor: pointer; margin-top: .4rem; } li { margin: .25rem 0; }
"""


def _page(title: str, body: str) -> bytes:
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n"
        "</main>\n</body>\n</html>\n"
    ).encode()


def _code(text: str) -> str:
    # Long lines are scrolled, by keyboard as well.
    return f'<pre tabindex="0">{escape(text)}</pre>'


def _words(text: str) -> str:
    return f'<pre class="words">{escape(text)}</pre>'


def _number(points: float) -> str:
    return f"{points:g}"


def headings(assignment: Assignment) -> dict[str, str]:
    """For each task the heading that it stands under."""
    heading, found = "", {}
    for cell in assignment.cells:
        if not cell.code:
            lines = [x for x in cell.source.splitlines() if x.startswith("#")]
            heading = lines[-1].lstrip("#").strip() if lines else heading
        if cell.grade_id:
            found[cell.grade_id] = heading.replace("$", "")
    return found


def student_page(assignment: Assignment, result: dict) -> bytes:
    """What one student gets to read."""
    tasks, heading = result["tasks"], headings(assignment)
    points = sum(t["points"] or 0 for t in tasks.values())
    most = sum(t["max"] for t in tasks.values())
    waiting = sum(t["max"] for t in tasks.values() if t["points"] is None)
    parts = [
        f"<h1>{escape(assignment.title)}</h1>",
        f'<p class="score">{escape(result["student"])}: <strong>{_number(points)} of '
        f"{_number(most)} points</strong>"
        + (f", {_number(waiting)} more are still to be marked by hand" if waiting else "")
        + "</p>",
        "<h2>Tasks</h2>",
    ]
    answers = result.get("answers", {})
    for grade_id, task in tasks.items():
        if task["points"] is None:
            kind, word = "wait", f"? of {_number(task['max'])} points"
            text = "To be marked by hand."
        else:
            full, some = task["points"] >= task["max"], task["points"] > 0
            kind, sign = ("good", "✓ ") if full else ("part", "") if some else ("bad", "✗ ")
            word = f"{sign}{_number(task['points'])} of {_number(task['max'])} points"
            text = "All tests passed." if full else task["error"] or ""
            if task.get("by_hand"):
                text = task["comment"] or "Marked by hand."
        if "answer" in task:
            answer, show = task["answer"].strip(), _words
        else:
            answer, show = "\n\n".join(answers.get(assignment.answer_of(grade_id), [])), _code
        shown = f"<details><summary>Your answer</summary>{show(answer)}</details>"
        name = heading.get(grade_id) or grade_id
        parts.append(
            f'<article class="{kind}"><h3><span>{escape(name)}</span>'
            f'<span class="mark">{word}</span></h3><p>{escape(text)}</p>'
            + f"{shown if answer.strip() else ''}</article>"
        )
    if result["notes"]:
        items = "".join(f"<li>{escape(note)}</li>" for note in result["notes"])
        parts.append(f"<h2>Notes</h2><ul>{items}</ul>")
    return _page(f"{assignment.title}: {result['student']}", "\n".join(parts))


def by_hand_page(assignment: Assignment, marked: list[dict], names: dict[str, str]) -> bytes:
    """For the teacher: each written task with its mark scheme, then every student's answer."""
    heading = headings(assignment)
    parts = [
        f"<h1>{escape(assignment.title)}: to be marked by hand</h1>",
        "<p>For the teacher only. Write points and comments into <code>manual.csv</code> and grade "
        "again; nothing is run a second time.</p>",
    ]
    for cell in assignment.by_hand:
        parts.append(
            f"<h2>{escape(heading.get(cell.grade_id) or cell.grade_id)} "
            f"({escape(cell.grade_id)}, {_number(cell.points)} points)</h2>"
        )
        if cell.scheme:
            parts.append(f"<h3>Mark scheme</h3>{_words(cell.scheme)}")
        for result in marked:
            task = result["tasks"][cell.grade_id]
            got = "not marked" if task["points"] is None else f"{_number(task['points'])} points"
            answer = task.get("answer", "").strip() or "(no answer)"
            printed = task.get("printed", "").strip()
            if printed:
                printed = f"<p>Printed in the notebook, above the answer:</p>{_code(printed)}"
            parts.append(
                f'<article class="wait"><h3><span>{escape(names[result["student"]])}</span>'
                f'<span class="mark">{got}</span></h3>{printed}{_words(answer)}</article>'
            )
    return _page(f"{assignment.title}: to be marked by hand", "\n".join(parts))


def write_pages(
    out: Path, assignment: Assignment, marked: list[dict], came: dict[str, Submission],
    anonymous: bool = False,
) -> None:  # fmt: skip
    """Write a page for each student, under the platform's name where there is one.

    Moodle takes a zip of ``feedback`` back because its folders keep Moodle's names, Canvas because
    the files do. ``by_hand.html`` and ``manual-todo.csv`` are written where a task needs them.
    """
    folder = out / "feedback"
    make_folder(folder)
    for result in marked:
        submission = came[result["student"]]
        place = folder / f"{file_name(result['student'])}.html"
        if submission.platform == "moodle":
            place = folder / file_name(submission.folder) / "feedback.html"
        elif submission.platform == "canvas":
            place = folder / f"{file_name(submission.folder)}.html"
        make_folder(place.parent)
        page = student_page(assignment, result)
        atomic_write(place, lambda file, page=page: file.write(page))
    if assignment.by_hand:
        names = {s: code_of(s) if anonymous else s for s in came}
        order = sorted(marked, key=lambda result: names[result["student"]])
        page = by_hand_page(assignment, order, names)
        atomic_write(out / "by_hand.html", lambda file: file.write(page))
        rows = [["student", "grade_id", "points", "comment"]]
        for cell in assignment.by_hand:
            for result in order:
                if result["tasks"][cell.grade_id]["points"] is None:
                    rows.append([names[result["student"]], cell.grade_id, "", ""])
        write_table(out / "manual-todo.csv", rows)
