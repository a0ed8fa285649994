"""The campaign for a GPU: packed data, resumption, budget; the whole rehearsal at night."""

import itertools
import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from sff_teach import load
from sff_teach.data import Splits
from sff_teach.study import read_runs

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture
def script(monkeypatch):
    """The names of a script of results/."""
    monkeypatch.syspath_prepend(str(RESULTS))
    return lambda name: runpy.run_path(str(RESULTS / f"{name}.py"))


def test_a_packed_set_is_the_set(tmp_path, script):
    packing = script("pack_images")
    path = tmp_path / "digits.npz"
    packing["pack"]("digits", path)
    packed, original = packing["unpack"](path), load("digits", validation=0)
    for part in ("train", "test"):
        one, other = getattr(packed, part), getattr(original, part).as_rgb()
        assert torch.equal(one.y, other.y) and one.classes == other.classes
        # half a grey level of 255, over the deviation by which both are divided
        torch.testing.assert_close(one.x, other.x, atol=0.01, rtol=0.01)
    assert len(packed.valid) == 0
    assert len(packing["unpack"](path, limit=20).train) == 20


def test_a_folder_is_what_it_is_when_packed(tmp_path, script):
    packing = script("pack_images")
    random = np.random.default_rng(0)
    for part, label, number in itertools.product(("train", "test"), ("cat", "dog"), range(3)):
        path = tmp_path / "images" / part / label / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(path)
    packing["pack"](str(tmp_path / "images"), tmp_path / "images.npz")
    packed, folder = (packing["unpack"](tmp_path / name) for name in ("images.npz", "images"))
    for one, other in ((packed.train, folder.train), (packed.test, folder.test)):
        assert (
            torch.equal(one.x, other.x) and one.y.tolist() == other.y.tolist() == [0] * 3 + [1] * 3
        )
    assert folder.classes == ("cat", "dog") and folder.train.name == "images, JPEG copy"


def test_ten_times_as_many_classes(script):
    packing = script("pack_images")
    few = load("fashion-mnist-sample", validation=0)
    part = few.train.subset(torch.arange(200)).as_rgb()
    part = replace(part, x=part.x * torch.tensor([1.0, 0.5, 0.25]).view(3, 1, 1))
    many = packing["times_ten"](Splits(part, part, part)).train
    assert many.num_classes == 100 and torch.equal(many.y // 10, part.y)
    way = many.y % 10
    assert len(way.unique()) == 10
    i = int((way == 6).nonzero()[0, 0])  # green, blue, red; upside down
    pixels = part.values()[i][[1, 2, 0]].flip(1)
    torch.testing.assert_close(many.values()[i], pixels, atol=1e-5, rtol=1e-5)


def test_a_campaign_goes_on_and_stops_in_time(tmp_path, script):
    gpu, store, made = script("gpu"), tmp_path / "gpu.jsonl", []

    def campaign(seconds):
        return gpu["Campaign"](gpu["REHEARSAL"], None, store, seconds)

    def make():
        made.append(1)
        return {"value": 1.0}

    campaign(60).do({"what": "step", "batch": 1}, make)
    campaign(60).do({"what": "step", "batch": 1}, make)  # it is there
    assert len(made) == len(read_runs(store)) == 1
    record = read_runs(store)[0]
    store.write_text(json.dumps(record | {"took": 100.0}) + "\n")
    campaign(60).do({"what": "step", "batch": 2}, make)  # the last one took longer than is left
    assert len(made) == 1
    campaign(200).do({"what": "step", "batch": 2}, make)
    assert len(made) == len(read_runs(store)) == 2


def test_a_run_that_fails_is_a_line_and_the_next_one_runs(tmp_path, script):
    gpu, store = script("gpu"), tmp_path / "gpu.jsonl"
    campaign = gpu["Campaign"](gpu["REHEARSAL"], None, store, 60)

    def no_room():
        raise torch.OutOfMemoryError("8 GB more than there are")

    def broken():
        raise RuntimeError("no kernel\nfor this card")

    rows = {"network": "resnet18", "classes": 10, "seed": 0}
    campaign.do({"what": "accuracy", "row": "bp", **rows}, no_room)
    campaign.do({"what": "step", "rule": "sff", "classes": 10, "batch": 128}, broken)
    campaign.compare("bf16", lambda: 1.0, lambda: 1.2, 0.05)
    campaign.compare("fp16", lambda: 1.17, lambda: 1.2, 0.05)
    campaign.compare("compiled", broken, lambda: 1.2, 0.05)
    runs = read_runs(store)
    assert [run.get("error") for run in runs[:2]] == ["out of memory", "RuntimeError: no kernel"]
    assert [run.get("ok") for run in runs[2:]] == [False, True, None]
    assert gpu["failures"](runs) == [
        "step sff: RuntimeError: no kernel",
        "smoke bf16: differs from the CPU",
        "smoke compiled: RuntimeError: no kernel",
    ]
    gpu["write"](store)
    page = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert page.count("**no**") == 3  # two tests, and the sentence that explains it
    assert "| resnet18 | 10 | bp | 0 | out of memory |" in page
    with pytest.raises(SystemExit, match="differs from the CPU"):
        gpu["check"](store)


def test_a_training_that_was_not_killed_is_no_resumption(script, monkeypatch):
    """Trained from the start it ends at the same loss, so the loss alone would not tell."""
    gpu = script("gpu")
    campaign = gpu["Campaign"](gpu["REHEARSAL"], None, Path("unused"), 60)
    train = load("digits", validation=0).train
    campaign.smoke_data = train.subset(torch.arange(40))

    class Unharmed:
        exitcode = 0

        def __init__(self, **_):
            self.start = self.join = lambda: None

    context = SimpleNamespace(Process=Unharmed)
    monkeypatch.setattr(torch.multiprocessing, "get_context", lambda _: context)
    result = campaign.resumed(gpu["SMOKE"])
    assert result["difference"] == 0 and not result["ok"]


def test_without_lines_the_page_says_so(tmp_path, script):
    gpu = script("gpu")
    gpu["write"](tmp_path / "gpu.jsonl")
    page = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert page.count("Not yet measured on a GPU") == 1 and "What to do first" in page


@pytest.mark.nightly  # two minutes
def test_the_rehearsal():
    command = [sys.executable, str(RESULTS / "gpu.py"), "--rehearse"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "| resnet18 | 10 | sff, plain head |" in done.stdout
