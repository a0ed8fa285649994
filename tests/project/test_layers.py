"""The contract about imports is kept, and it fails when an import is turned round."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINT = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]


@pytest.mark.parametrize(
    ("module", "line", "kept"),
    [
        ("sff_teach/core.py", "", True),
        ("sff_teach/losses.py", "from .study.recipes import Recipe", False),
        ("sff_teach/util/stats.py", "from sff_grade import grading", False),
        ("sff_teach/cut/_private.py", "from ..training import fit", False),
    ],
)
def test_an_import_that_is_turned_round_fails(module, line, kept, tmp_path):
    for package in ("sff_teach", "sff_grade"):
        shutil.copytree(ROOT / package, tmp_path / package)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / module).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    done = subprocess.run([*LINT, "--no-cache"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode == 0) == kept, done.stdout + done.stderr
