"""A full disk: one sentence, what was there stays, and with space the same command goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from . import _work
from ._lives import SmallDisk, leftovers, run, scenario, torn_at
from ._work import COMPARE, TRAIN, TRAIN_OUT

PAGE = 4096  # bytes; a file system in memory counts in these


def sentence(end) -> str:
    """The one thing that a command said, whatever the limit that stood for a full disk."""
    assert len(end.said) == 1, end
    text = end.said[0].removeprefix("sff-teach: ")
    return text.replace("File too large", "No space left on device")


def train(tmp: Path) -> None:
    _work.warm()
    never, killed = tmp / "never", tmp / "killed"
    never.mkdir(), killed.mkdir()
    run(never, TRAIN_OUT)
    run(killed, TRAIN, torn_at(2), code=-9)
    disk = SmallDisk(tmp / "disk")
    shutil.copy(killed / "run.pt", disk.folder)
    before = (disk.folder / "run.pt").read_bytes()

    disk.fill(0 if disk.mounted else len(before) // 2)
    end = run(disk.folder, TRAIN, disk.limit)
    assert end.code == 0 and "test accuracy" in end.out, end
    sentence(end)
    assert (disk.folder / "run.pt").read_bytes() == before
    assert not leftovers(disk.folder, "run.pt", "filler")
    disk.make_room()
    run(disk.folder, TRAIN)
    assert _work.same_training(_work.trained(disk.folder), _work.trained(never))

    shutil.copy(never / "runs.jsonl", disk.folder)
    stored = (disk.folder / "runs.jsonl").read_bytes()
    assert len(stored) % PAGE > PAGE // 2  # what is left of the last page is too little for a line
    disk.fill(0 if disk.mounted else len(stored) + 200)
    end = run(disk.folder, TRAIN_OUT, disk.limit, code=2)
    assert end.code == 2, end
    sentence(end)
    assert (disk.folder / "runs.jsonl").read_bytes() == stored
    printed = json.loads(end.out.splitlines()[-1])
    disk.make_room()
    run(disk.folder, TRAIN_OUT)
    first, second = (disk.folder / "runs.jsonl").read_bytes().splitlines(keepends=True)
    assert first == stored
    measured = ("recipe", "epochs", "accuracy")
    assert all(json.loads(second)[name] == printed[name] for name in measured)


def test_train(tmp_path):
    scenario(train, tmp_path)


def compare(tmp: Path) -> None:
    _work.warm()
    never = tmp / "never"
    never.mkdir()
    run(never, COMPARE)
    disk = SmallDisk(tmp / "disk")
    first = (never / "runs.jsonl").read_bytes().splitlines(keepends=True)[0]
    (disk.folder / "runs.jsonl").write_bytes(first)
    disk.fill(0 if disk.mounted else PAGE)
    end = run(disk.folder, COMPARE, disk.limit, code=2)
    assert end.code == 2, end
    kept = (disk.folder / "runs.jsonl").read_bytes()
    assert kept.startswith(first) and kept.endswith(b"\n")
    assert 1 < kept.count(b"\n") < len(_work.figures(never))  # it filled up on the way
    printed = json.loads(end.out.splitlines()[-1])
    disk.make_room()
    run(disk.folder, COMPARE)
    after = (disk.folder / "runs.jsonl").read_bytes()
    assert after.startswith(kept) and _work.figures(disk.folder) == _work.figures(never)
    next_one = json.loads(after[len(kept) :].splitlines()[0])
    assert [next_one[k] for k in ("rule", "seed", "accuracy")] == [
        printed[k] for k in ("rule", "seed", "accuracy")
    ]


def test_compare(tmp_path):
    scenario(compare, tmp_path)
