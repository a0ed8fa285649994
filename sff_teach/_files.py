"""Files that are whole or not there, and tables that go through spreadsheets unharmed."""

import csv
import io
import os
import re
import tempfile
from itertools import zip_longest
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


_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for the start of one


def write_table(path: Path, rows: list[list[str]]) -> None:
    """Write a CSV file that Excel reads as UTF-8, and in which no text becomes a formula."""
    text = io.StringIO()
    csv.writer(text).writerows(
        [f"'{cell}" if cell.startswith(_FORMULA) else cell for cell in row] for row in rows
    )
    data = text.getvalue().encode("utf-8-sig")
    write_whole(path, lambda file: file.write(data))


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
