"""Two processes with one folder or file: a right outcome, or one sentence for the second."""

from __future__ import annotations

from pathlib import Path

from tests.unit.test_download import Server

from . import _work
from ._lives import Life, leftovers, meanwhile, run, scenario
from ._work import COMPARE, DOWNLOAD, GRADE, TRAIN

FAULT = "Two at once"


def refused(end) -> str:
    assert end.code == 2 and len(end.said) == 1, end
    return end.said[0].removeprefix("sff-teach: ")


def train(tmp: Path) -> str:
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
    return refused(second)


def test_train(tmp_path, saw):
    saw(
        FAULT, "train", "the second is refused",
        "`sff-teach train … --checkpoint run.pt`, and `fit(checkpoint=)`",
        f"The second ends before it trains, exit code 2: “{scenario(train, tmp_path)}” The first "
        "one goes on; its weights are those of a training that was alone, bit for bit.",
    )  # fmt: skip


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


def test_compare(tmp_path, saw):
    assert scenario(compare, tmp_path) == len(_work.RULES) * _work.SEEDS
    saw(
        FAULT, "compare", "they share the file",
        "`sff-teach compare … --out runs.jsonl`, and `study(path=)`",
        "Each takes over what the other has finished meanwhile. Every run stands in the file once, "
        "no line is mixed up, and both print the same table.",
    )  # fmt: skip


def grade(tmp: Path) -> str:
    folder = _work.class_folder(tmp / "class")
    first, second = meanwhile(folder, GRADE, 2, [(GRADE,)])
    assert first.code == 0, first
    assert _work.marks(folder) == _work.RIGHT_MARKS
    return refused(second)


def test_grade(tmp_path, saw):
    saw(
        FAULT, "grade", "the second is refused",
        "`sff-teach grade returned --out marks`",
        f"The second ends before it marks, exit code 2: “{scenario(grade, tmp_path)}” The first "
        "one goes on; its marks are right.",
    )  # fmt: skip


def fetch(tmp: Path, url: str, content: bytes) -> list[str]:
    before = _work.offered(url, content)
    both = [Life(tmp, DOWNLOAD, before) for _ in range(2)]
    ends = [life.end() for life in both]
    assert [end.code for end in ends] == [0, 0], ends
    assert not leftovers(tmp / "data", "cifar10.npz")
    return [end.out for end in ends]


def test_download(tmp_path, saw, monkeypatch):
    from sff_teach.data import download

    monkeypatch.setattr(download, "TIMEOUT", 0.2)  # of the server: it takes twice as long
    server = Server()
    server.mode = "slow"
    folder = tmp_path / "shared"
    folder.mkdir()
    outs = scenario(fetch, folder, server.url, server.content)
    server.http.shutdown()
    server.http.server_close()
    assert server.requests == 1 and outs[0] == outs[1]
    saw(
        FAULT, "download", "one fetches, both have it",
        "`sff-teach data cifar10`, and `load`",
        "The second waits for the first. The set is fetched once, and both have it.",
    )  # fmt: skip
