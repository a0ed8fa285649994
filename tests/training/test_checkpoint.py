"""Checkpoints: a training that was stopped goes on bit for bit; a bad file is one sentence."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sff_teach import FFNetwork, cnn, fit, load, localize, mlp
from sff_teach.core import LocalBlock
from sff_teach.rules import RULES
from sff_teach.training import checkpoint
from sff_teach.util import files as _files
from tests._helpers import nightly_but, on_a_full_disk, plain

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 4


def network(rule):
    torch.manual_seed(0)
    if rule.startswith("ff"):
        return FFNetwork([layer.append(nn.Dropout(0.2)) for layer in mlp(64, (20, 20))], 10)
    body = nn.Sequential(*cnn(1, (6, 8), ()), nn.Dropout(0.2))
    return localize(body, 10, cut=2, input_shape=(1, 8, 8))


@pytest.fixture(scope="module")
def digits():
    return load("digits", fraction=0.1)


def train(rule, digits, path=None, stop_after=None, **change):
    """A training that, like a killed one, ends inside the epoch after ``stop_after``."""
    stop = threading.Event()

    def on_epoch(history):
        if len(history.rows) == stop_after:
            stop.set()

    model = network(rule)
    options = {"rule": rule, "epochs": EPOCHS, "lr": 0.01, "progress": False} | change
    if not rule.startswith("ff"):
        options["augment"] = "flip-crop"
    history = fit(
        model, digits.train, digits.valid, checkpoint=path, stop=stop, on_epoch=on_epoch, **options
    )
    return model, history


def files(folder):
    """What is in the folder, apart from the lock, which is empty and stays."""
    return [path for path in folder.iterdir() if path.suffix != ".lock"]


@pytest.mark.parametrize("rule", nightly_but(("sff", "ff"), RULES))
def test_going_on_equals_never_stopping_bit_for_bit(rule, digits, tmp_path):
    whole, expected = train(rule, digits)
    path = tmp_path / "run.pt"
    _, cut = train(rule, digits, path, stop_after=2)
    assert cut.stopped == "stopped" and path.exists()
    model, history = train(rule, digits, path)
    assert plain(history) == plain(expected) and len(history.rows) == EPOCHS
    weights = model.state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in whole.state_dict().items())


def test_a_finished_training_is_not_run_again(digits, tmp_path):
    path = tmp_path / "run.pt"
    first, expected = train("sff", digits, path)
    before = path.stat().st_mtime_ns
    model, history = train("sff", digits, path)
    assert history.rows == expected.rows and path.stat().st_mtime_ns == before
    assert torch.equal(model(digits.test.x), first(digits.test.x))


KILLED = """
import io, sys, time
sys.path.insert(0, {root!r})
from sff_teach.training import checkpoint
from tests.training.test_checkpoint import network, load, fit

whole, lives = checkpoint.atomic_write, []

def stuck(path, write):
    \"\"\"The third file is only half written when the process is killed.\"\"\"
    lives.append(path)
    whole(path, half if len(lives) == 3 else write)

