"""The command line: what it prints, and how it refuses."""

import json
import subprocess
import sys

import pytest

from sff_teach import __version__
from sff_teach.cli import main

QUICK = ["--network", "cnn3", "--fraction", "0.1", "--epochs", "1", "--device", "cpu"]


def test_doctor_prints_what_a_bug_report_needs(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for needed in (__version__, "torch ", "ipywidgets", "nearest", "CUDA", "fashion-mnist-sample"):
        assert needed in out


def test_data_list(capsys):
    assert main(["data", "list"]) == 0
    assert "10,000 + 2,000" in capsys.readouterr().out
    assert main(["data", "lst"]) == 2
    assert 'did you mean "list"' in capsys.readouterr().err


def test_train_prints_epochs_and_blocks_and_keeps_the_run(capsys, tmp_path):
    out = tmp_path / "run.jsonl"
    assert main(["train", "digits-sff", *QUICK, "--seed", "3", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "epoch   1" in printed and "by block" in printed and "parameters" in printed
    record = json.loads(out.read_text())
    assert record["recipe"]["seed"] == 3 and record["recipe"]["epochs"] == 1


def test_train_list_names_every_recipe(capsys):
    assert main(["train", "list"]) == 0
    assert "fashion-sff" in capsys.readouterr().out


def test_compare_prints_a_table_and_draws_a_picture(capsys, tmp_path):
    picture, out = tmp_path / "compare.png", tmp_path / "runs.jsonl"
    command = ["compare", "digits-sff", "--rules", "bp", "sff", "--seeds", "2", *QUICK]
    assert main([*command, "--picture", str(picture), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "| 130 | sff | 2 |" in printed and "verdict" in printed
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert len(out.read_text().splitlines()) == 4


@pytest.mark.parametrize(
    "command, message",
    [
        (["train", "fashion-sf"], 'did you mean "fashion-sff"'),
        (["train", "digits-sff", "--rule", "spf"], 'did you mean "sff"'),
        (["train", "digits-sff", "--fraction", "2"], "outside (0, 1]"),
        (["train", "digits-sff", "--data", "digit"], 'did you mean "digits"'),
        (["train", "digits-sff", "--network", "resnet19"], "resnet"),
        (["train", "digits-sff", "--cut", "99"], "cut=99"),
        (["compare", "--rules", "bp", "sfff"], 'did you mean "sff"'),
    ],
)
def test_bad_arguments_end_in_one_sentence(command, message, capsys):
    assert main(command) == 2
    err = capsys.readouterr().err
    assert err.startswith("sff-teach: ") and message in err
    assert len(err.strip().splitlines()) == 1


def test_python_dash_m_is_the_same():
    done = subprocess.run(
        [sys.executable, "-m", "sff_teach", "train", "nonsense"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("sff-teach: unknown recipe")
