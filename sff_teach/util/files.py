"""Atomic writes and file locks."""

import glob
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


def check_writable(path: Path) -> None:
    """Raise OSError before the work if the file could not be written after it; make its folder."""
    folder = Path(path).absolute().parent
    folder.mkdir(parents=True, exist_ok=True)
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
