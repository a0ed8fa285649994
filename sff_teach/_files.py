"""Files that are whole or not there."""

import os
import re
import tempfile
from pathlib import Path


def write_whole(path: Path, write) -> None:
    """Write a file next to its place, then move it there: readers see the old or the new one.

    ``write`` gets the open binary file. After an error nothing is left behind; what a killed
    process leaves, ``remove_unfinished`` removes.
    """
    path = Path(path).absolute()
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def remove_unfinished(path: Path) -> None:
    """Remove what ``write_whole`` had begun to write for this path when its process was killed."""
    path = Path(path).absolute()
    unfinished = re.compile(re.escape(f".{path.name}.") + r"\w{8}")  # as mkstemp names them
    for file in path.parent.iterdir():
        if unfinished.fullmatch(file.name):
            file.unlink(missing_ok=True)
