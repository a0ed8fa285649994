"""Killed at random moments and while writing: the same command ends as if never killed."""

from __future__ import annotations

import hashlib
import random
from itertools import count
from pathlib import Path

import pytest

from sff_teach.data import download
from tests.unit.test_download import Server, image_archive

from . import _work
from ._lives import Life, finish, killed_until_done, leftovers, run, scenario, torn_at
from ._work import COMPARE, DOWNLOAD, GRADE, STUDENTS, TRAIN_OUT

FAULT = "It is killed"
KILLS = 5  # at random moments, of each command; and once more while it writes


def fresh(tmp: Path, name: str, make=Path.mkdir):
    """A function that makes one new folder after the other."""
    numbers = count()

    def begin() -> Path:
        folder = tmp / f"{name}{next(numbers)}"
        make(folder)
        return folder

    return begin


def train(tmp: Path) -> int:
    _work.warm()
    begin = fresh(tmp, "train")
    never = begin()
    life = Life(never, TRAIN_OUT)
    assert life.end().code == 0
    expected = _work.trained(never), _work.figures(never)

    def check(folder: Path) -> None:
        assert _work.same_training(_work.trained(folder), expected[0])
        assert _work.figures(folder) == expected[1]  # one line, the same accuracies
        assert not leftovers(folder, "run.pt", "runs.jsonl")

    killed_until_done(begin, TRAIN_OUT, KILLS, life.age, check)
    for number in (3, _work.EPOCHS + 1):  # the third checkpoint, and the run's line
        folder = begin()
        run(folder, TRAIN_OUT, torn_at(number), code=-9)
        half = leftovers(folder, "run.pt", "runs.jsonl")
        assert len(half) == (number == 3)
        if number > 3:
            assert not (folder / "runs.jsonl").read_bytes().endswith(b"\n")
        assert len(_work.trained(folder)["rows"]) == min(number - 1, _work.EPOCHS)
        finish(folder, TRAIN_OUT, check)
    return KILLS


def test_train(tmp_path, saw):
    kills = scenario(train, tmp_path)
    saw(
        FAULT, "train", "goes on, bit for bit",
        "`sff-teach train … --checkpoint run.pt --out runs.jsonl`, and `fit(checkpoint=)`",
        f"Killed {kills} times at random, and while it wrote the checkpoint and the run: it goes "
        "on after the last finished epoch. In the end weights, losses and accuracies are those of "
        "a training that was never killed, bit for bit; the run stands in `runs.jsonl` once; "
        "nothing half-written is left.",
    )  # fmt: skip


def compare(tmp: Path) -> int:
    _work.warm()
    begin = fresh(tmp, "compare")
    never = begin()
    life = Life(never, COMPARE)
    assert life.end().code == 0
    expected = _work.figures(never)
    assert len(expected) == len(_work.RULES) * _work.SEEDS

    def check(folder: Path) -> None:
        assert _work.figures(folder) == expected  # none lost, none twice
        assert not leftovers(folder, "runs.jsonl")

    killed_until_done(begin, COMPARE, KILLS, life.age, check)
    folder = begin()
    run(folder, COMPARE, torn_at(3), code=-9)
    before = (folder / "runs.jsonl").read_bytes()
    assert not before.endswith(b"\n") and before.count(b"\n") == 2
    finish(folder, COMPARE, check)
    after = (folder / "runs.jsonl").read_bytes()
    assert after.splitlines()[:2] == before.splitlines()[:2]  # what was whole was left alone
    return KILLS


def test_compare(tmp_path, saw):
    kills = scenario(compare, tmp_path)
    saw(
        FAULT, "compare", "goes on, no run lost or doubled",
        "`sff-teach compare … --out runs.jsonl`, and `study(path=)`",
        f"Killed {kills} times at random, and while it wrote a line: finished runs are kept, the "
        "one under way is run again, the half line is removed. Every run stands there once, with "
        "the accuracies of a comparison that was never killed.",
    )  # fmt: skip


def grade(tmp: Path) -> int:
    begin = fresh(tmp, "class", _work.class_folder)
    never = begin()
    life = Life(never, GRADE)
    assert life.end().code == 0
    assert _work.marks(never) == _work.RIGHT_MARKS
    table = (never / "marks" / "marks.csv").read_bytes()

    def check(folder: Path) -> None:
        assert (folder / "marks" / "marks.csv").read_bytes() == table
        for student in STUDENTS:
            assert _work.result_of(folder, student) == _work.result_of(never, student)
        assert not leftovers(folder / "marks", *(n.removeprefix("marks/") for n in _work.MARKED))

    killed_until_done(begin, GRADE, KILLS, life.age, check)
    folder = begin()
    run(folder, GRADE, torn_at(2), code=-9)
    (first,) = (folder / "marks" / "results").glob("*.json")
    assert len(list((folder / "marks" / "results").iterdir())) == 2  # and half of another
    before = first.stat().st_mtime_ns
    finish(folder, GRADE, check)
    assert first.stat().st_mtime_ns == before
    return KILLS


def test_grade(tmp_path, saw):
    kills = scenario(grade, tmp_path)
    saw(
        FAULT, "grade", "goes on, same marks",
        "`sff-teach grade returned --out marks`",
        f"Killed {kills} times at random, and while it wrote a result: who was marked is not "
        "marked again, half a result is removed. `marks.csv` is that of a grading that was never "
        "killed, byte for byte.",
    )  # fmt: skip


def fetch(tmp: Path, url: str, content: bytes) -> int:
    offer = _work.offered(url, content)

    def before() -> None:
        offer()
        download.CHUNK = 1 << 14  # for a file that is so much smaller than a real one

    begin = fresh(tmp, "download")
    never = begin()
    life = Life(never, DOWNLOAD, before)
    assert life.end().code == 0
    expected = digest(never)

    def check(folder: Path) -> None:
        assert digest(folder) == expected
        assert not leftovers(folder, "data/cifar10.npz")

    killed_until_done(begin, DOWNLOAD, KILLS, life.age, check, before)
    folder = begin()
    run(folder, DOWNLOAD, torn_at(1, more=before), code=-9)
    half = leftovers(folder, "data/set.tgz")
    assert len(half) == 1 and half[0].startswith("data/.cifar10.npz.")
    finish(folder, DOWNLOAD, check, before)
    return KILLS


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "data" / "cifar10.npz").read_bytes()).hexdigest()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)  # a slow server takes twice as long
    server = Server()
    server.mode = "slow"
    server.content = image_archive(more={"set/noise": random.Random(0).randbytes(200_000)})
    yield server
    server.http.shutdown()
    server.http.server_close()


def test_download(tmp_path, saw, server):
    kills = scenario(fetch, tmp_path, server.url, server.content)
    continued = [r for r in server.ranges if r]
    assert continued, "no life went on where another was killed"
    saw(
        FAULT, "download", "goes on, checked",
        "`sff-teach data cifar10`, and `load`",
        f"Killed {kills} times at random, and while it stored the set: the download goes on "
        "where it was cut off, and its checksum is compared before anything reads it. The set "
        "is that of a download that was never killed, byte for byte; nothing half-written is left.",
    )  # fmt: skip
