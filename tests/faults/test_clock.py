"""The system's clock jumps by a day: nothing measured, resumed or locked depends on it."""

from __future__ import annotations

import time
from pathlib import Path

from . import _work
from ._lives import Life, jumping_clock, meanwhile, run, scenario, torn_at
from ._work import COMPARE, TRAIN_OUT


def train(tmp: Path) -> None:
    _work.warm()
    steady, folder = tmp / "steady", tmp / "jumping"
    steady.mkdir(), folder.mkdir()
    run(steady, TRAIN_OUT)
    run(folder, TRAIN_OUT, torn_at(3, more=jumping_clock), code=-9)
    begin = time.monotonic()
    end, second = meanwhile(folder, TRAIN_OUT, 1, [(TRAIN_OUT, jumping_clock)], jumping_clock)
    age = time.monotonic() - begin
    assert end.code == 0 and second.code == 2, (end, second)  # the lock holds
    assert _work.same_training(_work.trained(folder), _work.trained(steady))
    assert _work.figures(folder) == _work.figures(steady)
    (record,) = _work.read_runs(folder / "runs.jsonl")
    assert all(0 < row["seconds"] < age for row in record["epochs"][2:])
    assert 0 < record["seconds"] < 60


def test_train(tmp_path):
    scenario(train, tmp_path)


def compare(tmp: Path) -> None:
    _work.warm()
    steady, folder = tmp / "steady", tmp / "jumping"
    steady.mkdir(), folder.mkdir()
    run(steady, COMPARE)
    life = Life(folder, COMPARE, jumping_clock)
    end = life.end()
    assert end.code == 0, end
    assert _work.figures(folder) == _work.figures(steady)
    assert all(0 < r["seconds"] < life.age for r in _work.read_runs(folder / "runs.jsonl"))


def test_compare(tmp_path):
    scenario(compare, tmp_path)
