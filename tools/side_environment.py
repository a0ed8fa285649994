"""Environments beside .venv, for checks with other versions: made once, then left alone."""

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that scripts beside this one find it

from tools import install  # noqa: E402


def python_of(folder: Path) -> Path:
    """Return the environment's Python."""
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def make(folder: Path, requirements: str, *options: str, pip_too: bool = True) -> Path:
    """Make the environment where it is missing or was made from something else.

    Args:
        requirements: the lines of a requirements file. options: further arguments for uv.
        pip_too: pip may do it where uv cannot be had; False where the options mean nothing to pip.

    Returns the environment's Python.
    """
    stamp = folder / "made_from"
    wanted = f"{sys.version}\n{folder}\n{options}\n{requirements}"
    wanted = hashlib.sha256(wanted.encode()).hexdigest()
    python = python_of(folder)
    if stamp.is_file() and stamp.read_text() == wanted:
        print(f"Nothing to install: {folder.name} is as it should be.")
        return python
    venv.create(folder, clear=True, with_pip=True)
    listed = folder / "requirements.txt"
    listed.write_text(requirements, encoding="utf-8")
    pip = [str(python), "-m", "pip"]
    uv = [install.venv_program("uv"), "pip", "install", "--quiet", "--python", str(python)]
    if not install.run(*uv, *options, "-r", str(listed), env=install.uv_environment(pip)):
        if not pip_too:
            sys.exit(f"{folder.name} could not be made; the reason stands above.")
        print("uv did not work here; installing with pip, which takes longer.", flush=True)
        subprocess.run([*pip, "install", "--quiet", "-r", str(listed)], check=True)
    stamp.write_text(wanted)
    print(f"Made {folder.name}.")
    return python
