"""Who handed in what: the names that learning platforms give to files and folders.

A platform's number is part of the key of a student, so that two of one name stay two.
"""

import hashlib
import os
import re
import unicodedata
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from sff_teach.util.checks import SFFError

from .returned import word_pattern

# Moodle "Ada Lovelace_12_assignsubmission_file" (a folder, or in front of a file's name), Canvas
# "lovelaceada_LATE_12_34_name", Blackboard "HW 1_ada17_attempt_2026-11-20-10-30-12_name".
PLATFORMS = {
    "moodle": r"(?P<name>.+?)_(?P<number>\d+)_assignsubmission_[a-z]+(_.*)?",
    "blackboard": r"[^_]*_(?P<name>.+?)_attempt_\d{4}(-\d\d){5}(_.*)?",
    "canvas": r"(?P<name>[^_\W]+)(?P<late>_late)?_(?P<number>\d+)_(?P<second>\d+)_(?P<rest>.*)",
}
WANTED = re.compile(r"\.ipynb(\.txt|\.json)?$|\.zip$", re.IGNORECASE)  # browsers add .txt
COPY = re.compile(r"(\s*\(\d+\))+$")  # "a1 (2)", as browsers name a second download
NOT_RETURNED = re.compile(r"manual(-todo)?\.csv|thumbs\.db|desktop\.ini", re.IGNORECASE)
MOST_BYTES = 200  # of a file name, since an ending is added
NOBODY = re.compile(r"(copy of|kopie von|copie de|copia de|untitled)?[\W_]*", re.IGNORECASE)


@dataclass
class Submission:
    """What one student handed in."""

    student: str  # the key: unique, with the platform's numbers where there are some
    name: str  # for people
    platform: str = ""  # "moodle", "canvas", "blackboard", or ""
    number: str = ""  # the platform's, of the student
    rest: str = ""  # Canvas: what the student called the file
    folder: str = ""  # what the platform called the file or folder
    late: bool = False  # as the platform says
    files: list[Path] = field(default_factory=list)  # notebooks and zips, the newest first
    others: list[str] = field(default_factory=list)  # names of what else came


def identify(name: str, assignment: str = "") -> Submission:
    """Read the name of a file or folder, without its ending."""
    name = unicodedata.normalize("NFC", name).strip()
    for platform, pattern in PLATFORMS.items():
        if found := re.fullmatch(pattern, name, re.IGNORECASE):
            parts = found.groupdict("")
            key = "_".join(filter(None, map(parts.get, ("name", "number", "second"))))
            return Submission(key, parts["name"], platform, parts.get("number", ""),
                              parts.get("rest", ""), name, bool(parts.get("late")))  # fmt: skip
    bare = COPY.sub("", name)
    if assignment:
        words = f"{word_pattern(assignment)}|{word_pattern(short_name(assignment))}"
        bare = COPY.sub("", re.sub(rf"[\s_-]*({words})[\s_-]*", " ", bare, flags=re.IGNORECASE))
    key = name if NOBODY.fullmatch(bare) else bare.strip()
    return Submission(key, key, folder=name)


def short_name(assignment: str) -> str:
    """For a1_goodness_and_the_layer: a1, as the folder of the assignment is called."""
    return re.split(r"[_\W]", assignment)[0]


def find_submissions(folder: Path, assignment: str, out: Path) -> list[Submission]:
    """Find what each student handed in, by FOLDER/STUDENT/… or FOLDER/STUDENT.ipynb.

    Marks may lie in the same folder, in ``out``; that is no student's.

    Raises:
        SFFError: There is no notebook.
    """
    came: list[Submission] = []
    names = {path.name for path in folder.iterdir()}
    for path in sorted(folder.iterdir()):
        skipped = path.name.startswith((".", "_")) or NOT_RETURNED.fullmatch(path.name)
        linked = path.is_symlink() or path.resolve() == out.resolve()
        if skipped or linked or _is_the_platforms(path, names):
            continue
        if path.is_dir():
            submission, files = identify(readable(path.name)), _files_below(path)
        else:
            stem = readable(re.sub(r"(\.ipynb)?\.\w+$", "", path.name, flags=re.IGNORECASE))
            submission, files = identify(stem, assignment), [path]
        submission.files = [file for file in files if WANTED.search(file.name)]
        submission.others = [readable(f.name) for f in files if f not in submission.files]
        came.append(submission)
    if not any(submission.files for submission in came):
        raise SFFError(f"folder={folder} holds no notebooks")
    # Canvas gives a number to the student and one to each file: all of a student's are one.
    # Matriculation numbers look the same. There, two of one number have files of the same name,
    # which Canvas does not allow; then both numbers tell students apart.
    canvas = [s for s in came if s.platform == "canvas"]
    if len({(s.name, s.number, s.rest) for s in canvas}) == len(canvas):
        for submission in canvas:
            submission.student = f"{submission.name}_{submission.number}"
    found: dict[str, Submission] = {}
    for submission in sorted(came, key=lambda s: not s.files):  # the notebook's name first
        known = found.setdefault(submission.student, submission)
        if known is not submission:
            known.late |= submission.late
            known.files += submission.files
            known.others += submission.others
    own = (short_name(assignment), assignment)  # of the folders in nbgrader's layout
    for submission in found.values():
        inside = [p for p in submission.files if p.parent.name in own]
        submission.files = sorted(inside or submission.files, key=_age, reverse=True)
    return [found[key] for key in sorted(found)]


def readable(data: str | bytes) -> str:
    """A file's name or content as text, from UTF-8 or from what an old Windows writes."""
    try:
        return os.fsencode(data).decode("utf-8-sig")
    except UnicodeDecodeError:
        return os.fsencode(data).decode("cp1252", errors="replace")


def _files_below(folder: Path) -> list[Path]:
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.is_symlink()]
    hidden = (".", "__MACOSX")
    return [p for p in files if not any(x.startswith(hidden) for x in p.relative_to(folder).parts)]


def _age(path: Path) -> tuple[int, float]:
    """A copy's number, as browsers and Canvas add it, tells more than the time on the disk."""
    number = re.search(r"[-(](\d{1,2})\)?\.ipynb", path.name, re.IGNORECASE)
    return (int(number[1]) if number else 0, path.stat().st_mtime)


def _is_the_platforms(path: Path, names: set[str]) -> bool:
    """Whether a file is the zip whose content lies here: then it is nobody's answer."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.split("/")[0] in names - {path.name} for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return False


def file_name(name: str) -> str:
    """A file name for a student, or for what a platform calls one; mostly itself."""
    if "/" not in name and name.strip(".") and len(name.encode()) <= MOST_BYTES:
        return name
    return f"{re.sub(r'[^A-Za-z0-9]', '_', name)[:80]}-{_digest(name)}"


def code_of(student: str) -> str:
    """A code in place of a name, for marking by hand without knowing whose answer it is."""
    return f"student-{_digest(student)}"


def _digest(student: str) -> str:
    return hashlib.sha256(student.encode()).hexdigest()[:8]
