"""Runs stored as JSON lines, each as soon as it is measured, and found again by its settings."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ..util.checks import SFFError
from ..util.files import check_writable, exclusive_lock


def read_runs(path: str | Path) -> list[dict]:
    """The records of a JSON-lines file, oldest first; none if there is no such file.

    An incomplete last line of a killed process is ignored.
    """
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines()
    records = [_parse(line) for line in lines]
    for number, record in enumerate(records[:-1], 1):
        if record is None:
            raise SFFError(f"{path.name} line {number} is not a run in JSON; delete that line")
    return [record for record in records if record is not None]


def _parse(line: bytes) -> dict | None:
    """The record of a line; None if it is incomplete, since no part of a JSON object is JSON."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def append_run(path: str | Path, record: dict, same: Callable[[dict], bool] | None = None) -> dict:
    """Append one record to a JSON-lines file; it is on disk before this returns.

    An incomplete line of a killed process is removed. Several processes may append to one file. If
    it cannot be written, the line is printed, so that the run is not lost.

    Args:
        path: the file.
        record: the run.
        same: whether a stored record is the same run; it is then returned instead.
    """
    path = Path(path)
    try:
        check_writable(path)
        with exclusive_lock(path, str(path), wait=60), path.open("a+b", buffering=0) as file:
            for stored in read_runs(path) if same is not None else ():
                if same(stored):
                    return stored
            _append_line(file, json.dumps(record).encode())
    except (OSError, SFFError) as error:
        print(json.dumps(record))
        raise OSError(f"{error}; the line above is the run: add it to {path.name}") from None
    return record


def _append_line(file: BinaryIO, line: bytes) -> None:
    """Append a whole line to the file or, if that fails, nothing."""
    file.seek(0)
    end = file.read().rsplit(b"\n", 1)[-1]
    if end and _parse(end) is None:
        file.truncate(file.tell() - len(end))
    elif end:  # a whole record that lacks only its newline
        line = b"\n" + line
    begin = file.seek(0, os.SEEK_END)
    rest = memoryview(line + b"\n")
    try:
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
    except OSError:
        file.truncate(begin)
        raise


def cached_run(path: str | Path, key: Mapping, make: Callable[[], dict]) -> dict:
    """The stored record whose fields have the values of ``key``; if there is none, make one.

    Args:
        path: a JSON-lines file.
        key: field → value.
        make: returns the other fields of the record. Its floats are rounded to six decimals.
    """

    def matches(record: dict) -> bool:
        return all(record.get(name) == value for name, value in key.items())

    for record in read_runs(path):
        if matches(record):
            return record
    check_writable(Path(path))
    return append_run(path, {**key, **round_floats(make()), **key}, matches)


def round_floats(value: Any) -> Any:
    """The same value with every float rounded to six decimals."""
    if isinstance(value, dict):
        return {key: round_floats(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [round_floats(inner) for inner in value]
    return round(value, 6) if isinstance(value, float) else value
