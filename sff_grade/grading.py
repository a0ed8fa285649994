"""Mark a class: find what came, have it judged, and write marks, gradebooks and pages."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import re
import tempfile
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from tqdm.auto import tqdm
from tyro.conf import Positional

from sff_teach import classroom
from sff_teach.util.checks import SFFError, check_count, check_positive
from sff_teach.util.files import atomic_write, make_folder

from .export import write_submitted
from .feedback import write_pages
from .jail import Limits, lacking, make_room
from .judge import UNREAD, mark, prepare, result_of
from .source import Assignment, find_source, read_source
from .submissions import Submission, code_of, file_name, find_submissions
from .tables import read_table, write_table

VERSION = 6  # of the way of marking; another one marks everything anew
COMMON = 60  # characters of an answer that two students may well have in common


class Worker:
    """A judge process, started when it is needed; see `judge`."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Have a process from now on, or a new one."""
        self.pool = ProcessPoolExecutor(1, get_context("spawn"), prepare)

    def mark(self, work: Assignment, job: dict) -> dict:
        """Mark one notebook; where that ends the process, the next one gets a new one."""
        try:
            return self.pool.submit(mark, work, job).result()
        except BrokenProcessPool:
            self.start()
            raise


def grade(
    folder: Positional[Path],
    source: Path = Path("notebooks/assignments/source"),
    out: Path = Path("marks"),
    *,
    assignment: str | None = None,
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
        source: The instructor's notebooks, or the one of this assignment.
        out: Marks, pages and results go here.
        assignment: For example a1, where the names of the notebooks do not say it.
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
    path = find_source(source, assignment, folder)
    work = read_source(path)
    submissions = find_submissions(folder, work.name, out)
    if no_isolation:
        print("No isolation, as asked: student code runs with your rights and reads your files.")
    elif lacking():
        raise SFFError(f"{lacking()}; --no-isolation runs student code with your own rights")
    if unknown := set(again) - {s.student for s in submissions}:
        raise SFFError(f"again={min(unknown)}: nobody here is called that")
    make_folder(out / "results")
    (out / "results").chmod(0o700)
    codes = {code_of(s.student): s.student for s in submissions}
    manual = read_manual(out / "manual.csv", work, codes)
    base = {
        "limits": Limits(seconds, memory, notebook),
        "isolated": not no_isolation,
        "secret": [path.parent, folder, out],
    }
    results = {s.student: _stored(out, s, _key(path, s.files, base)) for s in submissions}
    todo = [s for s in submissions if results[s.student] is None or s.student in again]
    print(f"{work.name}: {len(submissions)} students, {len(todo)} to be marked")
    if todo:
        jobs = min(jobs or os.cpu_count() or 1, len(todo))
        for submission, result in mark_all(work, path, out, todo, base, jobs):
            result |= {"key": _key(path, submission.files, base), "isolated": not no_isolation}
            text = json.dumps(result, indent=1).encode()
            atomic_write(_file(out, submission), lambda file, text=text: file.write(text))
            results[submission.student] = result
    for (student, grade_id), entry in manual.items():
        if student in results:
            results[student]["tasks"][grade_id] |= entry
        else:
            print(f'manual.csv has points for "{student}", and nobody here is called that')
    marked = list(results.values())
    write_marks(out, work, submissions, marked)
    write_leaderboard(out, marked, anonymous)
    write_pages(out, work, marked, submissions, anonymous)
    if nbgrader:
        write_submitted(out, path, work, marked)
    print(f"Marks in {out / 'marks.csv'}, pages in {out / 'feedback'}.")
    if waiting := sum(t["points"] is None for r in marked for t in r["tasks"].values()):
        print(f"{waiting} answers are to be marked by hand: see {out / 'by_hand.html'}.")
    return marked


def mark_all(
    work: Assignment, source: Path, out: Path, todo: list[Submission], base: dict, jobs: int
) -> Iterator[tuple[Submission, dict]]:
    """Check the source, then mark these submissions; yield (submission, result) as they come."""
    workers: queue.Queue = queue.Queue()
    for _ in range(jobs):
        workers.put(Worker())

    def one(submission: Submission) -> dict:
        worker = workers.get()
        try:
            return _mark(work, submission, base, worker)
        finally:
            workers.put(worker)

    pool = ThreadPoolExecutor(jobs)
    with tempfile.TemporaryDirectory(prefix="sff-grade-") as folder:
        base = base | {"room": Path(folder) / "room"}
        make_room(base["room"], work)
        checked, key = out / "results" / "source.txt", _key(source, [], base)
        if not checked.is_file() or checked.read_text() != key:
            check_source(work, source, base, workers.queue[0])
            checked.write_text(key)
        waiting = {pool.submit(one, submission): submission for submission in todo}
        try:
            for future in tqdm(as_completed(waiting), total=len(waiting), unit="notebook"):
                yield waiting[future], future.result()
        finally:  # after Ctrl-C what has not begun is not begun
            pool.shutdown(cancel_futures=True)


def _mark(work: Assignment, submission: Submission, base: dict, worker: Worker) -> dict:
    """Mark one submission; whatever goes wrong is this student's and nobody else's."""
    student = submission.student
    try:
        result = worker.mark(work, base | {"student": student, "files": submission.files})
    except Exception as error:
        note = f"The notebook could not be marked: {error}"
        print(f"{student}: {note}")
        outcome = {cell.grade_id: note for cell in work.marked}
        result = result_of(work, student, UNREAD, outcome, [note])
    if not submission.files:
        came = ", ".join(sorted(submission.others)[:5])
        result["notes"] = [f"No notebook came, only {came}." if came else "There is no notebook."]
    return result


def check_source(work: Assignment, source: Path, base: dict, worker: Worker) -> None:
    """Mark the instructor's own notebook before any student's.

    Raises:
        SFFError: The solution lacks points.
    """
    result = worker.mark(work, base | {"student": "solution", "files": [source]})
    for grade_id, task in result["tasks"].items():
        if task["points"] == 0:
            why = f"{task['error']} {' '.join(result['notes'])[:300]}"
            raise SFFError(f"the instructor's own solution fails {grade_id}: {why}")


def _key(source: Path, files: list[Path], base: dict) -> str:
    digest = hashlib.sha256(f"{VERSION} {base['limits']} {base['isolated']}".encode())
    for path in (source, *files):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _file(out: Path, submission: Submission) -> Path:
    return out / "results" / f"{file_name(submission.student)}.json"


def _stored(out: Path, submission: Submission, key: str) -> dict | None:
    try:
        result = json.loads(_file(out, submission).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result if result.get("key") == key else None


def read_manual(path: Path, work: Assignment, codes: dict) -> dict[tuple[str, str], dict]:
    """Read points given by hand: (student, grade_id) → points and comment.

    A student may stand there by name or by code; ``codes`` leads from the one to the other.

    Raises:
        SFFError: A column is missing, or a row gives what the assignment does not have.
    """
    known = {cell.grade_id: cell.points for cell in work.marked}
    manual: dict[tuple[str, str], dict] = {}
    names, rows = read_table(path) if path.is_file() else (["student", "grade_id", "points"], [])
    if lacks := {"student", "grade_id", "points"} - set(names):
        raise SFFError(f"{path} has no column {min(lacks)}")
    for number, row in enumerate(rows, 2):
        student, grade_id = unicodedata.normalize("NFC", row["student"].strip()), row["grade_id"]
        text = row["points"].strip().replace(",", ".")
        if not text:
            continue  # not marked yet
        points = float(text) if re.fullmatch(r"\d+\.?\d*", text) else -1
        if not 0 <= points <= known.get(grade_id, -1):
            raise SFFError(f"{path}, line {number}: {grade_id} cannot get {text} points ({known})")
        entry = {"points": points, "comment": row.get("comment", "").strip(), "by_hand": True}
        manual[codes.get(student, student), grade_id] = entry
    return manual


def write_marks(out: Path, work: Assignment, came: list[Submission], marked: list[dict]) -> None:
    """Write marks.csv, similar.csv, and the gradebook of the platform that the files came from."""
    ids = [cell.grade_id for cell in work.marked]
    head = ["assignment", "student", "platform id", "late", "id in the notebook", "score"]
    marks = [[*head, "max_score", *ids, "by hand", "to be marked by hand", "notes", "isolated"]]
    books: dict[str, list[list[str]]] = {
        "canvas": [["Student", "ID", "SIS User ID", "SIS Login ID", "Section", work.name]],
        "moodle": [["Identifier", "Full name", "Grade"]],
    }
    for student, result in zip(came, marked, strict=True):
        tasks = result["tasks"]
        score = f"{sum(task['points'] or 0 for task in tasks.values()):g}"
        points = ["" if tasks[i]["points"] is None else f"{tasks[i]['points']:g}" for i in ids]
        marks.append([
            work.name, student.student, student.number, "LATE" if student.late else "",
            result["id"], score, f"{sum(task['max'] for task in tasks.values()):g}", *points,
            " ".join(i for i in ids if tasks[i].get("by_hand")),
            " ".join(i for i in ids if tasks[i]["points"] is None),
            " ".join(result["notes"]), "yes" if result["isolated"] else "no",
        ])  # fmt: skip
        if student.platform == "canvas":
            books["canvas"].append([student.name, student.number, "", "", "", score])
        elif student.platform == "moodle":
            books["moodle"].append([f"Participant {student.number}", student.name, score])
    write_table(out / "marks.csv", _one_line(marks))
    write_table(out / "similar.csv", _one_line(similar(marked)))
    for platform, rows in books.items():
        if len(rows) > 1:
            write_table(out / f"{platform}.csv", rows)


def write_leaderboard(out: Path, marked: list[dict], anonymous: bool) -> None:
    """Write leaderboard.csv where tests gave entries, by their first number, the best first."""
    entries = [(list(r["entry"].values()), r["student"]) for r in marked if r["entry"]]
    if entries:
        rows = [["place", "student", *next(r["entry"] for r in marked if r["entry"])]]
        for place, (numbers, student) in enumerate(sorted(entries, reverse=True), 1):
            name = code_of(student) if anonymous else student
            rows.append([str(place), name, *(f"{number:.1f}" for number in numbers)])
        write_table(out / "leaderboard.csv", _one_line(rows))


def _one_line(rows: list[list[str]]) -> list[list[str]]:
    """Cells without line ends and without the separators of a spreadsheet in another language."""
    return [[re.sub(r"[;\t\r\n]+", ",", cell) for cell in row] for row in rows]


def similar(marked: list[dict]) -> list[list[str]]:
    """The rows of similar.csv: equal long answers, and ids or seeds that belong to another."""
    rows = [["what", "characters", "students"]]
    texts: dict[tuple[str, str], list[str]] = {}
    ids: dict[str, list[str]] = {}
    seeds = {str(classroom.seed(r["id"])): r["student"] for r in marked if r["id"].strip()}
    printed = []
    for result in marked:
        ids.setdefault(result["id"].casefold(), []).append(result["student"])
        for grade_id, answer in result["answers"].items():
            text = re.sub(r"#[^\n]*|\s+", "", answer)
            if len(text) > COMMON and "NotImplementedError" not in text:
                texts.setdefault((grade_id, text), []).append(result["student"])
        found = re.search(r"your seed: (\d{1,10})\b", result["printed"])
        other = seeds.get(found[1], result["student"]) if found else result["student"]
        if other != result["student"]:
            printed.append(["printed the seed of another", "", f"{result['student']} | {other}"])
    groups = [(len(text), i, names) for (i, text), names in texts.items() if len(names) > 1]
    for size, grade_id, names in sorted(groups, reverse=True):
        rows.append([f"the same answer to {grade_id}", str(size), " | ".join(names)])
    same = [(i, names) for i, names in ids.items() if i and len(names) > 1]
    return [*rows, *printed, *([f"the same STUDENT_ID, {i}", "", " | ".join(n)] for i, n in same)]
