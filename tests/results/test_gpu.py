"""The campaign for a GPU: packed data, resumption, budget; the whole rehearsal at night."""

import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

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


def test_without_lines_the_page_says_so(tmp_path, script):
    gpu = script("gpu")
    gpu["write"](tmp_path / "gpu.jsonl")
    assert "Not yet measured on a GPU" in (tmp_path / "gpu.md").read_text()


@pytest.mark.nightly  # two minutes
def test_the_rehearsal():
    command = [sys.executable, str(RESULTS / "gpu.py"), "--rehearse"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "| resnet18 | 10 | sff, plain head |" in done.stdout
