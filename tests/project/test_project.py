"""The project holds together: one list of dependencies, a lock that fits, commands that exist."""

from __future__ import annotations

import importlib.util
import json
import pkgutil
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from PIL import Image

import sff_teach

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it on Python 3.10

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "sff_teach"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


def requirements(*extras: str) -> list[Requirement]:
    listed = list(PROJECT["dependencies"])
    for extra in extras:
        listed += PROJECT["optional-dependencies"][extra]
    return [Requirement(text) for text in listed]


def locked() -> dict[str, list[Requirement]]:
    """The lock's pins by package name; a package may have one for each range of Pythons."""
    pins: dict[str, list[Requirement]] = {}
    for line in LOCK.splitlines():
        if line and not line.lstrip().startswith("#"):
            pin = Requirement(line)
            pins.setdefault(canonicalize_name(pin.name), []).append(pin)
    return pins


# ---------------------------------------------------------------- dependencies


def test_environment_yml_installs_through_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    pip = [entry for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip == [{"pip": ["-e .[course]"]}]
    python = next(entry for entry in conda if entry.startswith("python "))
    assert SpecifierSet(python.partition(" ")[2]) == SpecifierSet(PROJECT["requires-python"])
    assert set(conda) == {python, "pip"}  # no list of its own
    assert environment["name"] == PROJECT["name"]


def test_lock_pins_what_pyproject_lists_inside_its_ranges():
    pins = locked()
    for wanted in requirements("course", "test"):
        found = pins.get(canonicalize_name(wanted.name))
        assert found, f"{wanted.name} is not in requirements.lock; run make lock"
        for pin in found:
            version = next(iter(pin.specifier)).version
            assert wanted.specifier.contains(version), f"{pin} is outside {wanted}; run make lock"


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_lock_pins_each_package_once_on_every_python(python, system):
    where = {
        "python_version": python,
        "python_full_version": f"{python}.7",
        "sys_platform": system,
        "platform_system": {"linux": "Linux", "darwin": "Darwin", "win32": "Windows"}[system],
        "os_name": "nt" if system == "win32" else "posix",
        "platform_machine": "arm64" if system == "darwin" else "x86_64",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    pins = locked()
    for name, choices in pins.items():
        chosen = [pin for pin in choices if pin.marker is None or pin.marker.evaluate(where)]
        assert len(chosen) <= 1, f"{name} is pinned twice"
    for wanted in requirements("course", "test"):
        choices = pins[canonicalize_name(wanted.name)]
        assert any(pin.marker is None or pin.marker.evaluate(where) for pin in choices), wanted


def test_lock_names_no_host_and_no_path():
    assert "://" not in LOCK
    assert not re.search(r"^\s*(-|/|file:)", LOCK, re.MULTILINE)
    for line in LOCK.splitlines():
        assert re.match(r"\s*#|[a-z0-9][a-z0-9.-]*==[^ ]+( ; |$)", line), line


@pytest.fixture
def install():
    """A fresh copy of tools/install.py as a module."""
    spec = importlib.util.spec_from_file_location("install", ROOT / "tools" / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_python_range_is_the_same_everywhere(install):
    accepted = SpecifierSet(PROJECT["requires-python"])
    for minor in range(6, 20):
        try:
            install.check_python((3, minor, 1))
        except SystemExit as refusal:
            assert not accepted.contains(f"3.{minor}.1")
            assert str(refusal).count(".") > 2 and "PYTHON=" in str(refusal)
        else:
            assert accepted.contains(f"3.{minor}.1")


def test_nothing_is_installed_twice(install, monkeypatch, tmp_path, capsys):
    """tools/install.py does nothing while its inputs stay, and starts again when one changes."""
    for name in install.INPUTS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("one")
    (tmp_path / ".venv").mkdir()
    monkeypatch.setattr(install, "ROOT", str(tmp_path))
    monkeypatch.setattr(install, "VENV", str(tmp_path / ".venv"))
    monkeypatch.setattr(install, "STAMP", str(tmp_path / ".venv" / "installed.json"))
    monkeypatch.setattr(install, "venv_works", lambda: True)
    calls = []
    monkeypatch.setattr(install, "install", lambda: calls.append("install") or "uv")

    install.main()
    install.main()
    assert calls == ["install"]
    assert "Nothing to install" in capsys.readouterr().out
    settings = tmp_path / ".venv/share/jupyter/lab/settings/overrides.json"
    assert json.loads(settings.read_text()) == install.LAB_SETTINGS

    (tmp_path / "requirements.lock").write_text("two")
    install.main()
    assert calls == ["install"] * 2

    monkeypatch.setattr(install, "install", lambda: sys.exit("no network"))
    (tmp_path / "pyproject.toml").write_text("two")
    with pytest.raises(SystemExit):
        install.main()
    assert not install.is_installed()  # a failed installation is tried again


def test_uv_learns_pips_mirror_and_certificate(install, monkeypatch):
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    settings = ":env:.index-url='mirror'\nglobal.cert='ca.pem'\nglobal.index-url='another'"
    pip = [sys.executable, "-c", f"print({settings!r})"]
    learnt = install.uv_environment(pip)
    assert (learnt["UV_DEFAULT_INDEX"], learnt["SSL_CERT_FILE"]) == ("mirror", "ca.pem")

    monkeypatch.setenv("UV_INDEX_URL", "uv's own")
    assert "UV_DEFAULT_INDEX" not in install.uv_environment(pip)


@pytest.mark.nightly
def test_import_needs_no_jupyter():
    modules = [name for _, name, _ in pkgutil.walk_packages([str(PACKAGE)], "sff_teach.")]
    modules = [name for name in modules if "widgets" not in name and "__main__" not in name]
    code = f"""
import importlib, sys

class NoJupyter:
    blocked = ("IPython", "ipykernel", "ipywidgets", "jupyter", "nbformat", "nbclient", "notebook")
    def find_spec(self, name, path=None, target=None):
        if name.startswith(self.blocked):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, NoJupyter())
for name in {["sff_teach", *modules]!r}:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_wheel_carries_package_and_data(wheel):
    assert wheel.name.startswith(f"sff_teach-{sff_teach.__version__}-")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"sff_teach/{path.name}" for path in PACKAGE.glob("*.py")} <= names
    embedded = ("fashion-mnist-sample.npz", "docstrings.txt.gz")
    assert {"sff_teach/py.typed", *(f"sff_teach/_data/{name}" for name in embedded)} <= names
    assert not {name for name in names if name.startswith(("tests/", "tools/", "notebooks/"))}


@pytest.mark.nightly
def test_wheel_in_an_empty_environment_outside_the_repository(wheel, tmp_path):
    """README's snippets, the embedded data and the command line; the packages are the lock's."""
    python = tmp_path / "venv" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    uv = [sys.executable, str(ROOT / "tools" / "install.py"), "uv"]
    lock = ["--constraint", str(ROOT / "requirements.lock")]
    for command in (
        ["venv", "--quiet", str(tmp_path / "venv")],
        ["pip", "install", "--quiet", "--python", str(python), *lock, str(wheel)],
    ):
        subprocess.run([*uv, *command], check=True)
    pixels = np.random.default_rng(0).integers(0, 255, (60, 40, 40, 3), np.uint8)
    for number, image in enumerate(pixels):
        path = tmp_path / "my_images" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    snippets = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    runnable = [snippet for snippet in snippets if "import sff_teach" in snippet]
    assert runnable
    for code in runnable:
        done = subprocess.run(
            [python, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    command = ["-m", "sff_teach", "train", "digits", "--network", "cnn3", "--epochs", "1"]
    done = subprocess.run([python, *command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "accuracy" in done.stdout, done.stderr


@pytest.mark.nightly
def test_a_users_script_type_checks(tmp_path):
    """README's snippets, checked by mypy against the annotations of the installed package."""
    snippets = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    for number, snippet in enumerate(snippets):
        if "import sff_teach" in snippet:
            (tmp_path / f"snippet{number}.py").write_text(snippet, encoding="utf-8")
    command = [sys.executable, str(ROOT / "tools" / "install.py"), "uv", "tool", "run", "mypy"]
    options = [
        "--python-executable",
        sys.executable,
        "--strict",
        "--disable-error-code=import-untyped",
    ]
    done = subprocess.run([*command, *options, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# ---------------------------------------------------------------- commands and papers


def test_versions_agree():
    version = sff_teach.__version__
    assert PROJECT["dynamic"] == ["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert str(Version(version)) == version


def test_ci_calls_targets_that_exist():
    called = set(re.findall(r"\bmake ([a-z-]+)", (ROOT / ".ci/run").read_text(encoding="utf-8")))
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
        for job in workflow["jobs"].values():
            for step in job["steps"]:
                called |= set(re.findall(r"make ([a-z-]+)", step.get("run", "")))
    assert {"test", "offline-test", "browser-test", "nightly"} <= called <= TARGETS


def test_every_target_is_documented():
    assert set(re.findall(r"^([a-z-]+):.*## \w", MAKEFILE, re.MULTILINE)) == TARGETS
