"""The course as Colab meets it: its versions, no package, the kit beside a notebook.

`make colab-test` makes the environment and runs this. Colab's own pieces are a stand-in: a module
google.colab that every kernel imports at its start, and an empty folder in the place of /content.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from zipfile import ZipFile

import pytest

from tools import colab_kit

ROOT = colab_kit.ROOT
PYTHON = ROOT / ".venv-colab" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
HERE = Path(__file__).parent
KEPT = {"torch", "torchvision", "numpy", "ipywidgets", "ipython", "scikit-learn", "matplotlib"}
VERSIONS = (
    "import importlib.metadata as m, json;"
    "print(json.dumps({d.metadata['Name'].lower(): d.version for d in m.distributions()}))"
)
STARTUP = "import google.colab  # as every kernel of Colab does\n"


def environment(folder: Path) -> dict[str, str]:
    """The environment of a process in Colab: its stand-in module, and git without a network."""
    away = ("PYTHONPATH", "VIRTUAL_ENV", "JUPYTER_PATH", "IPYTHONDIR")
    kept = {key: value for key, value in os.environ.items() if key not in away}
    return kept | {
        "PYTHONPATH": str(folder / "modules"),
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_CONFIG_DIR": str(folder / "jupyter"),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "GIT_ALLOW_PROTOCOL": "none",  # a clone would fail: nothing may be fetched here
        "OMP_NUM_THREADS": "1",
    }


def versions(folder: Path) -> dict[str, str]:
    """What is installed, by name."""
    done = subprocess.run(
        [PYTHON, "-c", VERSIONS],
        env=environment(folder),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The folder with the kit."""
    folder = tmp_path_factory.mktemp("built")
    return colab_kit.build_kit(folder).parent


@pytest.fixture
def colab(tmp_path):
    """An empty /content, and a check that nothing that is installed has changed at the end."""
    if not PYTHON.is_file():
        pytest.skip("There is no .venv-colab; run make colab-test.")
    (tmp_path / "modules" / "google" / "colab").mkdir(parents=True)
    (tmp_path / "modules" / "google" / "colab" / "__init__.py").write_text("")
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00-colab.py").write_text(STARTUP)
    (tmp_path / "content").mkdir()
    before = versions(tmp_path)
    assert set(before) >= KEPT
    yield tmp_path
    assert versions(tmp_path) == before


def run(colab: Path, notebook: Path) -> dict:
    """Run a notebook there, its bootstrap cell twice, and return what run_in_colab.py says."""
    done = subprocess.run(
        [PYTHON, HERE / "run_in_colab.py", notebook],
        cwd=notebook.parent,
        env=environment(colab),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def beginning_of(name: str, folder: Path) -> Path:
    """A notebook in the folder with the bootstrap cell and the first code cell after it."""
    notebook = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text("utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    notebook["cells"] = code[:2]
    (folder / f"{name}.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    return folder / f"{name}.ipynb"


def test_the_environment_is_colabs(colab):
    found = versions(colab)
    assert not {"sff-teach", "sff_teach", "tyro"} & set(found)
    assert (found["ipython"], found["ipywidgets"]) == ("7.34.0", "7.7.1")
    assert found["numpy"].startswith("2.1.") and found["scikit-learn"].startswith("1.6.")


@pytest.mark.parametrize("name", ["00_start_here", "06_an_sff_cnn"])
def test_notebook_with_the_kit_beside(name, colab, built):
    content = colab / "content"
    shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", content)
    shutil.copy(built / "sff-teach-kit.zip", content)
    said = run(colab, content / f"{name}.ipynb")
    assert set(said["errors"]) == set(said["wanted"]), said["errors"]
    assert Path(said["package"]) == (content / "sff-teach/sff_teach/__init__.py").resolve()


def test_assignment_with_the_kit_beside(colab, built):
    """A student's copy: its bootstrap and setup run; the tasks are still to be done."""
    released = sorted((ROOT / "notebooks" / "assignments" / "release").rglob("*.ipynb"))
    assert released
    content = colab / "content"
    notebook = Path(shutil.copy(released[0], content))
    shutil.copy(built / "sff-teach-kit.zip", content)
    said = run(colab, notebook)
    assert said["setup"] and not {"0", "1", *said["setup"]} & set(said["errors"]), said
    assert said["errors"], "an empty copy passes all its tests"
    assert Path(said["package"]).is_relative_to((content / "sff-teach").resolve())


def test_kit_unzipped_is_a_course_folder(colab, built):
    folder = colab / "content" / "anywhere"
    with ZipFile(built / "sff-teach-kit.zip") as kit:
        kit.extractall(folder)
    assert next(folder.glob("sff_teach-*.whl")) and (folder / "data/README.md").is_file()
    said = run(colab, beginning_of("00_start_here", folder / "notebooks"))
    assert said["errors"] == {}
    assert Path(said["package"]).resolve() == (folder / "sff_teach/__init__.py").resolve()
    assert not (folder / "notebooks" / "sff-teach").exists()


def test_kit_uploaded_as_it_is_brings_the_stored_results(colab, built):
    """As a class does it: one zip beside one notebook, in Colab's Files pane."""
    content = colab / "content"
    shutil.copy(built / "sff-teach-kit.zip", content)
    said = run(colab, beginning_of("09_small_data", content))  # reads the stored runs
    assert said["errors"] == {}
    assert Path(said["package"]) == (content / "sff-teach/sff_teach/__init__.py").resolve()


def test_kit_holds_no_answers_of_assignments(built):
    with ZipFile(built / "sff-teach-kit.zip") as kit:
        names = kit.namelist()
        text = {n: kit.read(n).decode("utf-8") for n in names if "assignments/" in n}
    assert not [name for name in names if name.startswith(("tests/", "tools/", "docs/teaching"))]
    assert all(name.startswith("notebooks/assignments/release/") for name in text)
    assert not [n for n, t in text.items() if "BEGIN SOLUTION" in t or "BEGIN HIDDEN" in t]
    assert {f"notebooks/{p.name}" for p in (ROOT / "notebooks").glob("*.ipynb")} <= set(names)


@pytest.mark.parametrize(("command", "code"), [(["doctor"], 0), (["train", "digits"], 1)])
def test_the_command_line_says_what_it_lacks(command, code, colab):
    done = subprocess.run(
        [PYTHON, "-m", "sff_teach", *command],
        cwd=ROOT,
        env=environment(colab),
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    assert not code or done.stderr.strip().endswith("pip install tyro"), done.stderr
    assert "Traceback" not in done.stderr


def test_widgets_of_colabs_generation(colab):
    """The explorers' own daily tests once more, under ipywidgets 7.7.1."""
    command = [PYTHON, "-m", "pytest", "-q", "-m", "not nightly", ROOT / "tests" / "widgets"]
    done = subprocess.run(command, cwd=ROOT, env=environment(colab), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:]
