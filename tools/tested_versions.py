"""Write sff_teach/tested_versions.json, from which `sff-teach doctor` tells how near a machine is.

    python tools/tested_versions.py

The floor is pyproject.toml's, the locked set requirements.lock's, Colab's the rehearsal's list.
`make lock` calls it; a test compares.
"""

import json
import re
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it on Python 3.10

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "sff_teach" / "tested_versions.json"
ALSO = ("jupyterlab", "ipywidgets", "nbval")  # beside the package's own dependencies
COLAB = ROOT / "tests" / "colab" / "requirements.txt"


def floors() -> dict[str, list[str]]:
    """The oldest version that pyproject.toml allows, by package."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    listed = [Requirement(line) for line in project["dependencies"]]
    for extra in ("course", "test"):
        more = [Requirement(line) for line in project["optional-dependencies"][extra]]
        listed += [wanted for wanted in more if wanted.name in ALSO]
    return {
        canonicalize_name(wanted.name): [
            one.version for one in wanted.specifier if one.operator == ">="
        ]
        for wanted in listed
    }


def pins(text: str, packages) -> dict[str, list[str]]:
    """The versions that a list pins, by package; a star is left out."""
    found: dict[str, list[str]] = {}
    for name, version in re.findall(r"(?m)^([\w.-]+)==([\w.]+)", text):
        if canonicalize_name(name) in packages:
            found.setdefault(canonicalize_name(name), []).append(version.removesuffix("."))
    return found


def collect() -> dict[str, dict[str, list[str]]]:
    """The three sets."""
    floor = floors()
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    colab = COLAB.read_text(encoding="utf-8").replace(".*", "")
    return {"locked": pins(lock, floor), "floor": floor, "colab": pins(colab, floor)}


if __name__ == "__main__":
    PAGE.write_text(json.dumps(collect(), indent=1) + "\n", encoding="utf-8")
