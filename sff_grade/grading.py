"""Mark a class: find what came, have it judged, and write marks, gradebooks and pages."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import re
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

from sff_teach import classroom
from sff_teach.util.checks import SFFError
from sff_teach.util.files import (
    atomic_write,
    exclusive_lock,
    make_folder,
    read_table,
    remove_partial_files,
    write_table,
)

from .export import write_submitted
from .feedback import write_pages
from .jail import Limits, check_isolation, make_room
from .source import Assignment, find_source, read_source
from .submissions import Submission, code_of, file_name, find_submissions

VERSION = 5  # of the way of marking; another one marks everything anew
BY_HAND = "to be marked by hand"
COMMON = 60  # characters of an answer that two students may well have in common


class Worker:
    """A judge process; see `judge`."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.process: subprocess.Popen | None = None

    def mark(self, job: dict) -> dict:
        """Mark one notebook.

        Raises:
            SFFError: The judge ended; the next notebook gets a new one.
        """
        if self.process is None or self.process.poll() is not None:
            places = [str(Path(__file__).parents[1]), *(p for p in sys.path if os.path.isabs(p))]
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(places), "MPLBACKEND": "Agg"}
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sff_grade.judge", str(self.source)], env=environment,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
        try:
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            said = self.process.communicate()[1].strip().splitlines()
            raise SFFError(f"the judge ended: {(said or ['without a word'])[-1][:300]}")
        return json.loads(line)

    def close(self) -> None:
        """End the judge."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()


def grade(
    folder: Path, source: Path, out: Path, *, assignment: str | None = None,
    limits: Limits | None = None, jobs: int | None = None, no_isolation: bool = False,
    again: tuple[str, ...] = (), nbgrader: bool = False, anonymous: bool = False,
    say: Callable[[str], None] = print,
) -> list[dict]:  # fmt: skip
    """Mark every notebook in a folder; write marks, gradebooks, feedback and results.

    What is in ``out``/results already, of the same notebook and source, is not run again. Points
    from manual.csv, in ``out``, go over those of the tests.

    Args:
        folder: What students returned.
        source: The instructor's notebook, or the folder of all of them.
        out: Where marks and pages go.
        assignment: For example a1, where the names of the notebooks do not say it.
        limits: What a notebook may use.
        jobs: Notebooks at a time; one for each core if not given.
        no_isolation: Run student code with your own rights.
        again: Students to mark anew.
        nbgrader: Also write the repaired notebooks in nbgrader's layout.
        anonymous: Codes in place of names in what is marked by hand.
        say: Gets what the teacher should know.

    Returns:
        A result for each student.

    Raises:
        SFFError: There is nothing to mark, the source fails its own tests, or student code cannot
            be isolated.
    """
    folder, out, limits = Path(folder), Path(out), limits or Limits()
    if not folder.is_dir():
        raise SFFError(f"folder={folder} is not a folder; unpack the returned notebooks first")
    path = find_source(Path(source), assignment, folder)
    work = read_source(path)
    submissions = find_submissions(folder, work.name, out)
    isolated = check_isolation(no_isolation, say)
    unknown = sorted(set(again) - {s.student for s in submissions})
    if unknown:
        raise SFFError(f"again={unknown[0]}: nobody here is called that")
    results = out / "results"
    make_folder(results)
    results.chmod(0o700)
    codes = {code_of(s.student): s.student for s in submissions}
    manual = read_manual(out / "manual.csv", work, codes)
    with exclusive_lock(results, f"out={out}"):
        remove_partial_files(*(_file(results, s.student) for s in submissions), out / "marks.csv")
        keys = {s.student: _key(path, s, limits, isolated) for s in submissions}
        done = {s.student: _stored(results, s.student, keys[s.student]) for s in submissions}
        todo = [s for s in submissions if done[s.student] is None or s.student in again]
        say(f"{work.name}: {len(submissions)} students, {len(todo)} to be marked")

        def keep(result: dict) -> None:
            result |= {"key": keys[result["student"]], "isolated": isolated}
            text = json.dumps(result, indent=1)
            atomic_write(_file(results, result["student"]), lambda file: file.write(text.encode()))
            done[result["student"]] = result

        if todo:
            base = {"limits": asdict(limits), "isolated": isolated, "skeleton": work.skeleton(),
                    "secret": [str(p.absolute()) for p in (path.parent, folder, out)]}  # fmt: skip
            _mark_all(work, path, todo, base, jobs or os.cpu_count() or 1, keep, say)
        marked = [done[s.student] for s in submissions if done[s.student] is not None]
        for result in marked:
            for grade_id, task in result["tasks"].items():
                if entry := manual.get((result["student"], grade_id)):
                    task |= entry | {"by_hand": True}
        for student in sorted({student for student, _ in manual} - set(done)):
            say(f'manual.csv has points for "{student}", and nobody here is called that')
        write_marks(out, work, submissions, marked)
        write_leaderboard(out, marked, anonymous)
        write_pages(out, work, marked, {s.student: s for s in submissions}, anonymous)
        if nbgrader:
            write_submitted(out, path, work, marked)
    return marked


def _mark_all(
    work: Assignment, path: Path, todo: list[Submission], base: dict, jobs: int,
    keep: Callable[[dict], None], say: Callable[[str], None],
) -> None:  # fmt: skip
    """Check the source, then mark these submissions; whatever fails is one student's."""
    from tqdm.auto import tqdm

    jobs = min(jobs, len(todo))
    with tempfile.TemporaryDirectory(prefix="sff-grade-") as folder:
        room = Path(folder) / "room"
        make_room(room, work)
        base = base | {"room": str(room)}
        workers = [Worker(path) for _ in range(jobs)]
        free: queue.Queue = queue.Queue()
        for worker in workers:
            free.put(worker)

        def one(submission: Submission) -> None:
            worker = free.get()
            try:
                result = worker.mark(base | _job(work, submission))
            except Exception as error:  # one student's trouble is nobody else's
                say(f"{submission.student}: could not be marked ({error})")
                result = failed(work, submission.student, f"could not be marked: {error}")
            finally:
                free.put(worker)
            if not submission.files:
                came = ", ".join(sorted(submission.others)[:5])
                note = f"No notebook came, only {came}." if came else "There is no notebook."
                result["notes"] = [note]
            keep(result)

        try:
            check_source(work, path, base, workers[0], Path(folder))
            with ThreadPoolExecutor(jobs) as pool:
                waiting = [pool.submit(one, s) for s in todo]
                for future in tqdm(as_completed(waiting), total=len(waiting), unit="notebook"):
                    future.result()
        finally:
            for worker in workers:
                worker.close()


