"""The pipeline's study: its control, backprop on the same two processes."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = """
import sys
from pathlib import Path
sys.path.insert(0, {results!r})
import pipeline
from sff_teach.study import Recipe
pipeline.ROWS = {{"tiny": (Recipe(network="cnn4"), (1, 28, 28), 16, 3)}}
pipeline.CONTROL = Path({store!r})
if __name__ == "__main__":
    assert pipeline.control_table() == []
    pipeline.measure_backprop(1)
    print(pipeline.control_table()[-1])
"""


@pytest.mark.nightly
def test_the_control_trains_by_gpipe_on_two_processes(tmp_path):
    script = tmp_path / "tiny.py"
    store = str(tmp_path / "control.jsonl")
    script.write_text(TINY.format(results=str(ROOT / "results"), store=store))
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1].startswith("| tiny | ")
