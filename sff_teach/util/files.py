"""Atomic writes, file locks, and CSV files that are safe to open in a spreadsheet."""

import csv
import glob
import io
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path

from filelock import FileLock, Timeout


def make_folder(path: Path) -> None:
    """The folder and those above it, if they are not there."""
    path.mkdir(parents=True, exist_ok=True)


def check_writable(path: Path) -> None:
    """Raise OSError before the work if the file could not be written after it; make its folder."""
    folder = Path(path).absolute().parent
    make_folder(folder)
    if path.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise PermissionError(f"{path} cannot be written")


def atomic_write(path: Path, write) -> None:
    """Write a file next to its place, then move it there: readers see the old or the new one.

    ``write`` is called with the open binary file.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path.absolute())
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def remove_partial_files(*paths: Path) -> None:
    """Remove what ``atomic_write`` had begun to write for these paths when its process was killed.

    Whoever calls it makes sure, by ``exclusive_lock``, that no other process is writing them.
    """
    for path in map(Path, paths):
        begun = f".{glob.escape(path.name)}.{'[!.]' * 8}"  # as mkstemp names it
        for file in path.absolute().parent.glob(begun):
            file.unlink(missing_ok=True)


@contextmanager
def exclusive_lock(path: Path, name: str, wait: float = 0) -> Iterator[None]:
    """Be the only process that works on ``path``; OSError after ``wait`` seconds (-1: never).

    The lock is the kernel's, on a file beside it: it ends with its process, however that ends, and
    no clock matters. Where there can be none, on some network disks or a full one, we go without.
    """
    path = Path(path)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=wait)
    except Timeout:
        raise OSError(f"{name} is in use by another process") from None
    except (OSError, NotImplementedError):
        pass
    try:
        yield
    finally:
        lock.release()


_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for the start of one
_NUMBER = re.compile(r"-\d+(\.\d+)?")  # is none


def write_table(path: Path, rows: list[list[str]]) -> None:
    """Write a CSV file that Excel reads as UTF-8, and in which no text becomes a formula."""
    text = io.StringIO()
    csv.writer(text).writerows(
        [f"'{c}" if c.startswith(_FORMULA) and not _NUMBER.fullmatch(c) else c for c in row]
        for row in rows
    )
    data = text.getvalue().encode("utf-8-sig")
    atomic_write(path, lambda file: file.write(data))


def read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Read a CSV file as spreadsheets save it: UTF-8 or Windows-1252, with commas, ; or tabs.

    Returns its columns' names and its rows; what a short row lacks is empty.
    """
    data = Path(path).read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
    head = text.partition("\n")[0]
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count))
    plain = [[c[1:] if c[:1] == "'" and c[1:2] in _FORMULA else c for c in row] for row in rows]
    names, *rest = plain or [[]]
    return names, [dict(zip_longest(names, row[: len(names)], fillvalue="")) for row in rest]
