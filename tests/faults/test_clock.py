"""The system's clock jumps by a day: nothing measured, resumed, locked or shown depends on it."""

from __future__ import annotations

import ast
import re
import time
from pathlib import Path

import pytest

import sff_teach
from tests.unit.test_download import Server

from . import _work
from ._lives import Life, jumping_clock, leftovers, meanwhile, run, scenario, torn_at
from ._work import COMPARE, DOWNLOAD, GRADE, TRAIN_OUT

FAULT = "The clock jumps"


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


def test_train(tmp_path, saw):
    scenario(train, tmp_path)
    saw(
        FAULT, "train", "nothing changes",
        "`sff-teach train … --checkpoint run.pt --out runs.jsonl`, and `fit(checkpoint=)`",
        "Killed and started again meanwhile, the weights are those of a training with a steady "
        "clock, bit for bit; the stored seconds are those that passed, the progress bar moves and "
        "shows them, and a second training with the checkpoint is still refused.",
    )  # fmt: skip


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


def test_compare(tmp_path, saw):
    scenario(compare, tmp_path)
    saw(
        FAULT, "compare", "nothing changes",
        "`sff-teach compare … --out runs.jsonl`, and `study(path=)`",
        "The accuracies are those of a comparison with a steady clock; the stored and the shown "
        "seconds are those that passed.",
    )  # fmt: skip


def grade(tmp: Path) -> None:
    folder = _work.class_folder(tmp / "class")
    end = run(folder, GRADE, jumping_clock)
    assert end.code == 0, end
    check_progress(end)
    assert _work.marks(folder) == _work.RIGHT_MARKS


def test_grade(tmp_path, saw):
    scenario(grade, tmp_path)
    saw(
        FAULT, "grade", "nothing changes",
        "`sff-teach grade returned --out marks`",
        "The marks are right. What an answer may compute is counted in processor time, and waiting "
        "for it by a clock that nobody can set.",
    )  # fmt: skip


def fetch(tmp: Path, url: str, content: bytes) -> None:
    offer = _work.offered(url, content)

    def before() -> None:
        offer()
        jumping_clock()

    run(tmp, DOWNLOAD, before)
    assert not leftovers(tmp / "data", "cifar10.npz")


def test_download(tmp_path, saw):
    server = Server()
    server.mode = "breaks off"
    folder = tmp_path / "jumping"
    folder.mkdir()
    scenario(fetch, folder, server.url, server.content)
    server.http.shutdown()
    server.http.server_close()
    assert len(server.ranges) == 2 and server.ranges[1]
    saw(
        FAULT, "download", "nothing changes",
        "`sff-teach data cifar10`, and `load`",
        "A download that breaks off goes on where it stopped.",
    )  # fmt: skip


MODULES = sorted(Path(sff_teach.__file__).parent.rglob("*.py"))
CLOCKS = {"time", "time_ns", "localtime", "gmtime", "ctime", "strftime"}
DATES = {"now", "utcnow", "today"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_no_module_reads_the_clock_that_can_be_set(path):
    """Durations come from clocks that only run forward, also in the grader's own processes."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr not in DATES, node.lineno
        if isinstance(node, ast.Attribute):
            of_time = isinstance(node.value, ast.Name) and node.value.id == "time"
            assert not (of_time and node.attr in CLOCKS), node.lineno
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            assert not CLOCKS & {alias.name for alias in node.names}, node.lineno
