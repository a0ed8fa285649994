"""Files that were cut off or zeroed: mended or named in one sentence, never read as whole."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
import torch

from sff_grade import grading
from sff_teach.data.download import read_arrays
from sff_teach.study import append_run, cached_run, read_runs
from sff_teach.training import checkpoint
from tests.unit.test_download import Server

from . import _work
from ._lives import leftovers, run, scenario
from ._work import COMPARE, DOWNLOAD, GRADE, TRAIN

FAULT = "A file is damaged"
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
        with pytest.raises(ValueError, match="line 1 is not a run in JSON; delete that line"):
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


def test_a_checkpoint(tmp_path, saw):
    sentence = scenario(damaged_checkpoints, tmp_path)
    saw(
        FAULT, "train", "a sentence",
        "`sff-teach train … --checkpoint run.pt`, and `fit(checkpoint=)`",
        "Cut off anywhere, or zeroed where anything is stored, exit code 2: "
        f"“{sentence.replace('bad.pt', 'run.pt')}” Nothing of it is taken over.",
    )  # fmt: skip


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


def test_a_file_of_runs(tmp_path, saw):
    sentence = scenario(torn_runs, tmp_path)
    saw(
        FAULT, "compare", "mended, or a sentence",
        "`sff-teach compare … --out runs.jsonl`, and `study(path=)`",
        "A last line that was cut off anywhere is removed and its run is run again; the lines "
        f"before it stay. Damage in another line: exit code 2, “{sentence}”",
    )  # fmt: skip


def damaged_marks(tmp: Path) -> str:
    folder = _work.class_folder(tmp / "class")
    run(folder, GRADE)
    out = folder / "marks"
    results, pages = out / "results", out / "feedback"
    whole = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    ada = whole[results / "ada.json"]
    key = json.loads(ada)["key"]
    assert grading._stored(results, "ada", key) is not None
    for damaged in (*cuts(ada), *cuts(b"[" + ada + b"]", 1), b"[]", b"7"):
        (results / "ada.json").write_bytes(damaged)
        assert grading._stored(results, "ada", key) is None
    (results / "ada.json").write_bytes(ada[: len(ada) // 2])
    for path in (out / "marks.csv", out / "by_hand.html", pages / "bob.html"):
        path.write_bytes(whole[path][: len(whole[path]) // 2])
    end = run(folder, GRADE)
    assert end.code == 0 and "3 students, 2 marked before" in end.out, end
    assert {path: path.read_bytes() for path in whole} == whole
    (out / "manual.csv").write_text("student,grade_id,points,comment\nada,s-words,1,\nbob,s-wo")
    end = run(folder, GRADE, code=2)
    assert end.code == 2 and len(end.said) == 1, end
    return end.said[0].removeprefix("sff-teach: ")


def test_marks(tmp_path, saw):
    sentence = scenario(damaged_marks, tmp_path)
    saw(
        FAULT, "grade", "mended, or a sentence",
        "`sff-teach grade returned --out marks`",
        "A cut result is marked again, and only that one; `marks.csv` and the pages are written "
        f"anew. Your own `manual.csv`, cut off in a line: exit code 2, “{sentence}”",
    )  # fmt: skip


def damaged_downloads(tmp: Path, url: str, good: bytes) -> str:
    folder = tmp / "download"
    data = folder / "data"
    data.mkdir(parents=True)
    before = _work.offered(url, good)
    # Cut off, of another file, or with zeros where the disk had not got the bytes yet.
    for part in (good[:1000], b"something else", good[:1000] + bytes(1000)):
        (data / "set.tgz.part").write_bytes(part)
        run(folder, DOWNLOAD, before)
        assert not leftovers(folder, "data/cifar10.npz")
        content = (data / "cifar10.npz").read_bytes()
        (data / "cifar10.npz").unlink()
    (data / "set.tgz").write_bytes(good[: len(good) // 2])  # put there by hand
    run(folder, DOWNLOAD, before)
    assert (data / "cifar10.npz").read_bytes() == content
    for damaged in (*cuts(content), *zeroed(content)):
        (data / "cifar10.npz").write_bytes(damaged)
        try:
            arrays = read_arrays(data / "cifar10.npz")
        except ValueError as error:
            assert "is damaged; remove it" in str(error)
        else:
            (data / "whole.npz").write_bytes(content)
            whole = read_arrays(data / "whole.npz")
            assert all((arrays[name] == whole[name]).all() for name in whole)
    (data / "cifar10.npz").write_bytes(content[: len(content) // 2])
    end = run(
        folder, ["train", "digits", "--data", "cifar10", *_work.QUICK[:2]], before, code=2
    )
    assert end.code == 2 and len(end.said) == 1, end
    return end.said[0].removeprefix("sff-teach: ")


def test_a_download(tmp_path, saw):
    server = Server()
    sentence = scenario(damaged_downloads, tmp_path, server.url, server.content)
    server.http.shutdown()
    server.http.server_close()
    saw(
        FAULT, "download", "fetched again, or a sentence",
        "`sff-teach data cifar10`, and `load`",
        "A part that is not the beginning of the file, and an archive put there by hand that is "
        "cut off, are found by their checksum and fetched again. The stored set, cut off or "
        f"zeroed: “{sentence}”",
    )  # fmt: skip
