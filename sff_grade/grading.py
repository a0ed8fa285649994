"""Mark a class: find what came, have it judged, and write marks, gradebooks and pages."""

import hashlib
import json
import os
import re
import tempfile
import threading
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.pool import ThreadPool
from pathlib import Path

import tyro
from tqdm.auto import tqdm
from tyro.conf import Positional

from sff_teach.util.checks import SFFError, check_count, check_positive, exit_code

from .feedback import write_pages
from .jail import Rules, lacking, make_room
from .judge import mark, not_marked, prepare
from .output import read_table, save, write_leaderboard, write_marks, write_submitted
from .source import Assignment, find_source, read_source
from .submissions import Submission, code_of, file_name, find_submissions

VERSION = 8  # of the way of marking; another one marks everything anew


def main(args: list[str] | None = None) -> int:
    """Grade a folder; a bad argument ends in one sentence and exit code 2, Ctrl-C in 130."""
    options = {"args": args, "prog": "sff-grade", "config": [tyro.conf.FlagCreatePairsOff]}
    return exit_code("sff-grade", lambda: tyro.cli(grade, **options), ValueError, TypeError)


def grade(
    folder: Positional[Path],
    source: Path = Path("notebooks/assignments/source"),
    out: Path = Path("marks"),
    *,
    seconds: float = 20,
    memory: float = 2,
    notebook: float = 300,
    jobs: int | None = None,
    no_isolation: bool = False,
    again: tuple[str, ...] = (),
    nbgrader: bool = False,
    anonymous: bool = False,
) -> list[dict]:
    """Grade a folder of returned notebooks: marks.csv and a feedback page for each student.

    The same command again goes on where it was: what is in OUT/results already, of the same
    notebook, is not run again. Points from OUT/manual.csv go over those of the tests.

    Args:
        folder: Holds STUDENT/….ipynb or STUDENT.ipynb; what a platform's zip unpacks to.
        source: The instructor's notebook. Or the folder of all of them: then the name of the
            folder that is graded says which, a1 for example.
        out: Marks, pages and results go here.
        seconds: Of computing, for each cell and each call of an answer.
        memory: GiB for each notebook, on top of what torch itself takes.
        notebook: Seconds by the clock for each notebook.
        jobs: Notebooks at a time; one for each core if not given.
        no_isolation: Run student code with your own rights; the marks say so.
        again: Students to mark anew, as marks.csv names them.
        nbgrader: Also write the repaired notebooks as nbgrader wants them, into OUT/submitted.
        anonymous: Codes in place of names in what is marked by hand and in the leaderboard.

    Returns:
        A result for each student.

    Raises:
        SFFError: There is nothing to mark, the source fails its own tests, or student code cannot
            be isolated.
    """
    check_positive(seconds=seconds, memory=memory, notebook=notebook)
    check_count(jobs or 1, "jobs")
    if not folder.is_dir():
        raise SFFError(f"folder={folder} is not a folder; unpack the returned notebooks first")
    path = find_source(source, folder)
    work = read_source(path)
    came = find_submissions(folder, work.name, out)
    if no_isolation:
        print("No isolation, as asked: student code runs with your rights and reads your files.")
    elif why := lacking():
        raise SFFError(f"{why}; --no-isolation runs student code with your own rights")
    if unknown := set(again) - {s.student for s in came}:
        raise SFFError(f"again={min(unknown)}: nobody here is called that")
    (out / "results").mkdir(mode=0o700, parents=True, exist_ok=True)
    manual = read_manual(out / "manual.csv", work, came)
    rules = Rules(seconds, memory, notebook, not no_isolation, (path.parent, folder, out))
    places = {s.student: out / "results" / f"{file_name(s.student)}.json" for s in came}
    keys = {s.student: _key(rules, path, *s.files) for s in came}
    results = {student: _stored(places[student], keys[student]) for student in places}
    todo = [s for s in came if results[s.student] is None or s.student in again]
    print(f"{work.name}: {len(came)} students, {len(todo)} to be marked")
    for result in mark_all(work, rules, path, todo, jobs or os.cpu_count() or 1):
        student = result["student"]
        results[student] = result | {"key": keys[student], "isolated": rules.isolated}
        save(places[student], json.dumps(results[student], indent=1))
    for (student, grade_id), entry in manual.items():
        results[student]["tasks"][grade_id] |= entry
    marked = [results[s.student] for s in came]
    write_marks(out, work, came, marked)
    write_leaderboard(out, marked, anonymous)
    write_pages(out, work, marked, came, anonymous)
    if nbgrader:
        write_submitted(out, path, work, marked)
    print(f"Marks in {out / 'marks.csv'}, pages in {out / 'feedback'}.")
    if waiting := sum(t["points"] is None for r in marked for t in r["tasks"].values()):
        print(f"{waiting} answers are to be marked by hand: see {out / 'by_hand.html'}.")
    return marked


