"""Versions and devices for a bug report."""

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path

from . import __version__

PACKAGES = (
    "torch", "torchvision", "numpy", "scipy", "scikit-learn", "matplotlib", "pillow", "tqdm",
    "ipywidgets", "jupyterlab", "nbval",
)  # fmt: skip


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def report() -> str:
    """Versions of the package and its dependencies, processor, disk and accelerators, as text."""
    import torch

    free = shutil.disk_usage(Path.cwd()).free / 2**30
    cuda = "no"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        cuda = f"{torch.version.cuda}: {', '.join(names)}"
    return "\n".join(
        [
            f"sff_teach {__version__}   Python {platform.python_version()}   {platform.platform()}",
            *(f"  {package:14s} {_version(package)}" for package in PACKAGES),
            f"cores    {os.cpu_count()}, torch threads {torch.get_num_threads()}",
            f"disk     {free:.0f} GiB free here",
            f"CUDA     {cuda}",
            f"MPS      {'yes' if torch.backends.mps.is_available() else 'no'}",
        ]
    )
