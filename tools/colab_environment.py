"""Make .venv-colab, an environment with the versions that Colab has; once made, do nothing.

    python tools/colab_environment.py

tests/colab/requirements.txt lists the versions; torch and torchvision are those of
requirements.lock, so that they come from uv's cache. `make colab-test` calls it.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that this file also runs as a script

from tools import side_environment  # noqa: E402

FOLDER = ROOT / ".venv-colab"
LIST = ROOT / "tests" / "colab" / "requirements.txt"


def python() -> Path:
    """Return the environment's Python."""
    return side_environment.python_of(FOLDER)


def locked_torch() -> list[str]:
    """Return the lock's pins of torch and torchvision, with their markers."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith(("torch==", "torchvision=="))]


def main() -> None:
    listed = LIST.read_text(encoding="utf-8")
    side_environment.make(FOLDER, listed + "\n".join([*locked_torch(), ""]))


if __name__ == "__main__":
    main()
