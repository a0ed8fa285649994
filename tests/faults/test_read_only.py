"""A read-only folder: said before the work, in one sentence; what can be read is used."""

from __future__ import annotations

from pathlib import Path

from tests.unit.test_download import GOOD

from . import _work
from ._lives import ReadOnly, run, scenario, torn_at
from ._work import COMPARE, DOWNLOAD, GRADE, TRAIN

FAULT = "The folder is read-only"


def refused(end) -> str:
    """The sentence, whichever way the folder was made read-only."""
    assert end.code == 2 and len(end.said) == 1, end
    text = end.said[0].removeprefix("sff-teach: ")
    return text.replace("Permission denied", "Read-only file system")


def contents(folder: Path) -> dict:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def train(tmp: Path) -> dict:
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
    return {"how": place.how, "checkpoint": refused(going_on), "out": refused(runs)}


def test_train(tmp_path, saw, way):
    seen = scenario(train, tmp_path)
    way(FAULT, seen["how"])
    saw(
        FAULT, "train", "said before it trains",
        "`sff-teach train … --checkpoint run.pt`, and `fit(checkpoint=)`",
        f"Before anything is trained, exit code 2: “{seen['checkpoint']}”",
    )  # fmt: skip
    saw(
        FAULT, "train", "",
        "`sff-teach train … --out runs.jsonl`",
        f"Before anything is trained, exit code 2: “{seen['out']}”",
    )  # fmt: skip


def compare(tmp: Path) -> dict:
    _work.warm()
    whole, part = tmp / "whole", tmp / "part"
    whole.mkdir(), part.mkdir()
    done = run(whole, COMPARE)
    assert done.code == 0
    lines = (whole / "runs.jsonl").read_bytes().splitlines(keepends=True)
    (part / "runs.jsonl").write_bytes(lines[0])
    places = [ReadOnly(folder) for folder in (whole, part)]
    end = run(part, COMPARE, places[1].give_up_rights, code=2)
    assert (part / "runs.jsonl").read_bytes() == lines[0]
    shown = run(whole, COMPARE, places[0].give_up_rights)
    assert shown.code == 0 and shown.out == done.out  # the same table, seconds and all
    return {"out": refused(end)}


def test_compare(tmp_path, saw):
    seen = scenario(compare, tmp_path)
    saw(
        FAULT, "compare", "said before it trains",
        "`sff-teach compare … --out runs.jsonl`, and `study(path=)`",
        f"Before the first run, exit code 2: “{seen['out']}” If the file holds all runs already, "
        "the table is printed from it.",
    )  # fmt: skip


def grade(tmp: Path) -> dict:
    folder = _work.class_folder(tmp / "class")
    place = ReadOnly(folder)
    end = run(folder, GRADE, place.give_up_rights, code=2)
    assert not (folder / "marks").exists()
    return {"out": refused(end)}


def test_grade(tmp_path, saw):
    seen = scenario(grade, tmp_path)
    saw(
        FAULT, "grade", "said before it marks",
        "`sff-teach grade returned --out marks`",
        f"Before anybody is marked, exit code 2: “{seen['out']}”",
    )  # fmt: skip


def fetch(tmp: Path) -> dict:
    folder, full = tmp / "folder", tmp / "full"
    offer = _work.offered("http://127.0.0.1:9/set.tgz", GOOD)  # where nobody answers
    for place in (folder, full):
        (place / "data").mkdir(parents=True)
    (full / "data" / "set.tgz").write_bytes(GOOD)
    run(full, DOWNLOAD, offer)
    empty, with_set = ReadOnly(folder), ReadOnly(full)

    def before() -> None:
        offer()
        empty.give_up_rights()

    there = run(full, DOWNLOAD, before)
    assert there.code == 0 and "cifar10 is in" in there.out, there
    assert with_set.mounted == empty.mounted
    return {"refusal": refused(run(folder, DOWNLOAD, before, code=2))}


def test_download(tmp_path, saw):
    seen = scenario(fetch, tmp_path)
    saw(
        FAULT, "download", "said before it fetches",
        "`sff-teach data cifar10`, and `load`",
        f"Before anything is fetched, exit code 2: “{seen['refusal']}” A set that is there already "
        "is used.",
    )  # fmt: skip
