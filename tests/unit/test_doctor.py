"""`sff-teach doctor`: how near the installed versions are to a tested set, and what to do."""

import json

import pytest

from sff_teach import doctor
from tools import tested_versions

SETS = {
    "locked": {"torch": ["2.14.1", "2.15.0"], "numpy": ["2.4.6"], "nbval": ["0.11.0"]},
    "floor": {"torch": ["2.9"], "numpy": ["1.26"], "nbval": ["0.11"]},
    "colab": {"numpy": ["2.1"]},
}


def found(**versions):
    return {"torch": "2.15.0", "numpy": "2.4.6", "nbval": "0.11.0"} | versions


def test_the_stored_sets_are_the_projects():
    assert json.loads(doctor.TESTED.read_text()) == tested_versions.collect(), "run make lock"
    sets = doctor.tested()
    assert set(sets["locked"]) == set(sets["floor"]) > {"torch", "numpy", "ipywidgets"}
    assert sets["colab"]["numpy"] and sets["colab"]["ipywidgets"] == ["7.7.1"]


@pytest.mark.parametrize(
    ("versions", "nearest"),
    [
        ({}, ("locked", 3, 3)),
        ({"torch": "2.14.0+cu130"}, ("locked", 3, 3)),  # major and minor decide
        ({"numpy": "2.1.3", "torch": "2.12.0", "nbval": None}, ("colab", 1, 1)),
        ({"torch": "2.9.1", "numpy": "1.26.4"}, ("floor", 3, 3)),
    ],
)
def test_nearest_set(versions, nearest):
    assert doctor.nearest_set(found(**versions), SETS) == nearest


@pytest.mark.parametrize(
    ("versions", "words"),
    [
        ({}, "within what is tested"),
        ({"nbval": None}, "within what is tested"),  # only the notebooks' tests need it
        ({"torch": None}, 'torch is missing; pip install "torch>=2.9"'),
        ({"numpy": "1.25.2"}, 'older than the oldest that is tested; pip install "numpy>=1.26"'),
        ({"torch": "2.16.0"}, "newer than the newest in the lock, 2.15.0"),
        ({"torch": "2.15.9"}, "within what is tested"),
    ],
)
def test_advice(versions, words):
    (sentence,) = doctor.advice(found(**versions), SETS)
    assert words in sentence
