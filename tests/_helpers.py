"""What tests of several folders need."""

import os
from pathlib import Path

import pytest


def plain(history) -> list[dict]:
    """A history's rows without what depends on the clock."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history.rows]


def on_a_full_disk(prefix: str, dir: Path) -> tuple[int, str]:
    """In the place of ``tempfile.mkstemp``: a new file that takes not one byte (Linux)."""
    (dir / f"{prefix}x").touch()
    return os.open("/dev/full", os.O_WRONLY), str(dir / f"{prefix}x")


def descendants(pid: int) -> set[int]:
    """The processes that a process has started, and theirs, by /proc."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
        if parent == pid:
            child = int(path.parent.name)
            found |= {child, *descendants(child)}
    return found


def nightly_but(daily: tuple, values) -> list:
    """Parameters of a test: ``daily`` as they are, the other ones marked as nightly."""
    return [v if v in daily else pytest.param(v, marks=pytest.mark.nightly) for v in values]
