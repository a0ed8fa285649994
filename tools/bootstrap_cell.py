"""The first code cell of every notebook, and the one place that holds the repository's address.

    python tools/bootstrap_cell.py          prints the cell

The cell looks for the package in this order: a wheel or the class's kit (`make colab-kit`) beside
the notebook, which it unpacks; the course folder around the notebook; in Colab, the repository. It
runs no installer, so Colab keeps its own torch, numpy and widgets. At most 12 lines, plain enough
to be read by a newcomer.

`make stamp` writes the cell and the Colab links into each notebook, and the guard test compares. A
class or a fork changes `REPOSITORY`; a release, or a class that wants the same notebooks all year,
sets `TAG` to the name of its git tag. Then `make stamp`, commit, and set that tag on the commit.
"""

import re

REPOSITORY = "https://github.com/sff-teach/sff-teach"
TAG = "main"  # what Colab opens and clones: a branch until there is a release, then "v0.1.0"

# The first line marks the cell: a notebook whose first code cell starts with it gets the rest anew.
MARK = "# Run this cell first, in the course folder or in Colab. Running it again does no harm."

BOOTSTRAP = f"""\
{MARK}
import sys
from pathlib import Path
from zipfile import ZipFile

for archive in Path.cwd().glob("sff_teach-*.[wz]*"):  # the wheel or the kit, where one lies here
    ZipFile(archive).extractall("sff-teach")
places = Path("sff-teach", "notebooks").absolute().parents  # sff-teach, this folder, those above
if "google.colab" in sys.modules and not any((p / "sff_teach").is_dir() for p in places):
    !git clone --quiet --depth 1 --branch {TAG} {REPOSITORY} sff-teach
sys.path[:0] = [str(p) for p in places if (p / "sff_teach").is_dir()]
import sff_teach  # noqa: F401 (a missing package shows here, not later)"""

COLAB = "https://colab.research.google.com/github/"


def colab_address(path: str) -> str:
    """Return the address that opens a notebook in Colab; path: inside the repository."""
    return f"{COLAB}{REPOSITORY.partition('.com/')[2]}/blob/{TAG}/{path}"


def with_colab_link(opening: str, path: str) -> str:
    """Return a first cell with the Colab link below its title, or an old link renewed."""
    link = f"[Open in Colab]({colab_address(path)})"
    if COLAB in opening:
        return re.sub(rf"\[[^\]]*\]\({re.escape(COLAB)}[^)]*\)", link, opening)
    title, _, rest = opening.partition("\n")
    return f"{title}\n\n{link}\n{rest}"


if __name__ == "__main__":
    print(BOOTSTRAP)
