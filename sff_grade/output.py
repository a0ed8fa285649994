"""What is written of a class: marks, gradebooks, leaderboard, what is alike, nbgrader's folder."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path

from sff_teach import classroom
from sff_teach.util.files import atomic_write

from .source import Assignment
from .submissions import Submission, code_of, file_name
from .tables import write_table

COMMON = 60  # characters of an answer that two students may well have in common


def save(path: Path, text: str) -> None:
    """Write a text into a file, and the folders above it, in one go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, lambda file: file.write(text.encode()))


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
        _write(out / f"{name}.csv", table)


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    """Write a table, or remove the one that was there where there is nothing to write.

    No cell holds a line end, or what separates cells where the decimal point is a comma.
    """
    table = [list(row) for row in rows[:1]] + [list(row.values()) for row in rows]
    table = [[re.sub(r"[;\t\r\n]+", ",", cell) for cell in row] for row in table]
    write_table(path, table) if table else path.unlink(missing_ok=True)


def write_leaderboard(out: Path, marked: list[dict], anonymous: bool) -> None:
    """Write leaderboard.csv where tests gave entries, by their first number, the best first."""
    entries = [(list(r["entry"].values()), r["student"], r["entry"]) for r in marked if r["entry"]]
    rows = [
        {"place": str(place), "student": code_of(student) if anonymous else student,
         **{name: f"{number:.1f}" for name, number in entry.items()}}
        for place, (_, student, entry) in enumerate(sorted(entries, reverse=True), 1)
    ]  # fmt: skip
    _write(out / "leaderboard.csv", rows)


def similar(marked: list[dict]) -> list[dict[str, str]]:
    """The rows of similar.csv: equal long answers, and ids or seeds that belong to another."""
    texts, ids = defaultdict(list), defaultdict(list)
    seeds = {str(classroom.seed(r["id"])): r["student"] for r in marked if r["id"].strip()}
    printed = []
    for result in marked:
        student = result["student"]
        ids[result["id"].casefold()].append(student)
        for grade_id, answer in result["answers"].items():
            text = re.sub(r"#[^\n]*|\s+", "", answer)
            if len(text) > COMMON and "NotImplementedError" not in text:
                texts[len(text), grade_id, text].append(student)
        found = re.search(r"your seed: (\d{1,10})\b", result["printed"])
        if found and seeds.get(found[1], student) != student:
            printed.append(("printed the seed of another", "", [student, seeds[found[1]]]))
    groups = [(f"the same answer to {grade_id}", str(size), names)
              for (size, grade_id, _), names in sorted(texts.items(), reverse=True)]  # fmt: skip
    groups += printed + [(f"the same STUDENT_ID, {i}", "", names) for i, names in ids.items() if i]
    return [{"what": what, "characters": size, "students": " | ".join(names)}
            for what, size, names in groups if len(names) > 1]  # fmt: skip


def write_submitted(out: Path, source: Path, work: Assignment, marked: list[dict]) -> None:
    """Write OUT/submitted/STUDENT/ASSIGNMENT/….ipynb, each answer in the cell it belongs to.

    This is nbgrader's layout, for institutions that grade with it. Students' own cells follow the
    cell that they stood behind.
    """
    for result in marked:
        notebook = json.loads(source.read_text(encoding="utf-8"))
        cells = []
        for place, (cell, ours) in enumerate(zip(notebook["cells"], work.cells, strict=True)):
            cell["source"] = result["answers"].get(ours.grade_id) or ours.released
            cell |= {"outputs": [], "execution_count": None} if ours.code else {}
            if ours.kind == "free" and "STUDENT_ID" in ours.names:
                cell["source"] = f"STUDENT_ID = {(result['id'] or result['student'])!r}"
            first = result["own"].get("-1", []) if place == 0 else []
            own = [
                {"cell_type": "code", "id": f"own-{place}-{number}", "metadata": {}, "outputs": [],
                 "execution_count": None, "source": text}
                for number, text in enumerate([*first, *result["own"].get(str(place), [])])
            ]  # fmt: skip
            cells += [*own[: len(first)], cell, *own[len(first) :]]
        folder = out / "submitted" / file_name(result["student"]) / source.parent.name
        save(folder / source.name, json.dumps(notebook | {"cells": cells}, indent=1))
