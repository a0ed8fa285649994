"""The command line: what it prints, and how it refuses."""

import json
import os
import subprocess
import sys
from dataclasses import fields

import pytest

from sff_teach import __version__, cli
from sff_teach.cli import main
from sff_teach.study import Recipe

QUICK = ["--network", "cnn3", "--fraction", "0.1", "--epochs", "1", "--device", "cpu"]


def test_doctor_prints_what_a_bug_report_needs(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for needed in (__version__, "torch ", "ipywidgets", "CUDA", "fashion-mnist-sample"):
        assert needed in out


def test_data_list(capsys):
    assert main(["data", "list"]) == 0
    assert "10,000 + 2,000" in capsys.readouterr().out
    assert main(["data", "lst"]) == 2
    assert "list" in capsys.readouterr().err


def test_train_prints_epochs_and_blocks_and_keeps_the_run(capsys, tmp_path):
    out = tmp_path / "run.jsonl"
    assert main(["train", "digits", *QUICK, "--seed", "3", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "epoch   1" in printed and "by block" in printed and "parameters" in printed
    record = json.loads(out.read_text())
    assert record["recipe"]["seed"] == 3 and record["recipe"]["epochs"] == 1


def test_train_list_names_every_recipe(capsys):
    assert main(["train", "list"]) == 0
    assert "fashion" in capsys.readouterr().out


def test_compare_prints_a_table_and_draws_a_picture(capsys, tmp_path):
    picture, out = tmp_path / "compare.png", tmp_path / "runs.jsonl"
    command = ["compare", "digits", "--rules", "bp", "sff", "--seeds", "2", *QUICK]
    assert main([*command, "--picture", str(picture), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "| 130 | sff | 2 |" in printed and "verdict" in printed
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert len(out.read_text().splitlines()) == 4


@pytest.mark.parametrize(
    "command, message",
    [
        (["trian"], "train"),
        (["train", "fashion-sf"], "fashion"),
        (["train", "digits", "--rule", "spf"], "sff"),
        (["train", "digits", "--fraction", "2"], "fraction"),
        (["train", "digits", "--data", "digit"], "digits"),
        (["train", "digits", "--network", "resnet19"], "resnet"),
        (["train", "digits", "--cut", "99"], "cut=99"),
        (["train", "digits", "--batch-size", "0"], "batch_size"),
        (["compare", "--rules", "bp", "sfff"], "sff"),
    ],
)
def test_bad_arguments_end_in_one_sentence(command, message, capsys):
    assert main(command) == 2
    err = capsys.readouterr().err
    assert err.startswith("sff-teach: ") and message in err
    assert len(err.strip().splitlines()) == 1


def test_unknown_options_are_refused(capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", "digits", "--epocs", "3"])
    assert end.value.code == 2
    assert "--epochs" in capsys.readouterr().err


def test_every_setting_of_a_recipe_is_an_option_with_its_own_value(capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", "cifar10-cnn5-laptop", "--rule", "deepsup", "--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    for field in fields(Recipe):
        assert f"--{field.name.replace('_', '-')}" in out
    assert "0.003" in out and "flip-crop" in out


def test_settings_change_the_run(tmp_path, capsys):
    out = tmp_path / "run.jsonl"
    command = ["train", "digits", *QUICK, "--batch-size", "16", "--precision", "bf16"]
    assert main([*command, "--rule=bp", "--label-smoothing", "0.1", "--out", str(out)]) == 0
    recipe = json.loads(out.read_text())["recipe"]
    assert (recipe["batch_size"], recipe["precision"]) == (16, "bf16")
    assert (recipe["rule"], recipe["label_smoothing"]) == ("bp", 0.1)


def test_help_does_not_import_torch():
    code = (
        "import sys; from sff_teach.cli import main; assert main(['--help']) == 0; "
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_ctrl_c(monkeypatch):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "doctor", interrupted)
    assert main(["doctor"]) == 130


def test_python_dash_m_is_the_same():
    done = subprocess.run(
        [sys.executable, "-m", "sff_teach", "train", "nonsense"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("sff-teach: unknown recipe")


@pytest.mark.parametrize("command", [
    ("-m", "sff_teach", "train", "list"),
    ("-c", "from sff_teach.classroom.exercises import check_equal; check_equal('g', 1.0, 1.0)"),
])  # fmt: skip
def test_output_goes_into_a_file_with_an_old_encoding(command):
    env = os.environ | {"PYTHONIOENCODING": "cp1251"}
    done = subprocess.run([sys.executable, *command], env=env, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"?" in done.stdout  # for a sign that cp1251 does not have
