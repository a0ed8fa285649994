"""Run a notebook as Colab would: python run_in_colab.py NOTEBOOK, in the notebook's folder.

Runs under the Python of .venv-colab and uses nothing else of the course. The bootstrap cell is run
twice. Prints one JSON object: the errors, cell by cell, and where the package was found.
"""

import json
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell


def main(path: Path, student: str) -> dict:
    """Run the notebook in place and say what happened."""
    notebook = nbformat.read(path, as_version=4)
    first = next(i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    notebook.cells.insert(first + 1, new_code_cell(notebook.cells[first].source))
    notebook.cells.append(new_code_cell("print(sff_teach.__file__)"))
    for cell in notebook.cells:
        if cell.source.startswith('STUDENT_ID = ""'):
            cell.source = f'STUDENT_ID = "{student}"'
    client = NotebookClient(
        notebook,
        timeout=600,  # of a cell; how fast it is, `make notebooks-test` watches
        kernel_name="python3",
        allow_errors=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    nbformat.write(notebook, path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    errors = {
        str(number): f"{output.ename}: {output.evalue}"
        for number, cell in enumerate(code)
        for output in cell.outputs
        if output.output_type == "error"
    }
    wanted = [
        str(number)
        for number, cell in enumerate(code)
        if "raises-exception" in cell.metadata.get("tags", [])
    ]
    setup = [
        str(number)
        for number, cell in enumerate(code)
        if cell.metadata.get("nbgrader", {}).get("grade_id", "").endswith("-setup")
    ]
    printed = "".join(output.get("text", "") for output in code[-1].outputs)
    return {"errors": errors, "wanted": wanted, "setup": setup, "package": printed.strip()}


if __name__ == "__main__":
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    print(json.dumps(main(Path(sys.argv[1]).resolve(), "2026-0007")))
