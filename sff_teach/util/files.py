"""Atomic writes and file locks."""

import glob
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


def check_writable(path: Path) -> None:
    """Make the file's folder; raise OSError if the file cannot be written."""
    folder = Path(path).absolute().parent
    folder.mkdir(parents=True, exist_ok=True)
    if path.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise PermissionError(f"{path} cannot be written")


def atomic_write(path: Path, write) -> None:
    """Write a temporary file and move it to ``path``: readers see the old or the new file.

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
    """Remove the temporary files of ``atomic_write`` whose process was killed.

    Call it inside ``exclusive_lock``, so that no other process is writing them.
    """
    for path in map(Path, paths):
        partial = f".{glob.escape(path.name)}.{'[!.]' * 8}"  # as mkstemp names it
        for file in path.absolute().parent.glob(partial):
            file.unlink(missing_ok=True)


@contextmanager
def exclusive_lock(path: Path, name: str, wait: float = 0) -> Iterator[None]:
    """Lock ``path`` for this process; OSError after ``wait`` seconds (-1: never).

    The kernel releases the lock when the process ends. Without support for locks, as on some
    network disks, or on a full disk, there is no lock.
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
