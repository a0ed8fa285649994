"""Killed at random moments and while writing: the same command ends as if never killed."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from . import _work
from ._lives import Life, finish, killed_until_done, leftovers, run, scenario, torn_at
from ._work import COMPARE, TRAIN_OUT

KILLS = 10  # at random moments, of each command; and once more while it writes


def fresh(tmp: Path, name: str, make=Path.mkdir):
    """A function that makes one new folder after the other."""
    numbers = count()

    def begin() -> Path:
        folder = tmp / f"{name}{next(numbers)}"
        make(folder)
        return folder

    return begin


def train(tmp: Path) -> None:
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


def test_train(tmp_path):
    scenario(train, tmp_path)


def compare(tmp: Path) -> None:
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


def test_compare(tmp_path):
    scenario(compare, tmp_path)
