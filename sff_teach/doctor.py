"""What a bug report should contain: versions and which tested set they are near, devices, data."""

import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path

from packaging.version import Version

from . import __version__
from .data import catalog, data_home

# From pyproject.toml, requirements.lock and Colab's list, by tools/tested_versions.py.
TESTED = Path(__file__).with_name("tested_versions.json")
LAB = ("ipywidgets", "jupyterlab", "nbval")  # the package works without these
ABOUT = {
    "locked": "what `make lab` installs",
    "floor": "the oldest versions the course allows",
    "colab": "what Google Colab brings",
}


def tested() -> dict[str, dict[str, list[str]]]:
    """Per tested set the versions of its packages; several where they depend on the Python."""
    return json.loads(TESTED.read_text(encoding="utf-8"))


def installed(packages) -> dict[str, str | None]:
    """Version by package, None for one that is not there."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def nearest_set(
    found: Mapping[str, str | None], sets: Mapping[str, Mapping[str, list[str]]]
) -> tuple[str, int, int]:
    """The set with the largest share of equal versions (major and minor): name, equal, listed."""

    def share(name: str) -> tuple[int, int]:
        listed = [package for package in sets[name] if found.get(package)]
        equal = [
            package
            for package in listed
            if _minor(found[package]) in {_minor(version) for version in sets[name][package]}
        ]
        return len(equal), len(listed)

    counts = {name: share(name) for name in sets}
    best = max(counts, key=lambda name: counts[name][0] / max(1, counts[name][1]))
    return best, *counts[best]


def advice(
    found: Mapping[str, str | None], sets: Mapping[str, Mapping[str, list[str]]]
) -> list[str]:
    """What to do about versions: a sentence each for what is missing, too old or untested."""
    sentences = []
    for package, version in found.items():
        (oldest,) = sets["floor"][package]
        newest = max(sets["locked"][package], key=Version)
        if version is None:
            if package not in LAB:
                sentences.append(f'{package} is missing; pip install "{package}>={oldest}".')
        elif Version(version) < Version(oldest):
            sentences.append(
                f"{package} {version} is older than the oldest that is tested; "
                f'pip install "{package}>={oldest}".'
            )
        elif _minor(version) > _minor(newest):
            sentences.append(
                f"{package} {version} is newer than the newest in the lock, {newest}: it should "
                "work; if something fails, take the locked versions (make install) and tell us."
            )
    return sentences or ["Every version lies within what is tested."]


def _minor(version: str) -> tuple[int, ...]:
    return Version(version).release[:2]


def report() -> str:
    """All of it, as text."""
    import torch

    sets = tested()
    found = installed(sets["floor"])
    name, equal, listed = nearest_set(found, sets)
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    lines = [
        f"sff_teach {__version__}   Python {platform.python_version()}   {platform.platform()}",
        *(f"  {package:14s} {version or 'not installed'}" for package, version in found.items()),
        f"nearest  the {name} set ({ABOUT[name]}): {equal} of {listed} versions are equal",
        *(f"  {sentence}" for sentence in advice(found, sets)),
        f"cores    {os.cpu_count()}, torch threads {torch.get_num_threads()}",
        f"disk     {free:.0f} GiB free here",
        f"CUDA     {_cuda(torch)}",
        f"MPS      {'yes' if torch.backends.mps.is_available() else 'no'}",
        f"data     downloads would go to {data_home()}",
    ]
    for row in catalog():
        if row["present"] is not None:
            lines.append(f"  {row['name']:22s} {'here' if row['present'] else 'not here'}")
    return "\n".join(lines)


def _cuda(torch) -> str:
    if not torch.cuda.is_available():
        return "no"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{torch.version.cuda}: {', '.join(names)}"
