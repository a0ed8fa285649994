"""CSV files that are safe to open in a spreadsheet."""

import csv
import io
import re
from itertools import zip_longest
from pathlib import Path

from sff_teach.util.files import atomic_write

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
