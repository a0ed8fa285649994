"""Pack the course for a class where no repository is hosted: dist/sff-teach-kit.zip.

    python tools/colab_kit.py [FOLDER]      default: dist; the wheel is built beside the kit

The kit is one file. Unzipped it is a course folder that works anywhere, with the wheel in it.
Uploaded to Colab as it is, beside a notebook, it unpacks itself when the bootstrap cell imports it.
It holds only files that git does not ignore, and of the assignments only the students' release.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that this file also runs as a script

import sff_teach  # noqa: E402

ASSIGNMENTS = "notebooks/assignments/"
FOLDERS = ("sff_teach/", "notebooks/", "executed/", "data/", "results/", "docs/")
DOCUMENTS = ("README.md", "LICENSE", "CITATION.cff", "CONTRIBUTING.md", "CHANGELOG.md")


def is_in_kit(path: str) -> bool:
    """Tell whether a file, by its path in the repository, is part of the kit.

    Of the assignments only the release, without anything about their marking.
    """
    if path.startswith(ASSIGNMENTS):
        return path.startswith(f"{ASSIGNMENTS}release/")
    if path.startswith("docs/teaching"):
        return False
    return path in DOCUMENTS or path.startswith(FOLDERS)


def files() -> list[str]:
    """Return the paths of the kit's files in the repository."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    here = [path for path in listed.stdout.splitlines() if (ROOT / path).is_file()]
    return sorted(filter(is_in_kit, here))


def build_wheel(folder: Path) -> Path:
    """Build the wheel into the folder, without a network, and return its path."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return folder / f"sff_teach-{sff_teach.__version__}-py3-none-any.whl"


def build_kit(folder: Path) -> Path:
    """Build the wheel and the kit into the folder and return the kit's path."""
    wheel = build_wheel(folder)
    kit = folder / "sff-teach-kit.zip"
    with ZipFile(kit, "w", ZIP_DEFLATED) as archive:
        for path in files():
            archive.write(ROOT / path, path)
        archive.write(wheel, wheel.name)
    return kit


def main(arguments: list[str]) -> None:
    folder = Path(arguments[0] if arguments else ROOT / "dist").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    kit = build_kit(folder)
    print(f"{kit.name}: {kit.stat().st_size / 1e6:.1f} MB, {len(files())} files and the wheel")


if __name__ == "__main__":
    main(sys.argv[1:])
