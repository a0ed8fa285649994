"""Checkpoints: a training that was stopped goes on bit for bit; a bad file is one sentence."""

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from sff_teach import FFNetwork, checkpoint, cnn, fit, load, localize, mlp
from sff_teach.rules import RULES

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 4


def network(rule):
    torch.manual_seed(0)
    if rule.startswith("ff"):
        return FFNetwork(mlp(64, (20, 20)).children(), 10)
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


def plain(history):
    """What does not depend on the clock."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history.rows]


@pytest.mark.parametrize("rule", RULES)
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
import sys, torch
sys.path.insert(0, {root!r})
from tests.unit.test_checkpoint import network, load, fit
digits = load("digits", fraction=1.0)
fit(network("sff"), digits.train, rule="sff", epochs=30, lr=0.01, batch_size=16, progress=False,
    checkpoint={path!r})
"""


def test_killed_at_any_moment_it_loses_at_most_an_epoch(tmp_path):
    path = tmp_path / "run.pt"
    script = KILLED.format(root=str(ROOT), path=str(path))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    epochs = 0
    for kill in range(3):  # each life gets a few epochs further, then dies without a word
        process = subprocess.Popen([sys.executable, "-c", script], env=environment)
        end = time.monotonic() + 120
        while time.monotonic() < end:
            time.sleep(0.05 + 0.03 * kill)
            now = len(checkpoint.read(path)["rows"]) if path.exists() else 0
            if now >= epochs + 2 or process.poll() is not None:
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
        left = len(checkpoint.read(path)["rows"])  # whole, whatever moment it was
        assert left >= now >= epochs + 2
        epochs = left
    digits = load("digits", fraction=1.0)
    options = {"rule": "sff", "epochs": 30, "lr": 0.01, "batch_size": 16, "progress": False}
    torch.set_num_threads(1)
    resumed, never = network("sff"), network("sff")
    history = fit(resumed, digits.train, checkpoint=path, **options)
    expected = fit(never, digits.train, **options)
    assert plain(history) == plain(expected)
    weights = resumed.state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in never.state_dict().items())
    assert [p.name for p in tmp_path.iterdir() if p != path and not p.name.startswith(".")] == []


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


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "flipped", "pickle", "foreign"])
def test_a_bad_file_is_one_sentence_and_runs_nothing(digits, tmp_path, kind, capfd):
    path = tmp_path / "run.pt"
    train("sff", digits, path)
    content = path.read_bytes()
    if kind == "pickle":
        torch.save({"format": checkpoint.FORMAT, "x": Evil()}, path)
    elif kind == "foreign":
        torch.save({"weights": torch.zeros(3)}, path)
    else:
        path.write_bytes(
            {"empty": b"", "text": b"hello", "cut": content[: len(content) // 2],
             "flipped": b"\x00" * 500 + content[500:]}[kind]
        )  # fmt: skip
    with pytest.raises(ValueError, match="damaged or no checkpoint") as caught:
        train("sff", digits, path)
    assert str(path) in str(caught.value)
    assert "never run" not in capfd.readouterr().out


def test_folders_are_checked_before_training(digits, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        train("sff", digits, tmp_path / "no" / "run.pt")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        train("sff", digits, tmp_path)


def test_a_full_disk_is_a_warning_and_training_goes_on(digits, tmp_path, monkeypatch):
    def full(path, write):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_whole", full)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, history = train("sff", digits, tmp_path / "run.pt")
    assert len(history.rows) == EPOCHS and history.stopped is None
    assert len(caught) == 1 and "No space left" in str(caught[0].message)


def test_writing_leaves_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "a"
    checkpoint.write_whole(path, lambda file: file.write(b"old"))

    def broken(file):
        file.write(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        checkpoint.write_whole(path, broken)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
