"""Files that are written in one go, and CSV files that are safe to open in a spreadsheet."""

import csv
import io
import re
from pathlib import Path

from sff_teach.util.files import atomic_write

FORMULA = r"[=+@]|-(?!\d+(\.\d+)?$)"  # how one begins in a spreadsheet; a negative number is none


def save(path: Path, text: str) -> None:
    """Write a text into a file, and the folders above it, in one go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, lambda file: file.write(text.encode()))


def write_table(path: Path, rows: list[dict[str, str]]) -> None:
    """Write a CSV file that Excel reads as UTF-8; without rows, remove the one that was there.

    No text becomes a formula. No cell holds a line end, or what separates cells where the decimal
    point is a comma.
    """
    if not rows:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    table = csv.DictWriter(text, dict.fromkeys(name for row in rows for name in row))
    table.writeheader()
    table.writerows({name: _safe(cell) for name, cell in row.items()} for row in rows)
    save(path, "\ufeff" + text.getvalue())


def _safe(cell: str) -> str:
    cell = re.sub(r"[;\t\r\n]+", ",", cell)
    return f"'{cell}" if re.match(FORMULA, cell) else cell


def read_table(path: Path) -> list[dict[str, str]]:
    """Read a CSV file as spreadsheets save it: UTF-8 or Windows-1252, with commas, ; or tabs.

    Returns its rows by the columns' names; what a short row lacks is empty.
    """
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
    comma = max(",;\t", key=text.partition("\n")[0].count)
    rows = csv.DictReader(io.StringIO(text, newline=""), restkey="", restval="", delimiter=comma)
    return [{n: re.sub(f"^'(?={FORMULA})", "", c) for n, c in row.items() if n} for row in rows]
