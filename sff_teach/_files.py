"""Files that are whole or not there."""

import os
import tempfile
from pathlib import Path


def write_whole(path: Path, write) -> None:
    """Write a file next to its place, then move it there: readers see the old or the new one.

    ``write`` gets the open binary file. After an error nothing is left behind.
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
