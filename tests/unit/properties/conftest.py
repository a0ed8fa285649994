"""Leave nothing in the machine's temporary folder."""

import shutil

from .hostile import FOLDERS


def pytest_sessionfinish():
    """Also in the processes of pytest-xdist, which end without Python's own clearing up."""
    for folder in FOLDERS:
        shutil.rmtree(folder, ignore_errors=True)
