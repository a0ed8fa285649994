# ruff: noqa: E501 (cells of notebooks, as strings)
"""A small assignment and the ways in which a class returns it."""

from __future__ import annotations

import copy
import json
from pathlib import Path

from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

SETUP = """\
import torch
from torch import nn
from torch.testing import assert_close

from sff_teach import goodness as package
from sff_teach.classroom import student as classroom

seed = classroom.seed(STUDENT_ID)


def images(n):
    return torch.rand(n, 6, generator=torch.Generator().manual_seed(seed))"""

ADAPTER = """\
def ask_layer(weight, x):
    layer = Layer(len(weight))
    with torch.no_grad():
        layer.linear.weight.copy_(weight)
        layer.linear.bias.zero_()
    return layer(x).detach(), weight"""

TASKS = {
    "s-task1": (
        2,
        "def mean_square(h):\n    ### BEGIN SOLUTION\n    return h.square().mean(1)\n    ### END SOLUTION",
        """\
h = torch.tensor([[3.0, 0.0, 4.0, 0.0]])
assert torch.allclose(mean_square(h), torch.tensor([6.25])), "[3, 0, 4, 0] has goodness 25 / 4."
### BEGIN HIDDEN TESTS
x = images(5)
assert_close(mean_square(x), package.mean_squares(x))
### END HIDDEN TESTS""",
    ),
    "s-task2": (
        3,
        """\
class Layer(nn.Module):
    def __init__(self, units):
        super().__init__()
        self.linear = nn.Linear(6, units)

    def forward(self, x):
        ### BEGIN SOLUTION
        return torch.relu(self.linear(x))
        ### END SOLUTION""",
        """\
h, _ = ask_layer(torch.eye(4, 6), images(3))
assert h.shape == (3, 4), "Three images and four units: shape (3, 4)."
### BEGIN HIDDEN TESTS
weight = torch.randn(5, 6)
assert torch.allclose(ask_layer(weight, images(3))[0], (images(3) @ weight.T).relu())
### END HIDDEN TESTS""",
    ),
    "s-task3": (
        1,
        "def passes(K):\n    ### BEGIN SOLUTION\n    return 2 * K\n    ### END SOLUTION",
        """\
assert passes(10) == 20, "Two passes for each class."
### BEGIN HIDDEN TESTS
assert [passes(k) for k in (1, 3, 7)] == [2, 6, 14]
### END HIDDEN TESTS""",
    ),
}
WORDS = (
    "Why two?\n=== BEGIN MARK SCHEME ===\nOne positive, one negative: 1 point each.\n"
    "=== END MARK SCHEME ==="
)


def mark(cell, grade_id, **more):
    meta = {"schema_version": 3, "grade": False, "solution": False, "locked": False, "task": False}
    cell.metadata["nbgrader"] = meta | {"grade_id": grade_id} | more
    return cell


def source_notebook():
    """The instructor's notebook."""
    cells = [
        new_markdown_cell("# A small assignment\n\nTwo tasks and a half."),
        new_code_cell('STUDENT_ID = ""'),
        mark(new_code_cell(SETUP), "s-setup", locked=True),
        mark(new_code_cell(ADAPTER), "s-layer-adapter", locked=True),
    ]
    for grade_id, (points, answer, test) in TASKS.items():
        cells += [
            new_markdown_cell(f"## Task {grade_id[-1]} · {grade_id}"),
            mark(new_code_cell(answer), grade_id, solution=True),
            mark(new_code_cell(test), f"{grade_id}-test", grade=True, locked=True, points=points),
        ]
    cells.append(new_markdown_cell("## Task 4 · in words"))
    cells.append(mark(new_markdown_cell(WORDS), "s-words", grade=True, solution=True, points=2))
    notebook = new_notebook(cells=cells)
    notebook.metadata["sff_grade"] = {"absent": ["sff_teach.goodness:mean_squares"]}
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    return notebook


def write_source(folder: Path) -> Path:
    path = folder / "source" / "s" / "s_small.ipynb"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(source_notebook()))
    return path


def without(source: str, name: str, instead: str = "") -> str:
    lines, inside = [], False
    for line in source.splitlines():
        if line.strip().endswith(f"BEGIN {name}") or line.strip() == f"=== BEGIN {name} ===":
            inside = True
            indent = line[: len(line) - len(line.lstrip())]
            lines += [indent + text for text in instead.splitlines()]
        elif line.strip().endswith(f"END {name}") or line.strip() == f"=== END {name} ===":
            inside = False
        elif not inside:
            lines.append(line)
    return "\n".join(lines)


class Notebook:
    """A returned notebook: the release, with cells that a student can change."""

    def __init__(self, answered: bool = True):
        self.nb = copy.deepcopy(source_notebook())
        stub = "# YOUR CODE HERE\nraise NotImplementedError()"
        self.nb.cells[1].source = 'STUDENT_ID = "ada17"'
        for cell in self.nb.cells:
            cell.source = without(cell.source, "HIDDEN TESTS")
            cell.source = without(cell.source, "MARK SCHEME")
            if answered:
                cell.source = cell.source.replace("    ### BEGIN SOLUTION\n", "").replace(
                    "\n    ### END SOLUTION", ""
                )
                cell.source = "\n".join(
                    x for x in cell.source.splitlines() if x.strip()[:3] != "###"
                )
            else:
                cell.source = without(cell.source, "SOLUTION", stub)

    def at(self, grade_id: str) -> int:
        ids = [c.metadata.get("nbgrader", {}).get("grade_id") for c in self.nb.cells]
        return ids.index(grade_id)

    def answer(self, grade_id: str, source: str) -> Notebook:
        self.nb.cells[self.at(grade_id)].source = source
        return self

    def insert(self, place: int, source: str) -> Notebook:
        self.nb.cells.insert(place, new_code_cell(source))
        return self

    def first(self, source: str) -> Notebook:
        return self.insert(1, source)

    def last(self, source: str) -> Notebook:
        """Behind the answers and before their tests: in front of the first test."""
        return self.insert(self.at("s-task1-test"), source)

    def delete(self, grade_id: str) -> Notebook:
        del self.nb.cells[self.at(grade_id)]
        return self

    def copy(self, grade_id: str, source: str | None = None) -> Notebook:
        cell = copy.deepcopy(self.nb.cells[self.at(grade_id)])
        cell.id += "-copy"
        if source is not None:
            cell.source = source
        self.nb.cells.insert(self.at(grade_id) + 1, cell)
        return self

    def from_colab(self) -> Notebook:
        """Colab keeps the cells and drops nbgrader's metadata."""
        for cell in self.nb.cells:
            cell.metadata = {"id": "aB3"}
        return self

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.nb))
