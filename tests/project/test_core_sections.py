"""A reader may skip the optional sections: the others take no name from them."""

import ast
import builtins
import json
import re
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
SECTION = re.compile(r"^## (.+)\n\n\*(Core|Optional)", re.MULTILINE)


def names(code):
    """Names that a cell makes, and names that it reads."""
    made, read = set(), set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else made).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.ExceptHandler)):
            made.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            made |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.arg):
            made.add(node.arg)
    return made, read


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_not_optional_runs_by_itself(path):
    cells, optional, skipped = [], {}, None
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            for title, kind in SECTION.findall(source):
                skipped = title if kind == "Optional" and title != "Exercises" else None
            continue
        made, read = names(source)
        if skipped:
            optional |= dict.fromkeys(made, skipped)
        else:
            cells.append((cell["id"], made, read))
    there = set(dir(builtins)).union(*(made for _, made, _ in cells))
    for cell_id, _, read in cells:
        lost = {name: optional[name] for name in read - there if name in optional}
        assert not lost, f"{cell_id} takes from optional sections: {lost}"
