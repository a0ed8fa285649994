"""Two processes with one folder or file: a right outcome, or one sentence for the second."""

from __future__ import annotations

from pathlib import Path

from . import _work
from ._lives import Life, leftovers, meanwhile, run, scenario
from ._work import COMPARE, TRAIN


def refused(end) -> str:
    assert end.code == 2 and len(end.said) == 1, end
    return end.said[0].removeprefix("sff-teach: ")


def train(tmp: Path) -> None:
    _work.warm()
    alone, folder = tmp / "alone", tmp / "shared"
    alone.mkdir(), folder.mkdir()
    run(alone, TRAIN)
    first, second, other = meanwhile(folder, TRAIN, 3, [(TRAIN,), ([*TRAIN, "--seed", "1"],)])
    assert first.code == 0, first
    assert _work.same_training(_work.trained(folder), _work.trained(alone))
    assert not leftovers(folder, "run.pt")
    assert refused(second) == refused(other)
    run(folder, TRAIN)  # and now it may


def test_train(tmp_path):
    scenario(train, tmp_path)


def compare(tmp: Path) -> int:
    _work.warm()
    folder = tmp / "shared"
    folder.mkdir()
    both = [Life(folder, COMPARE) for _ in range(2)]
    ends = [life.end() for life in both]
    assert [end.code for end in ends] == [0, 0], ends
    assert ends[0].out == ends[1].out  # one table, seconds and all
    runs = [figure[:2] for figure in _work.figures(folder)]
    assert runs == sorted({(rule, seed) for rule in _work.RULES for seed in range(_work.SEEDS)})
    assert not leftovers(folder, "runs.jsonl")
    return len(runs)


def test_compare(tmp_path):
    assert scenario(compare, tmp_path) == len(_work.RULES) * _work.SEEDS
