"""Atomic writes, file locks, and CSV files that are safe to open in a spreadsheet."""

import csv
import errno
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

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # disk full, quota used up, file too large


class WriteError(OSError):
    """A file or folder that cannot be written: errno, strerror and filename, told in a sentence."""

    def __str__(self) -> str:
        if self.errno in NO_ROOM:
            return (
                f"there is no room for {self.filename} on its disk; free some space, then give the "
                "same command again: what was finished before is kept."
            )
        return (
            f"{self.filename} cannot be written ({self.strerror}); give a place that you may "
            "write to."
        )


def write_error(name: str | Path, error: OSError) -> WriteError:
    """An error of the file system as a sentence about a path, or about ``argument=path``.

    Args:
        name: of the place.
        error: its number and text.
    """
    return WriteError(error.errno, error.strerror or str(error), str(name))


def make_folder(path: Path) -> None:
    """The folder and those above it, if they are not there; ``WriteError`` if they can't be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error) from None


def check_writable(path: Path, name: str | None = None) -> None:
    """Refuse before the work what could not be written after it; makes the file's folder.

    Args:
        path: of a file.
        name: what the message calls it, such as ``argument=path``.

    Raises:
        WriteError: the file, or a new one in its folder, may not be written.
    """
    path = Path(path)
    make_folder(path.absolute().parent)
    place = path if path.exists() else path.absolute().parent
    if path.is_dir() or not os.access(place, os.W_OK):
        reason = errno.EISDIR if path.is_dir() else errno.EACCES
        raise write_error(name or path, OSError(reason, os.strerror(reason)))


def atomic_write(path: Path, write) -> None:
    """Write a file next to its place, then move it there: readers see the old or the new one.

    Args:
        path: of the file.
        write: called with the open binary file.

    Raises:
        WriteError: no room, or no permission.
    """
    path = Path(path)
    name = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path.absolute())
    except BaseException as error:
        if name is not None:
            Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            raise write_error(path, error) from None
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
    """Be the only process that works on ``path``.

    The lock is the kernel's, on a file beside it: it ends with its process, however that ends, and
    no clock matters. Where there can be none, on some network disks or a full one, we go without.

    Args:
        path: of a file or folder.
        name: what the message calls it, such as ``argument=path``.
        wait: seconds to wait for the other process; -1 for as long as it takes.

    Raises:
        OSError: another process works on it.
    """
    path = Path(path)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=wait)
    except Timeout:
        raise OSError(
            f"{name} is in use by another process; wait until that has ended, or give another "
            "place."
        ) from None
    except (OSError, NotImplementedError):
        pass
    try:
        yield
    finally:
        lock.release()


_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for the start of one
_NUMBER = re.compile(r"-\d+(\.\d+)?")  # is none


def write_table(path: Path, rows: list[list[str]]) -> None:
    """Write a CSV file that Excel reads as UTF-8, and in which no text becomes a formula.

    Args:
        path: of the file.
        rows: the first one holds the columns' names.
    """
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
