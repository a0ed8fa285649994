"""The corpus of docstrings: what it holds, that no part knows another, how it is encoded."""

import numpy as np
import pytest
import torch

from sff_teach.data import text
from sff_teach.data.sets import load

PARTS = {"train": 1000, "valid": 150, "test": 300}


@pytest.mark.parametrize(
    ("written", "masked"),
    [
        ("A NumPy array, see np.ndarray.", "A # array, see #.ndarray."),
        ("PyTorch and torchvision; libtorch.", "# and #; #."),
        ("In matplotlib.pyplot, or plt.", "In #.#, or #."),
        ("scikit-learn, SciPy's mpl_toolkits", "#, #'s #"),
        ("An input of nps and simplicity.", "An input of nps and simplicity."),
    ],
)
def test_every_librarys_name_is_masked(written, masked):
    assert text.mask(written) == masked


def test_encoding_is_one_hot_and_can_be_read_back():
    x = text.encode(["Shape (3, 42): a # b.", "x" * 500, "é!"])
    assert x.shape == (3, len(text.ALPHABET), text.LENGTH) and x.dtype == np.uint8
    assert text.decode(x) == ["shape (0, 00): a # b.", "x" * text.LENGTH, ""]
    assert (x.sum(1) <= 1).all()
    assert x[0].sum() == 21 and x[2].sum() == 0
    assert x[0, text.ALPHABET.index("s"), 0] == 1
    assert text.decode(torch.from_numpy(x).float()) == text.decode(x)


@pytest.fixture(scope="module")
def corpus():
    return text.corpus()


def test_the_corpus_is_balanced_and_no_object_is_in_two_parts(corpus):
    by_part = {p: [s for s in corpus if s.part == p] for p in PARTS}
    for part, found in by_part.items():
        counts = {name: sum(s.library == name for s in found) for name in text.LIBRARIES}
        assert set(counts.values()) == {PARTS[part]}
    origins = [{s.origin for s in found} for found in by_part.values()]
    assert sum(map(len, origins)) == len(set.union(*origins))


def test_hardly_a_test_sentence_was_mostly_said_in_training(corpus):
    said = set().union(*(text.shingles(s.text) for s in corpus if s.part == "train"))
    test = [text.shingles(s.text) for s in corpus if s.part == "test"]
    mostly = sum(len(own & said) > len(own) / 2 for own in test)
    # Not none: what a training sentence that comes later has in common is counted here as well.
    assert mostly <= 0.01 * len(test)


def test_docstrings_load_as_sequences(corpus):
    train, valid, test = splits = load("docstrings")
    assert splits.classes == text.LIBRARIES and len(valid)
    for part, found in zip(PARTS, splits):
        own = [s for s in corpus if s.part == part]
        assert found.x.shape == (len(own), len(text.ALPHABET), text.LENGTH)
        assert found.x.amin() == 0 and found.x.amax() == 1 and (found.x.sum(1) <= 1).all()
        read = text.decode(found.x)
        plain = text.decode(text.encode([text.mask(s.text) for s in own]))
        labels = [text.LIBRARIES.index(s.library) for s in own]
        assert sorted(zip(read, found.y.tolist())) == sorted(zip(plain, labels))
        assert not any("numpy" in t or "torch" in t for t in read)
    some, none, same = load("docstrings", 0.1, seed=3, validation=0)
    assert len(some) == round(0.1 * len(train)) and len(none) == 0
    assert torch.equal(same.y, test.y) and torch.equal(same.x, test.x)
