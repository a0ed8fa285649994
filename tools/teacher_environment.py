"""Make .venv-teacher, an environment with nbgrader beside the course; once made, do nothing.

    python tools/teacher_environment.py

It holds the lock and the `teacher` extra of pyproject.toml. `make teacher-test` calls it.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that this file also runs as a script

from tools import side_environment  # noqa: E402

FOLDER = ROOT / ".venv-teacher"


def extra() -> list[str]:
    """Return the requirements of the `teacher` extra."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^teacher = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)[1]
    return re.findall(r'"([^"]+)"', listed)


def main() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    side_environment.make(FOLDER, lock + "\n".join([*extra(), ""]))


if __name__ == "__main__":
    main()