def _job(work: Assignment, submission: Submission) -> dict:
    files = [str(path) for path in submission.files]
    student_id = submission.student if work.wants_id else None
    return {"student": submission.student, "id": student_id, "files": files}


def failed(work: Assignment, student: str, note: str) -> dict:
    """The result of a student whose notebook could not be marked."""
    tasks = {
        c.grade_id: {"points": None if c.kind == "by hand" else 0.0, "max": c.points, "error": note}
        for c in work.cells if c.kind in ("test", "by hand")
    }  # fmt: skip
    return {"student": student, "notes": [note], "id": "", "tasks": tasks, "entry": {},
            "answers": {}, "own": {}, "printed": ""}  # fmt: skip


def check_source(work: Assignment, path: Path, base: dict, worker: Worker, folder: Path) -> None:
    """Mark the instructor's own notebook and the empty release, before any student's.

    Raises:
        SFFError: The solution lacks points, or a task gives points for an empty notebook.
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for name in ("solution", "empty"):
        if name == "empty":
            for cell, source in zip(notebook["cells"], work.cells):
                cell["source"] = source.released
        file = folder / f"{name}.ipynb"
        file.write_text(json.dumps(notebook), encoding="utf-8")
        student_id = name if work.wants_id else None
        result = worker.mark(base | {"student": name, "id": student_id, "files": [str(file)]})
        for grade_id, task in result["tasks"].items():
            if name == "solution" and task["points"] == 0:
                notes = " ".join(result["notes"])[:300]
                raise SFFError(
                    f"the instructor's own solution fails {grade_id}: {task['error']} {notes}"
                )
            if name == "empty" and task["points"]:
                raise SFFError(f"{grade_id} gives points for the empty notebook")


# ---------------------------------------------------------------- results


def _key(source: Path, submission: Submission, limits: Limits, isolated: bool) -> str:
    digest = hashlib.sha256(f"{VERSION} {limits} {isolated}".encode())
    for path in (source, *submission.files):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _file(results: Path, student: str) -> Path:
    return results / f"{file_name(student)}.json"


def _stored(results: Path, student: str, key: str) -> dict | None:
    try:
        result = json.loads(_file(results, student).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) and result.get("key") == key else None


def read_manual(path: Path, work: Assignment, codes: dict) -> dict[tuple[str, str], dict]:
    """Read points given by hand: (student, grade_id) → points and comment.

    A student may stand there by name or by code; ``codes`` leads from the one to the other.

    Raises:
        SFFError: A column is missing, a grade id is unknown, or points are no number in range.
    """
    known = {c.grade_id: c.points for c in work.cells if c.kind in ("test", "by hand")}
    manual: dict[tuple[str, str], dict] = {}
    if not path.is_file():
        return manual
    names, rows = read_table(path)
    lacking = {"student", "grade_id", "points"} - set(names)
    if lacking:
        raise SFFError(f"{path} has no column {sorted(lacking)[0]}")
    for number, row in enumerate(rows, 2):
        grade_id, text = row["grade_id"].strip(), row["points"].strip()
        if not text:
            continue  # not marked yet
        if grade_id not in known:
            raise SFFError(f'{path}, line {number}: unknown grade id "{grade_id}"')
        try:
            points = float(text.replace(",", "."))
        except ValueError:
            points = float("nan")
        if not 0 <= points <= known[grade_id]:
            raise SFFError(f'{path}, line {number}: points "{text}", not 0 to {known[grade_id]:g}')
        student = unicodedata.normalize("NFC", row["student"].strip())
        comment = row.get("comment", "").strip()
        manual[codes.get(student, student), grade_id] = {"points": points, "comment": comment}
    return manual


# ---------------------------------------------------------------- tables


def _score(result: dict) -> str:
    return f"{sum(task['points'] or 0 for task in result['tasks'].values()):g}"


def write_marks(out: Path, work: Assignment, came: list[Submission], marked: list[dict]) -> None:
    """Write marks.csv, similar.csv, and the gradebook of the platform that the files came from."""
    ids = [c.grade_id for c in work.cells if c.kind in ("test", "by hand")]
    who = {s.student: s for s in came}
    rows = [["assignment", "student", "platform id", "late", "id in the notebook", "score",
             "max_score", *ids, "by hand", BY_HAND, "notes", "isolated"]]  # fmt: skip
    for result in marked:
        tasks, student = result["tasks"], who[result["student"]]
        points = ["" if tasks[i]["points"] is None else f"{tasks[i]['points']:g}" for i in ids]
        rows.append([
            work.name, result["student"], student.number, "LATE" if student.late else "",
            result["id"], _score(result), f"{sum(t['max'] for t in tasks.values()):g}", *points,
            " ".join(i for i in ids if tasks[i].get("by_hand")),
            " ".join(i for i in ids if tasks[i]["points"] is None),
            " ".join(result["notes"]), "yes" if result["isolated"] else "no",
        ])  # fmt: skip
    write_table(out / "marks.csv", _one_line(rows))
    write_table(out / "similar.csv", _one_line(similar(marked)))
    numbers = [(r, who[r["student"]]) for r in marked]
    canvas = [[s.name, s.number, "", "", "", _score(r)]
              for r, s in numbers if s.platform == "canvas"]  # fmt: skip
    moodle = [[f"Participant {s.number}", s.name, _score(r)]
              for r, s in numbers if s.platform == "moodle"]  # fmt: skip
    if canvas:
        head = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", work.name]
        write_table(out / "canvas.csv", [head, *canvas])
    if moodle:
        write_table(out / "moodle.csv", [["Identifier", "Full name", "Grade"], *moodle])


def write_leaderboard(out: Path, marked: list[dict], anonymous: bool) -> None:
    """Write leaderboard.csv where tests gave entries, by their first number, the best first."""
    entries = {r["student"]: r["entry"] for r in marked if r["entry"]}
    if not entries:
        return
    order = sorted(entries, key=lambda student: next(iter(entries[student].values())), reverse=True)
    rows = [["place", "student", *entries[order[0]]]]
    for place, student in enumerate(order, 1):
        numbers = [f"{value:.1f}" for value in entries[student].values()]
        rows.append([str(place), code_of(student) if anonymous else student, *numbers])
    write_table(out / "leaderboard.csv", _one_line(rows))


def _one_line(rows: list[list[str]]) -> list[list[str]]:
    """Cells without line ends and without the separators of a spreadsheet in another language."""
    return [[re.sub(r"[;\t\r\n]+", ",", cell) for cell in row] for row in rows]


def similar(marked: Iterable[dict]) -> list[list[str]]:
    """The rows of similar.csv: equal long answers, and numbers that belong to another student."""
    marked = list(marked)
    rows = [["what", "characters", "students"]]
    by_text: dict[tuple[str, str], list[str]] = {}
    for result in marked:
        for grade_id, texts in result["answers"].items():
            text = re.sub(r"#[^\n]*|\s+", "", "\n".join(texts))
            if len(text) > COMMON and "NotImplementedError" not in text:
                by_text.setdefault((grade_id, text), []).append(result["student"])
    groups = [(len(text), i, names) for (i, text), names in by_text.items() if len(names) > 1]
    for size, grade_id, names in sorted(groups, reverse=True):
        rows.append([f"the same answer to {grade_id}", str(size), " | ".join(names)])
    seeds = {str(classroom.seed(r["id"])): r["student"] for r in marked if r["id"].strip()}
    by_id: dict[str, list[str]] = {}
    for result in marked:
        by_id.setdefault(result["id"].casefold(), []).append(result["student"])
        printed = re.search(r"your seed: (\d{1,10})\b", result["printed"])
        other = seeds.get(printed[1]) if printed else None
        if other not in (None, result["student"]):
            rows.append(["printed the seed of another", "", f"{result['student']} | {other}"])
    for student_id, names in by_id.items():
        if student_id and len(names) > 1:
            rows.append([f"the same STUDENT_ID, {student_id}", "", " | ".join(names)])
    return rows
