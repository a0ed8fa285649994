"""Find figures in prose that are not measured, asserted or cited.

    python tools/check_prose.py [FILE …]        without names: all notebooks and README.md

A figure is a number before %, points, ×, times or seconds, outside code, formulas and comments. It
is supported if

- its paragraph, or table row, names a source with its year: "(Wang et al., 2021)"; or
- the same notebook computes it: it appears, or rounds to it, in an output, an assert, a caption, or
  a formula of the same cell; or
- it appears in one of the generated pages, results/*.md.

Other figures are reported. Invented numbers, as in an exercise, need a reason in the paragraph:
``<!-- not measured: an example -->``.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that this file also runs as a script

from tools.check_form import executed_copy  # noqa: E402

FIGURE = re.compile(
    r"(?<![\w.])[−+-]?(\d[\d,]*(?:\.\d+)?)\s?(%|points?\b|×(?!\s?\d)|times\b|seconds\b)"
)
SOURCE = re.compile(r"\b(?:19|20)\d\d\b")
EXCUSE = re.compile(r"<!-- not measured: \S.*?-->")
ESTIMATE = "**Minutes:**"  # what a reader needs; the running time is checked elsewhere
FORMULA = re.compile(r"\$[^$]*\$")
SPOKEN = re.compile(r"\$[^$]*\$|`[^`]*`|```.*?```", re.S)
COMPUTED = re.compile(r"assert|check_equal|caption|alt=|fraction")


def computed_by(notebook: dict) -> str:
    """The texts that a notebook's code cells print, show or assert."""
    parts = []
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        lines = "".join(cell["source"]).splitlines()
        parts += [line for line in lines if COMPUTED.search(line)]
        for output in cell.get("outputs", []):
            parts += output.get("text", [])
            for kind in ("text/plain", "text/markdown"):
                parts += output.get("data", {}).get(kind, [])
    return "\n".join(parts)


def numbers(text: str) -> set[float]:
    """All numbers in a text."""
    return {float(n.replace(",", "")) for n in re.findall(r"(?<![\d.,])\d[\d,]*(?:\.\d+)?", text)}


def rounds_to(known: set[float], figure: str, percent: bool) -> bool:
    """Whether a known number, to the figure's decimals, is the figure; 0.7 is 70 %."""
    decimals = len(figure.partition(".")[2])
    wanted = float(figure.replace(",", ""))
    factors = (1, 100) if percent else (1,)
    return any(round(factor * n, decimals) == wanted for n in known for factor in factors)


def unsupported(prose: str, computed: str, stored: str) -> list[str]:
    """The unsupported figures of a Markdown text, each with its context."""
    found = []
    known = numbers(computed) | numbers(stored) | numbers(" ".join(FORMULA.findall(prose)))
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*[-|])", SPOKEN.sub("", prose)):
        if SOURCE.search(paragraph) or EXCUSE.search(paragraph) or ESTIMATE in paragraph:
            continue
        for match in FIGURE.finditer(paragraph):
            if not rounds_to(known, match[1], match[2] == "%"):
                around = paragraph[max(0, match.start() - 40) : match.end() + 20]
                found.append(f"{match[0]!r} in “…{' '.join(around.split())}…”")
    return found


def problems(path: Path, stored: str) -> list[str]:
    """One line per unsupported figure."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return [f"{path.name}: {one}" for one in unsupported(text, "", stored)]
    notebook = json.loads(text)
    executed = executed_copy(path)  # the notebook itself keeps no outputs
    run = json.loads(executed.read_text(encoding="utf-8")) if executed.exists() else notebook
    computed = computed_by(run)
    return [
        f"{path.name}, cell {number}: {one}"
        for number, cell in enumerate(notebook["cells"], 1)
        if cell["cell_type"] == "markdown"
        for one in unsupported("".join(cell["source"]), computed, stored)
    ]


def stored_pages(root: Path = ROOT) -> str:
    """All generated pages of results."""
    return "\n".join(p.read_text(encoding="utf-8") for p in sorted((root / "results").glob("*.md")))


def main(names: list[str]) -> int:
    """Print the unsupported figures; 1 if there are any."""
    paths = [Path(name) for name in names]
    paths = paths or [*sorted((ROOT / "notebooks").glob("*.ipynb")), ROOT / "README.md"]
    lines = [line for path in paths for line in problems(path, stored_pages())]
    print("\n".join(lines) or "Every figure in the prose is supported.")
    return int(bool(lines))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
