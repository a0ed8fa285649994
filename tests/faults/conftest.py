"""Faults happen here to commands in processes of their own; most of it takes long.

What a user meets every day stays in `make test`: a second training with the same checkpoint, a
read-only folder, a damaged file.
"""

import os

import pytest

DAILY = {
    "test_two_at_once.py::test_train",
    "test_read_only.py::test_train",
    "test_torn.py::test_a_line_cut_anywhere_loses_itself_and_nothing_else",
    "test_torn.py::test_a_file_of_runs",
}

if not hasattr(os, "fork"):
    collect_ignore_glob = ["test_*.py"]


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/faults/" in item.nodeid and item.nodeid.split("/")[-1] not in DAILY:
            item.add_marker(pytest.mark.nightly)
