"""A full disk: one sentence, what was there stays, and with space the same command goes on."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

from tests.unit.test_download import Server, image_archive

from . import _work
from ._lives import SmallDisk, leftovers, run, scenario, torn_at
from ._work import COMPARE, DOWNLOAD, GRADE, TRAIN, TRAIN_OUT

FAULT = "The disk is full"
PAGE = 4096  # bytes; a file system in memory counts in these


def sentence(end) -> str:
    """The one thing that a command said, whatever the limit that stood for a full disk."""
    assert len(end.said) == 1, end
    text = end.said[0].removeprefix("sff-teach: ")
    return text.replace("File too large", "No space left on device")


def train(tmp: Path) -> dict:
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
    warning = sentence(end)
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
    refusal = sentence(end)
    assert (disk.folder / "runs.jsonl").read_bytes() == stored
    printed = json.loads(end.out.splitlines()[-1])
    disk.make_room()
    run(disk.folder, TRAIN_OUT)
    first, second = (disk.folder / "runs.jsonl").read_bytes().splitlines(keepends=True)
    assert first == stored
    measured = ("recipe", "epochs", "accuracy")
    assert all(json.loads(second)[name] == printed[name] for name in measured)
    return {"how": disk.how, "warning": warning, "refusal": refusal}


def test_train(tmp_path, saw, way):
    seen = scenario(train, tmp_path)
    way(FAULT, seen["how"])
    saw(
        FAULT, "train", "a sentence, goes on",
        "`sff-teach train … --checkpoint run.pt`, and `fit(checkpoint=)`",
        f"“{seen['warning']}” It trains to its end and prints its accuracy; the checkpoint is the "
        "last one that had room. With space the same command goes on from there, bit for bit.",
    )  # fmt: skip
    saw(
        FAULT, "train", "",
        "`sff-teach train … --out runs.jsonl`",
        f"Exit code 2: “{seen['refusal']}” The runs before are as they were, without half a line.",
    )  # fmt: skip


def compare(tmp: Path) -> dict:
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
    return {"how": disk.how, "refusal": sentence(end)}


def test_compare(tmp_path, saw):
    seen = scenario(compare, tmp_path)
    saw(
        FAULT, "compare", "a sentence, goes on",
        "`sff-teach compare … --out runs.jsonl`, and `study(path=)`",
        f"Exit code 2: “{seen['refusal']}” The runs before are as they were, without half a line, "
        "and are not run again when there is space.",
    )  # fmt: skip


def grade(tmp: Path) -> dict:
    folder = _work.class_folder(tmp / "class")
    disk = SmallDisk(folder / "marks")
    (disk.folder / "results").mkdir()
    disk.fill(PAGE if disk.mounted else 100)  # room for one result
    end = run(folder, GRADE, disk.limit, code=2)
    assert end.code == 2, end
    stored = {p: p.stat().st_mtime_ns for p in (disk.folder / "results").glob("*.json")}
    assert len(stored) == int(disk.mounted)
    assert not leftovers(disk.folder, "filler", *(f"results/{p.name}" for p in stored))
    disk.make_room()
    again = run(folder, GRADE)
    assert again.code == 0 and f"{len(stored)} marked before" in again.out, again
    assert all(path.stat().st_mtime_ns == then for path, then in stored.items())
    assert _work.marks(folder) == _work.RIGHT_MARKS
    return {"refusal": sentence(end)}


def test_grade(tmp_path, saw):
    seen = scenario(grade, tmp_path)
    student = next(s for s in _work.STUDENTS if f"/{s}.json" in seen["refusal"])
    saw(
        FAULT, "grade", "a sentence, goes on",
        "`sff-teach grade returned --out marks`",
        f"Exit code 2: “{seen['refusal'].replace(student, 'STUDENT')}” Who was marked before is "
        "not marked again when there is space, and the marks are right.",
    )  # fmt: skip


def fetch(tmp: Path, url: str, content: bytes) -> dict:
    disk = SmallDisk(tmp / "disk")
    offer = _work.offered(url, content)

    def before() -> None:
        offer()
        disk.limit()

    (disk.folder / "data").mkdir()
    part, whole = disk.folder / "data" / "set.tgz.part", disk.folder / "data" / "set.tgz"
    said, sizes = [], []
    for attempt in range(20):
        tries = sizes.count(len(content))  # with the whole archive; what is left is to store it
        disk.fill(PAGE * (bool(attempt) + tries) if disk.mounted else PAGE * attempt)
        end = run(disk.folder, DOWNLOAD, before, code=None)
        if end.code == 0:
            break
        said.append(sentence(end))
        sizes.append((whole if whole.exists() else part).stat().st_size)
        if part.exists():
            assert content.startswith(part.read_bytes())
    assert end.code == 0 and len(set(sizes)) > 3, (end, sizes)
    assert not leftovers(disk.folder, "filler", "data/cifar10.npz")
    return {"said": sorted(set(said)), "sizes": sizes, "mounted": disk.mounted}


def test_download(tmp_path, saw):
    server = Server()
    server.content = image_archive(more={"set/noise": random.Random(0).randbytes(3 * PAGE)})
    server.mode = "no length"  # else the command asks for the space before it fetches anything
    seen = scenario(fetch, tmp_path, server.url, server.content)
    server.mode = "good"
    server.http.shutdown()
    server.http.server_close()
    (refusal,) = seen["said"]
    # Each try went on where the one before had stopped; the last ones had it all and asked nobody.
    parts = [size for size in seen["sizes"] if size < len(server.content)]
    assert parts == sorted(parts)
    assert not seen["mounted"] or seen["sizes"][-1] == len(server.content)
    starts = [int(r.removeprefix("bytes=").rstrip("-")) if r else 0 for r in server.ranges]
    assert starts == [0, *parts], (starts, seen["sizes"])
    saw(
        FAULT, "download", "a sentence, goes on",
        "`sff-teach data cifar10`, and `load`",
        f"Exit code 2: “{refusal}” With a little more space each time, each try went on at the "
        "byte where the last one had stopped, and nothing was fetched twice.",
    )  # fmt: skip
