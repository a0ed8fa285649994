"""A read-only folder: said before the work, in one sentence; what can be read is used."""

from __future__ import annotations

from pathlib import Path

from . import _work
from ._lives import ReadOnly, run, scenario, torn_at
from ._work import COMPARE, TRAIN


def refused(end) -> str:
    """The sentence, whichever way the folder was made read-only."""
    assert end.code == 2 and len(end.said) == 1, end
    text = end.said[0].removeprefix("sff-teach: ")
    return text.replace("Permission denied", "Read-only file system")


def contents(folder: Path) -> dict:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def train(tmp: Path) -> None:
    _work.warm()
    folder, elsewhere = tmp / "folder", tmp / "elsewhere"
    folder.mkdir(), elsewhere.mkdir()
    run(folder, TRAIN, torn_at(2), code=-9)
    place = ReadOnly(folder)
    before = contents(folder)
    going_on = run(folder, TRAIN, place.give_up_rights, code=2)
    new = run(folder, [*TRAIN[:-1], "new.pt"], place.give_up_rights, code=2)
    out = [*TRAIN[:-2], "--out", "runs.jsonl"]
    runs = run(folder, out, place.give_up_rights, code=2)
    for end in (going_on, new, runs):
        assert "epoch" not in end.out and "checkpoint" not in end.out  # nothing was trained
    assert contents(folder) == before
    assert refused(new) == refused(going_on).replace("run.pt", "new.pt")


def test_train(tmp_path):
    scenario(train, tmp_path)


def compare(tmp: Path) -> None:
    _work.warm()
    whole, part = tmp / "whole", tmp / "part"
    whole.mkdir(), part.mkdir()
    done = run(whole, COMPARE)
    assert done.code == 0
    lines = (whole / "runs.jsonl").read_bytes().splitlines(keepends=True)
    (part / "runs.jsonl").write_bytes(lines[0])
    places = [ReadOnly(folder) for folder in (whole, part)]
    run(part, COMPARE, places[1].give_up_rights, code=2)
    assert (part / "runs.jsonl").read_bytes() == lines[0]
    shown = run(whole, COMPARE, places[0].give_up_rights)
    assert shown.code == 0 and shown.out == done.out  # the same table, seconds and all


def test_compare(tmp_path):
    scenario(compare, tmp_path)
