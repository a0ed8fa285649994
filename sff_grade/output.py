"""What is written of a class: marks, gradebooks, leaderboard, what is alike, nbgrader's folder.

Files are written in one go, and CSV files are safe to open in a spreadsheet.
"""

import csv
import io
import json
import re
from collections import defaultdict
from pathlib import Path

from sff_teach import classroom
from sff_teach.util.files import atomic_write

from .source import Assignment
from .submissions import Submission, code_of, file_name, readable

COMMON = 60  # characters of an answer that two students may well have in common
FORMULA = r"[=+@]|-(?!\d+(\.\d+)?$)"  # how one begins in a spreadsheet; a negative number is none


def save(path: Path, text: str) -> None:
    """Write a text into a file, and the folders above it, in one go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, lambda file: file.write(text.encode()))


def write_table(path: Path, rows: list[dict[str, str]]) -> None:
    """Write a CSV file that Excel reads as UTF-8; without rows, remove the one that was there.

    No text becomes a formula. No cell holds a line end, or what separates cells where the decimal
    point is a comma.
    """
    if not rows:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    table = csv.DictWriter(text, dict.fromkeys(name for row in rows for name in row))
    table.writeheader()
    table.writerows({name: _safe(cell) for name, cell in row.items()} for row in rows)
    save(path, "\ufeff" + text.getvalue())


def _safe(cell: str) -> str:
    cell = re.sub(r"[;\t\r\n]+", ",", cell)
    return f"'{cell}" if re.match(FORMULA, cell) else cell


def read_table(path: Path) -> list[dict[str, str]]:
    """Read a CSV file as spreadsheets save it: UTF-8 or Windows-1252, with commas, ; or tabs.

    Returns its rows by the columns' names; what a short row lacks is empty.
    """
    text = readable(path.read_bytes())
    comma = max(",;\t", key=text.partition("\n")[0].count)
    rows = csv.DictReader(io.StringIO(text, newline=""), restkey="", restval="", delimiter=comma)
    return [{n: re.sub(f"^'(?={FORMULA})", "", c) for n, c in row.items() if n} for row in rows]


def write_marks(out: Path, work: Assignment, came: list[Submission], marked: list[dict]) -> None:
    """Write marks.csv, similar.csv, and the gradebook of the platform that the files came from."""
    rows, canvas, moodle = [], [], []
    for submission, result in zip(came, marked, strict=True):
        tasks, number = result["tasks"], submission.number
        score = f"{sum(task['points'] or 0 for task in tasks.values()):g}"
        points = {i: "" if t["points"] is None else f"{t['points']:g}" for i, t in tasks.items()}
        rows.append({
            "assignment": work.name,
            "student": submission.student,
            "platform id": number,
            "late": "LATE" if submission.late else "",
            "id in the notebook": result["id"],
            "score": score,
            "max_score": f"{sum(task['max'] for task in tasks.values()):g}",
            **points,
            "by hand": " ".join(i for i, task in tasks.items() if task.get("by_hand")),
            "to be marked by hand": " ".join(i for i, text in points.items() if not text),
            "notes": " ".join(result["notes"]),
            "isolated": "yes" if result["isolated"] else "no",
        })  # fmt: skip
        if submission.platform == "canvas":
            canvas.append({"Student": submission.name, "ID": number, "SIS User ID": "",
                           "SIS Login ID": "", "Section": "", work.name: score})  # fmt: skip
        elif submission.platform == "moodle":  # it reads no table without the last column
            moodle.append({"Identifier": f"Participant {number}", "Full name": submission.name,
                           "Grade": score, "Last modified (grade)": ""})  # fmt: skip
    tables = {"marks": rows, "similar": similar(marked), "canvas": canvas, "moodle": moodle}
    for name, table in tables.items():
        write_table(out / f"{name}.csv", table)


def write_leaderboard(out: Path, marked: list[dict], anonymous: bool) -> None:
    """Write leaderboard.csv where tests gave entries, by their first number, the best first."""
    entered = [result for result in marked if result["entry"]]
    best_first = sorted(entered, key=lambda r: list(r["entry"].values()), reverse=True)
    rows = [
        {"place": str(place), "student": code_of(r["student"]) if anonymous else r["student"],
         **{name: f"{number:.1f}" for name, number in r["entry"].items()}}
        for place, r in enumerate(best_first, 1)
    ]  # fmt: skip
    write_table(out / "leaderboard.csv", rows)


def similar(marked: list[dict]) -> list[dict[str, str]]:
    """The rows of similar.csv: equal long answers, and ids or seeds that belong to another."""
    alike = defaultdict(list)  # students by (what is alike, its characters, it)
    seeds = {str(classroom.seed(r["id"])): r["student"] for r in marked if r["id"].strip()}
    for result in marked:
        student, own_id = result["student"], result["id"].casefold()
        for grade_id, answer in result["answers"].items():
            text = re.sub(r"#[^\n]*|\s+", "", answer)
            if len(text) > COMMON and "NotImplementedError" not in text:
                alike[f"the same answer to {grade_id}", len(text), text].append(student)
        found = re.search(r"your seed: (\d{1,10})\b", result["printed"])
        if found and seeds.get(found[1], student) != student:
            alike["printed the seed of another", 0, student] = [student, seeds[found[1]]]
        if own_id:
            alike[f"the same STUDENT_ID, {own_id}", 0, own_id].append(student)
    longest_first = sorted(alike.items(), key=lambda group: -group[0][1])
    return [{"what": what, "characters": str(size or ""), "students": " | ".join(names)}
            for (what, size, _), names in longest_first if len(names) > 1]  # fmt: skip


def write_submitted(out: Path, source: Path, work: Assignment, marked: list[dict]) -> None:
    """Write OUT/submitted/STUDENT/ASSIGNMENT/….ipynb, each answer in the cell it belongs to.

    This is nbgrader's layout, for institutions that grade with it. Students' own cells follow the
    cell that they stood behind.
    """
    empty = {"outputs": [], "execution_count": None}
    for result in marked:
        notebook = json.loads(source.read_text(encoding="utf-8"))
        cells = []
        for place, (cell, ours) in enumerate(zip(notebook["cells"], work.cells, strict=True)):
            cell["source"] = result["answers"].get(ours.grade_id) or ours.released
            if ours.kind == "free" and "STUDENT_ID" in ours.names:
                cell["source"] = f"STUDENT_ID = {(result['id'] or result['student'])!r}"
            cells.append(cell | (empty if ours.code else {}))
            for number, text in enumerate(result["own"].get(str(place), [])):
                own = {"cell_type": "code", "id": f"own-{place}-{number}", "metadata": {}}
                cells.append(own | empty | {"source": text})
        folder = out / "submitted" / file_name(result["student"]) / source.parent.name
        save(folder / source.name, json.dumps(notebook | {"cells": cells}, indent=1))
