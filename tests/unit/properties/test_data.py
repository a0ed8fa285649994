"""Data sets, texts, classes: whatever is given to them."""

import numpy as np
from hypothesis import strategies as st

from sff_teach import classroom, notebook, text
from sff_teach import data as sets
from sff_teach.data import DataSet, ImageSet

from .hostile import (
    anything,
    arrays,
    call,
    data,
    datasets,
    explore,
    images,
    labels,
    numbers,
    several,
    words,
)
from .test_idea import generators, method

names = st.one_of(
    st.sampled_from(
        ["digits", "Digits", "folder:", "folder:/nowhere", "folder:.", "folder:\0", "cifar11", "."]
    ),
    words.filter(lambda v: v not in sets.SETS if isinstance(v, str) else True),
)
sizes = st.one_of(st.sampled_from([8, (8, 8), (8,), [8, 8], (0, 8), 10**9, "8"]), numbers)
fractions = st.one_of(st.sampled_from([1, 0.5, 0.1, 1e-9, 0, -1, 50, 100]), numbers)
indices = st.one_of(
    st.lists(st.integers(-6, 6), max_size=4),
    st.sampled_from([slice(None), slice(5, 1, -1), slice("a"), slice(0, 9, 0)]),
    arrays,
)
text_of = st.one_of(st.text(max_size=60), anything)


def picture_of(x, how: str):
    """A method of an ImageSet, where x makes one."""
    made = sets.from_arrays(x, labels())
    return getattr(made, how)() if isinstance(made, ImageSet) else made.values()


test_load = explore(
    "load and arrays",
    [
        call(
            sets.load,
            name=("digits", names),
            fraction=(0.5, fractions),
            seed=(0, numbers),
            validation=(0.1, fractions),
            size=(None, sizes),
        ),
        call(
            sets.from_arrays,
            x=(images, arrays),
            y=(labels, arrays),
            classes=(None, several(words)),
            mean=(None, several(numbers)),
            std=(None, several(numbers)),
            name=("own", words),
        ),
        call(
            sets.from_arrays,
            x=(images, arrays),
            y=(labels, arrays),
            classes=(("a", "b", "c"), several(words)),
            mean=((0.0,), several(numbers)),
            std=((1.0,), several(numbers)),
            name=("own", words),
        ),
        *[
            call(
                kind,
                x=(images, arrays),
                y=(labels, arrays),
                classes=(("a", "b", "c"), several(words)),
                name=("own", words),
                mean=((0.0,), several(numbers)),
                std=((1.0,), several(numbers)),
            )
            for kind in (DataSet, ImageSet)
        ],
        method(data, "subset", index=((0, 1), indices)),
        call(lambda x: picture_of(x, "pixels"), x=(images, arrays), named="pixels"),
        call(lambda x: picture_of(x, "as_rgb"), x=(images, arrays), named="as_rgb"),
        call(
            sets.take_fraction,
            y=(labels, arrays),
            fraction=(0.5, fractions),
            seed=(0, numbers),
            classes=(None, several(words)),
        ),
        call(
            lambda data, batch_size, shuffle, generator, drop_last: list(
                sets.batches(
                    data,
                    batch_size,
                    shuffle=shuffle,
                    generator=generator,
                    drop_last=drop_last,
                )
            ),
            data=(data, datasets),
            batch_size=(2, numbers),
            shuffle=(True, anything),
            generator=(None, generators),
            drop_last=(False, anything),
            named="batches",
        ),
        call(
            sets.augment_flip_crop,
            x=(images, arrays),
            generator=(None, generators),
            pad=(2, numbers),
        ),
        call(sets.catalog),
        call(sets.data_home),
    ],
)

test_text = explore(
    "text",
    [
        call(text.mask, text=("numpy is used.", text_of)),
        call(text.shingles, text=("numpy is used a lot.", text_of)),
        call(text.encode, texts=(("a", "b"), st.one_of(st.lists(text_of, max_size=4), text_of))),
        call(
            text.decode,
            x=(
                lambda: text.encode(["abc"]),
                st.one_of(
                    arrays,
                    st.builds(
                        lambda n, length: np.ones((n, len(text.ALPHABET), length)),
                        st.integers(0, 2),
                        st.integers(0, 3),
                    ),
                ),
            ),
        ),
        call(
            lambda library: next(iter(text.sentences(library))),
            library=(
                "numpy",
                st.one_of(
                    st.sampled_from(
                        [
                            "json",
                            "nothing_at_all",
                            "os.path",
                            "a.b",
                            "..",
                            "numpy.",
                            "sys",
                            "torch.nn",
                        ]
                    ),
                    text_of,
                ),
            ),
            named="sentences",
        ),
        call(
            text.without_near_copies,
            found=(
                lambda: [text.Sentence("A b c d.", "numpy", "numpy/a.py:f")],
                st.one_of(
                    st.lists(st.builds(text.Sentence, text_of, text_of, text_of), max_size=3),
                    anything,
                ),
            ),
        ),
        call(
            lambda libraries: text.corpus(libraries),
            libraries=(
                ("numpy", "scipy"),
                st.sampled_from(
                    [
                        (),
                        "numpy",
                        ["numpy"],
                        ("nothing_at_all",),
                        None,
                        3,
                        ("json", "numpy"),
                        (1, 2),
                        {"a": 1},
                        ("numpy", "scipy"),
                    ]
                ),
            ),
            named="corpus",
        ),
    ],
)

ids = st.one_of(
    st.text(max_size=12), st.sampled_from(["ada17", " ", "\u200b", "\ud800", "Ada17 "]), anything
)
test_classroom = explore(
    "classroom",
    [
        call(classroom.seed, student_id=("ada17", ids)),
        call(
            classroom.subset,
            data=(lambda: data(12), datasets),
            student_id=("ada17", ids),
            fraction=(0.5, fractions),
        ),
    ],
)


def check_equal(name, mine, reference, atol):
    """``check_equal``, which says by an AssertionError that a student's result is wrong."""
    try:
        notebook.check_equal(name, mine, reference, atol)
    except AssertionError as error:
        assert str(error).endswith(".") and "\n" not in str(error)


test_notebook = explore(
    "notebook",
    [
        call(
            check_equal,
            name=("loss", words),
            mine=(images, arrays),
            reference=(images, arrays),
            atol=(1e-5, numbers),
        ),
    ],
)
