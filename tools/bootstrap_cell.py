"""The first code cell of every notebook, and the one setting that holds the repository's address.

    python tools/bootstrap_cell.py          prints the cell

The cell finds the course where it is installed, in a folder above the notebook, or in the kit
(`make colab-kit`) beside it, which unpacks itself (sff_teach/__init__.py). Only existing files are
put on the path, because Python caches missing ones and a second run must find them. No installer
runs, so Colab keeps its own torch and numpy. While `REPOSITORY` is None nothing is fetched, and no
link to Colab is written.

Whoever owns a public repository of the course sets its address below and the tag of a release; then
`make stamp`, commit, and set that tag on the commit. In Colab the cell then clones this tag.
"""

from __future__ import annotations

import re

REPOSITORY: str | None = None  # for instance "https://github.com/OWNER/NAME", if you own it
TAG = "v0.1.0"  # what Colab opens and clones; a tag, because a branch changes under a class

# The first line identifies the cell; `make stamp` replaces the rest.
MARK = "# Run this cell first"
RESULTS, WORK, IN_COLAB = "Read it with its results", "Open the copy to work in", "Open in Colab"
COLAB = "https://colab.research.google.com/github/"


def bootstrap(repository: str | None = REPOSITORY, tag: str = TAG) -> str:
    """Return the first code cell; with a repository it is cloned in Colab."""
    clone = f"""
if "google.colab" in sys.modules:
    !test -e sff-teach || git clone --quiet --depth 1 --branch {tag} {repository} sff-teach
"""
    beside = "sff-teach*" if repository else "sff-teach-kit*"
    return f"""\
{MARK}. It finds the course: installed, in a folder above, or in a kit beside it.
import sys
from pathlib import Path
{clone if repository else ""}
sys.path += ["..", "../../../..", *map(str, Path().glob("{beside}"))]
import sff_teach  # noqa: F401 (Not found? Put sff-teach-kit.zip beside this notebook.)"""


BOOTSTRAP = bootstrap()


def colab_address(path: str) -> str | None:
    """Return the address that opens a notebook in Colab, None while there is no repository.

    Args:
        path: of the notebook inside the repository.
    """
    if REPOSITORY is None:
        return None
    return f"{COLAB}{REPOSITORY.partition('.com/')[2]}/blob/{TAG}/{path}"


def with_links(opening: str, path: str) -> str:
    """Return a notebook's first cell with the generated links below its title.

    A notebook of the course gets a link to its copy with results, that copy a link back, and both a
    link to Colab once there is a repository.

    Args:
        opening: the first cell's text.
        path: of the notebook inside the repository.
    """
    opening = re.sub(rf"\n\n\[(?:{RESULTS}|{WORK}|{IN_COLAB})\]\([^\n]*(?=\n)", "", opening)
    folder, _, name = path.rpartition("/")
    links = []
    if folder == "notebooks":
        links.append(f"[{RESULTS}](../executed/{name})")
    elif folder == "executed":
        links.append(f"[{WORK}](../notebooks/{name}) (this one was run, and is not edited)")
    address = colab_address(path.replace("executed/", "notebooks/"))
    if address is not None:
        links.append(f"[{IN_COLAB}]({address})")
    title, _, rest = opening.partition("\n")
    return f"{title}\n\n{' · '.join(links)}\n{rest}" if links else opening


if __name__ == "__main__":
    print(BOOTSTRAP)