def half(file):
    content = path.read_bytes()
    file.write(content[:len(content) // 2])
    file.flush()
    print("half", flush=True)
    time.sleep(120)

if {stuck}:
    checkpoint.atomic_write = stuck
path = checkpoint.Path({path!r})
digits = load("digits", fraction=1.0)
fit(network("sff"), digits.train, rule="sff", epochs=10, lr=0.01, batch_size=32, progress=False,
    checkpoint=path, on_epoch=lambda history: print(len(history.rows), flush=True))
"""


@pytest.mark.parametrize(
    "lives", [(True,), pytest.param((False, True, False), marks=pytest.mark.nightly)]
)
def test_killed_at_any_moment_it_loses_at_most_an_epoch(tmp_path, lives):
    path = tmp_path / "run.pt"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    moment = random.Random(0)
    epochs = 0
    for stuck in lives:  # each gets a few epochs further, then dies
        script = KILLED.format(root=str(ROOT), path=str(path), stuck=stuck)
        process = subprocess.Popen(
            [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True
        )
        lines = [process.stdout.readline().strip()]
        began = time.monotonic()
        lines += [process.stdout.readline().strip() for _ in range(2 if stuck else 1)]
        if not stuck:
            time.sleep(moment.uniform(0, 1) * (time.monotonic() - began))  # within one epoch
        process.send_signal(signal.SIGKILL)
        lines += process.communicate()[0].split()
        finished = [int(line) for line in lines if line != "half"]
        assert finished[:2] == [epochs + 1, epochs + 2]  # it went on from where the last one died
        left = len(checkpoint.read(path)["rows"])  # whole, whatever moment it was
        assert finished[-1] <= left <= finished[-1] + 1 < 10
        unfinished = [p for p in files(tmp_path) if p != path]
        assert len(unfinished) == 1 if stuck else len(unfinished) <= 1
        assert lines[-1] == "half" if stuck else "half" not in lines
        epochs = left
    digits = load("digits", fraction=1.0)
    options = {"rule": "sff", "epochs": 10, "lr": 0.01, "batch_size": 32, "progress": False}
    torch.set_num_threads(1)  # as in the processes
    resumed, never = network("sff"), network("sff")
    history = fit(resumed, digits.train, checkpoint=path, **options)
    expected = fit(never, digits.train, **options)
    assert plain(history) == plain(expected)
    weights = resumed.state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in never.state_dict().items())
    assert files(tmp_path) == [path]  # what the dead left half written is gone


@pytest.mark.parametrize(
    "change, words",
    [
        ({"lr": 0.02}, "lr=0.01, not 0.02"),
        ({"epochs": 9}, "epochs=4, not 9"),
        ({"seed": 3}, "seed=0, not 3"),
        ({"batch_size": 7}, "batch_size=64, not 7"),
    ],
)
def test_other_settings_are_refused(digits, tmp_path, change, words):
    path = tmp_path / "run.pt"
    train("sff", digits, path)
    with pytest.raises(ValueError, match=words) as caught:
        train("sff", digits, path, **change)
    assert "\n" not in str(caught.value)


class Jitter(nn.Module):
    """Draws from the generators of Python and numpy, as many augmentations do."""

    def forward(self, x):
        return x * float(np.random.uniform(0.5, 1.5)) * random.uniform(0.5, 1.5)


def test_numpys_and_pythons_random_numbers_go_on_as_well(digits, tmp_path):
    def jittered(path=None, stop_after=EPOCHS):
        np.random.seed(0), random.seed(0)
        model, stop = network("sff"), threading.Event()
        body = model.blocks[0].body
        model.blocks[0] = LocalBlock(nn.Sequential(Jitter(), body), model.blocks[0].head)
        return fit(
            model, digits.train, epochs=EPOCHS, checkpoint=path, stop=stop, progress=False,
            on_epoch=lambda history: stop.set() if len(history.rows) == stop_after else None,
        )  # fmt: skip

    path = tmp_path / "run.pt"
    jittered(path, stop_after=2)
    assert plain(jittered(path)) == plain(jittered())


def test_other_images_with_the_same_labels_are_refused(tmp_path):
    """Two fractions of one set have the same labels in the same order."""
    mine, other = (load("digits", 0.1, seed=s, validation=0).train for s in (0, 1))
    path, settings = tmp_path / "run.pt", {"epochs": 1, "progress": False}
    fit(network("sff"), mine, checkpoint=path, **settings)
    with pytest.raises(ValueError, match="other training images"):
        fit(network("sff"), other, checkpoint=path, **settings)


def test_another_rule_network_or_data_is_refused(digits, tmp_path):
    path = tmp_path / "run.pt"
    train("sff", digits, path)
    with pytest.raises(ValueError, match="rule='sff', not 'deepsup'"):
        train("deepsup", digits, path)
    other = digits.train.subset(list(range(len(digits.train) - 1, -1, -1)))
    options = {"rule": "sff", "epochs": EPOCHS, "lr": 0.01, "progress": False}
    with pytest.raises(ValueError, match="other training images"):
        fit(network("sff"), other, augment="flip-crop", checkpoint=path, **options)
    wider = localize(cnn(1, (6, 9), ()), 10, cut=2, input_shape=(1, 8, 8))
    before = {k: v.clone() for k, v in wider.state_dict().items()}
    with pytest.raises(ValueError, match="another network"):
        fit(wider, digits.train, augment="flip-crop", checkpoint=path, **options)
    assert all(torch.equal(v, before[k]) for k, v in wider.state_dict().items())


class Evil:
    def __reduce__(self):
        return os.system, ("echo this must never run",)


@pytest.mark.parametrize(
    "kind",
    ["empty", "text", "cut", "flipped", "pickle", "foreign", "bare"],
)  # fmt: skip
def test_a_bad_file_is_one_sentence_and_runs_nothing(digits, tmp_path, kind, capfd):
    path = tmp_path / "run.pt"
    train("sff", digits, path)
    content = path.read_bytes()
    if kind == "pickle":
        torch.save({"format": checkpoint.FORMAT, "x": Evil()}, path)
    elif kind == "foreign":
        torch.save({"weights": torch.zeros(3)}, path)
    elif kind == "bare":
        torch.save(torch.zeros(3), path)
    else:
        path.write_bytes(
            {"empty": b"", "text": b"hello", "cut": content[: len(content) // 2],
             "flipped": b"\x00" * 500 + content[500:]}[kind]
        )  # fmt: skip
    with pytest.raises(ValueError, match="damaged or no checkpoint") as caught:
        train("sff", digits, path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert "never run" not in capfd.readouterr().out


def test_a_folder_in_the_place_of_the_file_is_refused_before_training(digits, tmp_path):
    with pytest.raises(OSError, match="cannot be written"):
        train("sff", digits, tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
def test_a_full_disk_is_a_warning_and_training_goes_on(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(_files.tempfile, "mkstemp", on_a_full_disk)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, history = train("sff", digits, tmp_path / "run.pt")
    assert len(history.rows) == EPOCHS and history.stopped is None
    assert len(caught) == 1 and "No space left" in str(caught[0].message)
    assert files(tmp_path) == []


def test_writing_leaves_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "a"
    checkpoint.atomic_write(path, lambda file: file.write(b"old"))

    def broken(file):
        file.write(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        checkpoint.atomic_write(path, broken)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
