"""The first code cell of every notebook, and the one place that holds the repository's address.

    python tools/bootstrap_cell.py          prints the cell

`make notebooks` writes it into each notebook, and the guard test compares. At most 12 lines, plain
enough to be read by a newcomer. It installs nothing: Colab keeps its own torch, numpy and widgets.
"""

REPOSITORY = "https://github.com/sff-teach/sff-teach"

# The first line marks the cell: a notebook whose first code cell starts with it gets the rest anew.
MARK = "# Run this cell first, in the course folder or in Colab. Running it again does no harm."

BOOTSTRAP = f"""\
{MARK}
import sys
from importlib.metadata import version
from pathlib import Path

places = [Path.cwd(), *Path.cwd().parents, Path("/content/sff-teach")]
if "google.colab" in sys.modules and not any((p / "sff_teach").is_dir() for p in places):
    !git clone --quiet --depth 1 {REPOSITORY} {{places[-1]}}
sys.path.insert(0, next((str(p) for p in places if (p / "sff_teach").is_dir()), ""))
import sff_teach

print(f"sff_teach {{sff_teach.__version__}} torch {{version('torch')}} Python {{sys.version.split()[0]}}")"""  # noqa: E501 (100 in the cell)

if __name__ == "__main__":
    print(BOOTSTRAP)
