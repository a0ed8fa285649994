"""What all tests share: one thread, fixed seeds, and random tests that repeat themselves."""

import os
import random
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: fixed sums, no fighting

import hypothesis
import numpy as np
import pytest

# The same examples every time, and no time limit: a busy machine is not a bug.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def seeds():
    """Start every test from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
