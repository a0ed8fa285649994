"""Files that were cut off or zeroed: mended or named in one sentence, never read as whole."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
import torch

from sff_teach.study import append_run, cached_run, read_runs
from sff_teach.training import checkpoint

from . import _work
from ._lives import run, scenario
from ._work import COMPARE, TRAIN

PLACES = 40  # at which a file is cut off


def cuts(content: bytes, places: int = PLACES):
    """The content without its end, cut at places spread over it; the last one lacks one byte."""
    step = max(1, len(content) // places)
    for length in {*range(0, len(content), step), len(content) - 1}:
        yield content[:length]


def zeroed(content: bytes, size: int = 64):
    """The content with a stretch of zeros, at places spread over it."""
    step = max(1, len(content) // PLACES)
    for start in range(0, len(content) - size, step):
        if any(content[start : start + size]):
            yield content[:start] + bytes(size) + content[start + size :]


# ---------------------------------------------------------------- one by one, at many places


def test_a_line_cut_anywhere_loses_itself_and_nothing_else(tmp_path):
    path = tmp_path / "runs.jsonl"
    records = [{"seed": seed, "name": "ü", "values": [0.25, -1e-9]} for seed in range(3)]
    whole = b"".join(json.dumps(record).encode() + b"\n" for record in records)
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        # A line without its newline is whole all the same: no part of an object is JSON.
        kept = records[: len(re.findall(rb"\}\n?", whole[:length]))]
        assert read_runs(path) == kept
        append_run(path, {"seed": 9})
        assert read_runs(path) == [*kept, {"seed": 9}]
        assert path.read_bytes().count(b"\n") == len(kept) + 1
    for junk in (b"\0" * 50, b"\xff\xfe", b"[1]"):
        path.write_bytes(whole + junk)
        assert read_runs(path) == records
        assert cached_run(path, {"seed": 7}, dict) == {"seed": 7}
        assert read_runs(path) == [*records, {"seed": 7}]
        path.write_bytes(whole[:40] + junk + whole[40:])
        with pytest.raises(ValueError, match="line 1 is not a run in JSON"):
            read_runs(path)


def damaged_checkpoints(tmp: Path) -> int:
    folder = tmp / "train"
    folder.mkdir()
    _work.warm()
    run(folder, TRAIN)
    path, bad = folder / "run.pt", folder / "bad.pt"
    content, read = path.read_bytes(), 0
    for damaged in (*cuts(content), *zeroed(content)):
        bad.write_bytes(damaged)
        try:
            state = checkpoint.read(bad)
        except ValueError as error:
            assert "is damaged or no checkpoint" in str(error) and "\n" not in str(error)
            continue
        # Zeros in the padding between two tensors change nothing.
        read += 1
        good = checkpoint.read(path)
        stored = [io.BytesIO(), io.BytesIO()]
        for stream, part in zip(stored, (state, good)):
            torch.save(part, stream)
        assert stored[0].getvalue() == stored[1].getvalue()
    bad.write_bytes(content[: len(content) // 2])
    end = run(folder, [*TRAIN[:-1], "bad.pt"], code=2)
    assert end.code == 2 and len(end.said) == 1, end
    assert bad.read_bytes() == content[: len(content) // 2]
    return end.said[0].removeprefix("sff-teach: ")


def test_a_checkpoint(tmp_path):
    scenario(damaged_checkpoints, tmp_path)


def torn_runs(tmp: Path) -> str:
    _work.warm()
    folder = tmp / "compare"
    folder.mkdir()
    run(folder, COMPARE)
    path = folder / "runs.jsonl"
    whole, figures = path.read_bytes(), _work.figures(folder)
    path.write_bytes(whole[:-300])
    run(folder, COMPARE)
    assert _work.figures(folder) == figures
    last = whole.splitlines(keepends=True)[-1]
    assert path.read_bytes()[: len(whole) - len(last)] == whole[: len(whole) - len(last)]
    path.write_bytes(whole[100:])
    end = run(folder, COMPARE, code=2)
    assert end.code == 2 and len(end.said) == 1, end
    assert path.read_bytes() == whole[100:]
    return end.said[0].removeprefix("sff-teach: ")


def test_a_file_of_runs(tmp_path):
    scenario(torn_runs, tmp_path)
