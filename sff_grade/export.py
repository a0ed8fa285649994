"""The repaired notebooks in nbgrader's layout, for institutions that grade with nbgrader."""

from __future__ import annotations

import json
from pathlib import Path

from sff_teach.util.files import atomic_write, make_folder

from .source import Assignment
from .submissions import file_name


def write_submitted(out: Path, source: Path, work: Assignment, marked: list[dict]) -> None:
    """Write OUT/submitted/STUDENT/ASSIGNMENT/….ipynb, each answer in the cell it belongs to."""
    for result in marked:
        notebook = json.loads(source.read_text(encoding="utf-8"))
        cells = _own_cells(result, -1)
        for place, (cell, ours) in enumerate(zip(notebook["cells"], work.cells, strict=True)):
            cell["source"] = result["answers"].get(ours.grade_id) or ours.released
            cell |= {"outputs": [], "execution_count": None} if ours.code else {}
            if ours.kind == "free" and "STUDENT_ID" in ours.names:
                cell["source"] = f"STUDENT_ID = {(result['id'] or result['student'])!r}"
            cells += [cell, *_own_cells(result, place)]
        notebook["cells"] = cells
        folder = out / "submitted" / file_name(result["student"]) / source.parent.name
        make_folder(folder)
        text = json.dumps(notebook, indent=1).encode()
        atomic_write(folder / source.name, lambda file, text=text: file.write(text))


def _own_cells(result: dict, place: int) -> list[dict]:
    """The student's own cells behind a place: helpers that answers may call."""
    return [
        {"cell_type": "code", "id": f"own-{place + 1}-{n}", "metadata": {}, "outputs": [],
         "execution_count": None, "source": text}
        for n, text in enumerate(result["own"].get(str(place), []))
    ]  # fmt: skip
