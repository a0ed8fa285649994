"""What belongs to one student: the same everywhere, different from the others', fair to all."""

import pytest
import torch

from sff_teach import load
from sff_teach.classroom import student as classroom


def test_seed_is_fixed_for_ever():
    """A changed seed would change every student's results, and returned work would not repeat."""
    assert classroom.seed("ada17") == 1773455627
    assert classroom.seed("Ángel") == 1204236912


def test_seed_overlooks_capitals_and_spaces():
    assert classroom.seed(" Ada17 ") == classroom.seed("ada17")


def test_seeds_differ():
    seeds = {classroom.seed(f"s{i:04}") for i in range(2000)}
    assert len(seeds) == 2000
    assert all(0 <= seed < 2**32 for seed in seeds)


@pytest.mark.parametrize(
    ("student_id", "error", "words"),
    [
        ("", ValueError, "STUDENT_ID is empty"),
        ("  ", ValueError, "STUDENT_ID is empty"),
        (17, TypeError, "STUDENT_ID must be a string, not 17"),
        (None, TypeError, "STUDENT_ID"),
    ],
)
def test_bad_ids(student_id, error, words):
    with pytest.raises(error, match=words):
        classroom.seed(student_id)


def test_subset_is_the_students_own_and_balanced():
    train, _, _ = load("digits")
    ada, again, grace = (classroom.subset(train, i, 0.5) for i in ("ada", "Ada ", "grace"))
    assert torch.equal(ada.x, again.x)
    assert not torch.equal(ada.y, grace.y) or not torch.equal(ada.x, grace.x)
    assert len(ada) == len(grace)
    assert torch.equal(ada.y.bincount(), grace.y.bincount())
    assert ada.mean == train.mean


def test_subset_refuses_what_take_fraction_refuses():
    train, _, _ = load("digits")
    with pytest.raises(ValueError, match="fraction"):
        classroom.subset(train, "ada", 0)
