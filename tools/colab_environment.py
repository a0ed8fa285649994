"""Make .venv-colab, an environment with the versions that Colab has; once made, do nothing.

    python tools/colab_environment.py

tests/colab/requirements.txt lists the versions; torch and torchvision are those of
requirements.lock, so that they come from uv's cache. `make colab-test` calls it.
"""

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that this file also runs as a script

from tools import install  # noqa: E402

FOLDER = ROOT / ".venv-colab"
LIST = ROOT / "tests" / "colab" / "requirements.txt"
STAMP = FOLDER / "made_from"


def python() -> Path:
    """Return the environment's Python."""
    return FOLDER / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def locked_torch() -> list[str]:
    """Return the lock's pins of torch and torchvision, with their markers."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith(("torch==", "torchvision=="))]


def main() -> None:
    wanted = LIST.read_text(encoding="utf-8") + "\n".join([*locked_torch(), ""])
    stamp = hashlib.sha256(f"{sys.version}\n{FOLDER}\n{wanted}".encode()).hexdigest()
    if STAMP.is_file() and STAMP.read_text() == stamp:
        print("Nothing to install: .venv-colab holds what tests/colab/requirements.txt says.")
        return
    venv.create(FOLDER, clear=True, with_pip=True)
    everything = FOLDER / "requirements.txt"
    everything.write_text(wanted, encoding="utf-8")
    pip = [str(python()), "-m", "pip"]
    uv = [install.venv_program("uv"), "pip", "install", "--quiet", "--python", str(python())]
    if not install.run(*uv, "-r", str(everything), env=install.uv_environment(pip)):
        print("uv did not work here; installing with pip, which takes longer.", flush=True)
        subprocess.run([*pip, "install", "--quiet", "-r", str(everything)], check=True)
    STAMP.write_text(stamp)
    print("Made .venv-colab with Colab's versions.")


if __name__ == "__main__":
    main()
