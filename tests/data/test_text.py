"""The corpus of docstrings: what is taken, what is left out, that no part knows another."""

import sys

import numpy as np
import pytest
import torch

from sff_teach.data import text
from sff_teach.data.sets import load

MODULE = '''"""The module's own docstring belongs to no object, and is left out altogether here."""

def smooth(x, width):
    """Average each value of the series with its nearest neighbours.

    The `window` slides over the :class:`~{name}.Series` and keeps its 2 ends. This one is short.

    Parameters
    ----------
    width : int
        How many neighbours are averaged, counted to either side of the value.

    Notes on a list follow here and are left out because of what they are:

    - A window of width zero changes nothing at all in the whole series.

    Examples
    --------
    >>> smooth([1, 2, 3], width=1)
    """


class Series:
    """A series of values in time, which {name} stores in blocks of {n} values.

    no capital at the beginning and therefore not one of our sentences.
    """

    def smooth(self):
        """Average each value of the series with its nearest neighbours."""


def undocumented():
    pass


add_newdoc('{name}', 'fast', """
    Sum up all of the values of a series much faster than Python does.
""")
'''


@pytest.fixture()
def made_up(tmp_path, monkeypatch):
    """A library with a test folder that must not be read; its name is `toyseries`."""
    package = tmp_path / "toyseries"
    (package / "tests").mkdir(parents=True)
    source = MODULE.replace("{name}", "toyseries").replace("{n}", "64")
    (package / "__init__.py").write_text(source)
    (package / "tests" / "test_it.py").write_text(
        source.replace("Average", "Check that we average")
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "toyseries"
    assert "toyseries" not in sys.modules  # it is read, not imported


def test_sentences_are_the_prose_of_docstrings_with_their_objects(made_up):
    found = [(s.text, s.origin) for s in text.sentences(made_up)]
    assert found == [
        ("Average each value of the series with its nearest neighbours.", f"{AT}:smooth"),
        ("The window slides over the toyseries.Series and keeps its 2 ends.", f"{AT}:smooth"),
        (
            "A series of values in time, which toyseries stores in blocks of 64 values.",
            f"{AT}:Series",
        ),
        ("Average each value of the series with its nearest neighbours.", f"{AT}:Series"),
        ("Sum up all of the values of a series much faster than Python does.", f"{AT}:{MADE_IN_C}"),
    ]
    assert {s.library for s in text.sentences(made_up)} == {made_up}


AT, MADE_IN_C = "toyseries/__init__.py", "toyseries fast"


def test_near_copies_go_and_the_order_of_objects_does_not_matter(made_up):
    found = list(text.sentences(made_up))
    kept = text.without_near_copies(found)
    assert len(kept) == len(found) - 1  # the method's summary was the function's
    for by in (lambda s: s.origin, lambda s: s.origin[::-1]):
        assert kept == text.without_near_copies(sorted(found, key=by))
    near = text.Sentence(
        "Average each value of the series with its nearest 5 neighbours, NumPy.", "b", "b/z:z"
    )
    far = text.Sentence(
        "Average the values, and afterwards put them back where they were.", "b", "b/z:y"
    )
    both = {s.text for s in text.without_near_copies([*found, near, far])}
    assert far.text in both
    assert len(both) == len({s.text for s in kept}) + 1


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
    with pytest.raises(ValueError, match="give what encode returns"):
        text.decode(x[:, :5])


def test_a_missing_library_is_one_sentence():
    with pytest.raises(ModuleNotFoundError, match="pip install no_such_library"):
        next(text.sentences("no_such_library"))


def test_a_library_without_docstrings_is_one_sentence(made_up):
    with pytest.raises(ValueError, match=r"toyseries holds only \d sentences for the part"):
        text.corpus((made_up,))


# ---------------------------------------------------------------- the real one


@pytest.fixture(scope="module")
def corpus():
    return text.corpus()


def test_the_corpus_is_balanced_and_no_object_is_in_two_parts(corpus):
    by_part = {p: [s for s in corpus if s.part == p] for p in text.PARTS}
    for part, found in by_part.items():
        counts = {name: sum(s.library == name for s in found) for name in text.LIBRARIES}
        assert len(set(counts.values())) == 1 and counts["numpy"] >= 20
        assert counts["numpy"] <= text.PARTS[part]
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
    for part, found in zip(text.PARTS, splits):
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