def mark_all(
    work: Assignment, rules: Rules, source: Path, todo: list[Submission], jobs: int
) -> Iterator[dict]:
    """Check that the source passes its own tests, then mark; yield results as they come.

    Raises:
        SFFError: The instructor's own solution lacks points.
    """
    if not todo:
        return
    judges = threading.local()  # one process for each thread

    def one(submission: Submission) -> dict:
        if not submission.files:
            others = ", ".join(sorted(submission.others)[:5]) or "an empty folder"
            return not_marked(work, submission.student, f"No notebook came, only {others}.")
        if not hasattr(judges, "pool"):
            judges.pool = ProcessPoolExecutor(1, get_context("spawn"), prepare)
        try:
            asked = (work, inside, submission.student, submission.files)
            return judges.pool.submit(mark, *asked).result()
        except Exception as error:  # it is this student's and nobody else's
            del judges.pool  # its process may have ended
            note = f"The notebook could not be marked: {error}"
            print(f"{submission.student}: {note}")
            return not_marked(work, submission.student, note)

    with tempfile.TemporaryDirectory(prefix="sff-grade-") as folder, ThreadPool(jobs) as pool:
        inside = replace(rules, room=Path(folder) / "room")
        make_room(inside.room, work)
        own = pool.apply(one, [Submission("solution", "solution", files=[source])])
        for grade_id, task in own["tasks"].items():
            if task["points"] == 0:
                why = f"{task['error']} {' '.join(own['notes'])[:300]}"
                raise SFFError(f"the instructor's own solution fails {grade_id}: {why}")
        yield from tqdm(pool.imap_unordered(one, todo), total=len(todo), unit="notebook")


def _key(rules: Rules, *files: Path) -> list:
    """What a result depends on."""
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    return [VERSION, rules.seconds, rules.memory, rules.notebook, rules.isolated, *hashes]


def _stored(path: Path, key: list) -> dict | None:
    with suppress(OSError, ValueError):
        result = json.loads(path.read_text(encoding="utf-8"))
        if result.get("key") == key:
            return result
    return None


def read_manual(
    path: Path, work: Assignment, came: list[Submission]
) -> dict[tuple[str, str], dict]:
    """Read points given by hand: (student, grade_id) → points and comment.

    A student may stand there by name or by code.

    Raises:
        SFFError: A column is missing, or a row gives what the assignment does not have.
    """
    known = {cell.grade_id: cell.points for cell in work.of("test", "by hand")}
    students = {name: s.student for s in came for name in (s.student, code_of(s.student))}
    manual = {}
    for number, row in enumerate(read_table(path) if path.is_file() else [], 2):
        if lacks := {"student", "grade_id", "points"} - set(row):
            raise SFFError(f"{path} has no column {min(lacks)}")
        grade_id, text = row["grade_id"], row["points"].strip().replace(",", ".")
        if not text:
            continue  # not marked yet
        points = float(text) if re.fullmatch(r"\d+\.?\d*", text) else -1
        if not 0 <= points <= known.get(grade_id, -1):
            raise SFFError(f"{path}, line {number}: {grade_id} cannot get {text} points ({known})")
        student = unicodedata.normalize("NFC", row["student"].strip())
        if student not in students:
            print(f'{path} has points for "{student}", and nobody here is called that')
            continue
        entry = {"points": points, "comment": row.get("comment", "").strip(), "by_hand": True}
        manual[students[student], grade_id] = entry
    return manual
