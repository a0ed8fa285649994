"""docs/own_loop.md runs as it stands, in its order."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "own_loop.md"
BLOCKS = re.findall(r"(?ms)^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"))
NEEDS = re.compile(r"# needs (.+)")


def run(blocks, **names):
    for number, code in enumerate(blocks, 1):
        exec(compile(code, f"{PAGE.name}, block {number}", "exec"), names)
    return names


def test_the_page_runs_and_the_network_learns():
    own = [code for code in BLOCKS if not NEEDS.match(code)]
    assert len(own) >= 10
    names = run(own)
    names["model"].eval()
    assert names["sff_teach"].evaluate(names["model"], names["valid"]).accuracy > 0.5


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")  # theirs, of torch's newest version
@pytest.mark.parametrize("package", ["tensorboard", "lightning", "accelerate"])
def test_the_other_frameworks(package, tmp_path):
    pytest.importorskip(package)
    blocks = [code for code in BLOCKS if code.startswith(f"# needs {package}\n")]
    assert blocks
    run([BLOCKS[0], BLOCKS[1], *blocks], log_dir=tmp_path)
