"""The system's clock jumps by a day: nothing measured, resumed, locked or shown depends on it."""

from __future__ import annotations

import re
import time
from pathlib import Path

from . import _work
from ._lives import Life, jumping_clock, meanwhile, run, scenario, torn_at
from ._work import COMPARE, TRAIN_OUT


def shown_seconds(end) -> list[int]:
    """What the progress bars showed as time, gone by and left."""
    times = re.findall(r"[\[<](-?(?:\d+:)?-?\d+:\d\d|\d+ days?, [\d:]+)", end.err)
    return [
        sum(60**i * int(part) for i, part in enumerate(reversed(re.findall(r"-?\d+", text))))
        for text in times
    ]


def check_progress(end) -> None:
    shown = shown_seconds(end)
    assert shown and all(0 <= seconds < 3600 for seconds in shown), end.err[-2000:]


def with_bar() -> None:
    """For ``before``: jumping, and a bar however short the training is."""
    from sff_teach import train

    train.BAR_AFTER_SECONDS = 0
    jumping_clock()


def train(tmp: Path) -> None:
    _work.warm()
    steady, folder = tmp / "steady", tmp / "jumping"
    steady.mkdir(), folder.mkdir()
    run(steady, TRAIN_OUT)
    run(folder, TRAIN_OUT, torn_at(3, more=with_bar), code=-9)
    begin = time.monotonic()
    end, second = meanwhile(folder, TRAIN_OUT, 1, [(TRAIN_OUT, jumping_clock)], with_bar)
    age = time.monotonic() - begin
    assert end.code == 0 and second.code == 2, (end, second)  # the lock holds
    check_progress(end)
    assert len(re.findall(r"\d+/\d+ \[", end.err)) > 3  # the bar moves
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
    check_progress(end)
    assert _work.figures(folder) == _work.figures(steady)
    assert all(0 < r["seconds"] < life.age for r in _work.read_runs(folder / "runs.jsonl"))


def test_compare(tmp_path):
    scenario(compare, tmp_path)
