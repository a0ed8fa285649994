"""Run the course with other versions of its packages than the lock's.

    python tools/version_sets.py newest     the newest releases that pyproject.toml allows
    python tools/version_sets.py floor      the oldest ones, where they exist for this Python

Each set has an environment of its own, .venv-newest or .venv-floor. In it run the package's tests
and the notebooks that use most of it. `make versions-test` calls both; Colab's versions have their
own rehearsal, `make colab-test`.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that this file also runs as a script

from tools import install, side_environment, tested_versions  # noqa: E402

RESOLUTION = {"newest": "highest", "floor": "lowest-direct"}
# Old packages warn about newer ones that they use, and leave files open; that is not ours to mend.
OPTIONS = {
    "newest": [],
    "floor": [
        "-Wignore::DeprecationWarning",
        "-Wignore::pytest.PytestUnraisableExceptionWarning",
    ],
}
# Of these no other version changes anything, and they take long.
LEFT_OUT = ("properties", "test_security.py", "test_project.py")
NOTEBOOKS = ("00_start_here", "06_an_sff_cnn")  # training, widgets, figures


def environment(name: str) -> Path:
    """Make the set's environment; return its Python."""
    options = [f"--resolution={RESOLUTION[name]}"]
    if name == "newest":
        options.append("--upgrade")
    wanted = f"-e {ROOT}[course,test]\n"
    return side_environment.make(ROOT / f".venv-{name}", wanted, *options, pip_too=False)


def versions(python: Path) -> dict[str, str]:
    """The installed version of every package that pyproject.toml names."""
    command = [install.venv_program("uv"), "pip", "freeze", "--python", str(python)]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    installed = dict(line.split("==") for line in listed.splitlines() if "==" in line)
    named = tested_versions.floors()
    return {name: version for name, version in installed.items() if name in named}


def run(name: str) -> int:
    """Run the tests and notebooks with the set; return the exit code."""
    python = environment(name)
    if versions(python) == versions(Path(install.venv_program("python"))):
        print(f"The {name} versions are those of the lock, with which `make test` runs.")
        return 0
    notebooks = [str(ROOT / "notebooks" / f"{notebook}.ipynb") for notebook in NOTEBOOKS]
    quiet = {"OMP_NUM_THREADS": "1", "JUPYTER_PREFER_ENV_PATH": "1"}
    for arguments in (
        ["tests/unit", *(f"--ignore=tests/unit/{one}" for one in LEFT_OUT), *OPTIONS[name]],
        ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout", "120", *notebooks],
    ):
        parallel = ["-n", "auto", "--maxprocesses", "4", "--dist", "loadfile"]
        command = [str(python), "-m", "pytest", "-q", *parallel, *arguments]
        print(f"[{name}] {' '.join(command[1:4])} …", flush=True)
        code = subprocess.call(command, cwd=ROOT, env=os.environ | quiet)
        if code:
            return code
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in RESOLUTION:
        sys.exit(f"Usage: python tools/version_sets.py {' | '.join(RESOLUTION)}")
    sys.exit(run(sys.argv[1]))
