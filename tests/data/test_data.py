"""Data sets: what comes in, how it is split, and what bad input is told."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import random
import re
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sff_teach import data
from sff_teach.data import files, sampling, sets
from sff_teach.util.checks import SFFError

DATA = Path(__file__).resolve().parents[2] / "data"
SAMPLE = DATA / sets.SAMPLE_FILE

# Standardised images have mean 0 and std 1 up to the rounding of float32 sums of up to 10⁷ terms.
STANDARD = {"atol": 1e-4, "rtol": 0}
# x · std + mean undoes (p - mean) / std to a few units in the last place of numbers below 10.
ROUNDING = {"atol": 2e-6, "rtol": 0}


def message(call, kind=SFFError) -> str:
    """The error of `call`, which has to be of this kind."""
    with pytest.raises(SFFError if kind is ValueError else kind) as caught:
        call()
    return str(caught.value)


def same_bytes(images: torch.Tensor) -> list[bytes]:
    """Each image (of pixels) as bytes, to compare sets of images."""
    return [(255 * x).round().byte().numpy().tobytes() for x in images]


@pytest.fixture(scope="module")
def fashion() -> data.Splits:
    return data.load("fashion-mnist-sample")


@pytest.fixture(scope="module")
def digits() -> data.Splits:
    return data.load("digits")


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    with np.load(SAMPLE, allow_pickle=False) as content:
        return dict(content)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_sample", DATA / "make_fashion_sample.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---------------------------------------------------------------- the file in data/


def test_the_recorded_checksums_are_those_of_the_file(arrays, script):
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    digest = hashlib.sha256(SAMPLE.read_bytes()).hexdigest()
    assert digest == sets.SAMPLE_SHA256
    assert f"`{digest}`" in readme
    assert f"`{script.content_digest(arrays)}`" in readme
    assert f"{SAMPLE.stat().st_size:,} bytes" in readme
    assert SAMPLE.stat().st_size <= 6_000_000


@pytest.mark.nightly
def test_packing_again_gives_the_same_bytes(arrays, script):
    packed = script.pack(arrays)
    with np.load(io.BytesIO(packed), allow_pickle=False) as again:
        assert script.content_digest(dict(again)) == script.content_digest(arrays)
    if "ng" not in zlib.ZLIB_RUNTIME_VERSION:  # zlib-ng packs the same contents differently
        assert hashlib.sha256(packed).hexdigest() == sets.SAMPLE_SHA256


def test_the_script_makes_the_sample_from_the_full_set(arrays, script):
    if not script.SOURCE.is_dir():
        pytest.skip("the full Fashion-MNIST is not installed here")
    made = script.make(script.SOURCE)
    assert made.keys() == arrays.keys()
    for name in made:
        np.testing.assert_array_equal(made[name], arrays[name])


def test_the_script_refuses_other_files(script, tmp_path):
    with pytest.raises(SystemExit, match="missing"):
        script.make(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x01\x05")
    with pytest.raises(SystemExit, match="not the official file"):
        script.make(tmp_path)


@pytest.mark.parametrize(("part", "per_class"), [("train", 1000), ("test", 200)])
def test_the_sample_is_balanced_from_any_tenth_image_on(arrays, part, per_class):
    images, labels, index = (arrays[f"{part}_{kind}"] for kind in ("images", "labels", "index"))
    assert images.shape == (10 * per_class, 28, 28)
    assert images.dtype == labels.dtype == np.uint8
    rounds = labels.reshape(per_class, 10)
    np.testing.assert_array_equal(np.sort(rounds, axis=1), np.tile(np.arange(10), (per_class, 1)))
    assert len(np.unique(rounds, axis=0)) > 100  # the order within a round is not a fixed one
    assert len(np.unique(index)) == len(index)
    for k in range(10):
        assert (np.diff(index[labels == k]) > 0).all()  # the first of each class, in order


def test_no_image_is_in_the_sample_twice(arrays):
    every = [x.tobytes() for part in ("train", "test") for x in arrays[f"{part}_images"]]
    assert len(set(every)) == 12_000


# ---------------------------------------------------------------- loading the embedded sets


def test_fashion_mnist_sample(fashion):
    train, valid, test = fashion
    assert [len(s) for s in fashion] == [9000, 1000, 2000]
    for s in fashion:
        assert s.x.shape == (len(s), 1, 28, 28)
        assert s.x.dtype == torch.float32
        assert s.y.dtype == torch.int64
        assert (s.y.bincount(minlength=10) == len(s) // 10).all()
        assert s.classes == fashion.classes == sets.FASHION_CLASSES
        assert (s.num_classes, s.channels, s.size) == (10, 1, (28, 28))
    assert (train.name, valid.name, test.name) == tuple(
        f"fashion-mnist-sample/{part}" for part in ("train", "valid", "test")
    )
    assert "9,000 images 1×28×28" in repr(train)


def test_pixels_are_those_of_the_file(fashion, arrays):
    np.testing.assert_array_equal(
        (fashion.test.pixels() * 255).round().byte().numpy()[:, 0], arrays["test_images"]
    )
    np.testing.assert_array_equal(fashion.test.y.numpy(), arrays["test_labels"])
    assert fashion.test.pixels().min() == 0
    assert fashion.test.pixels().max() == 1
    whole = set(same_bytes(fashion.train.pixels())) | set(same_bytes(fashion.valid.pixels()))
    assert whole == {x.tobytes() for x in arrays["train_images"]}


def test_digits(digits):
    train, valid, test = digits
    row = next(r for r in data.catalog() if r["name"] == "digits")
    assert len(train) + len(valid) == row["train"]
    assert len(test) == row["test"]
    assert len(train) + len(valid) + len(test) == 1797
    for s in digits:
        assert s.x.shape == (len(s), 1, 8, 8)
        assert s.classes == tuple("0123456789")
        sixteenths = s.pixels() * 16
        torch.testing.assert_close(sixteenths, sixteenths.round(), atol=1e-4, rtol=0)  # 16 × 2e-6
        assert sixteenths.max() > 15.9
    share = test.y.bincount() / (test.y.bincount() + train.y.bincount() + valid.y.bincount())
    assert (share - 0.2).abs().max() < 0.5 / 174  # each class is cut at the nearest whole image


@pytest.mark.parametrize("fraction", [1.0, 0.01])
def test_standardised_by_the_chosen_training_images_alone(fraction):
    train, valid, test = data.load("fashion-mnist-sample", fraction, seed=3)
    torch.testing.assert_close(train.x.double().mean(), torch.tensor(0.0).double(), **STANDARD)
    torch.testing.assert_close(
        train.x.double().std(correction=0), torch.tensor(1.0).double(), **STANDARD
    )
    for s in (valid, test):
        assert (s.mean, s.std) == (train.mean, train.std)
    p = train.pixels().double()
    assert train.mean[0] == pytest.approx(float(p.mean()), abs=1e-6)  # float32 pixels
    assert train.std[0] == pytest.approx(float(p.std(correction=0)), abs=1e-6)


def test_seed_and_fraction_move_neither_test_nor_validation_images(fashion):
    other = data.load("fashion-mnist-sample", 0.02, seed=5)
    for a, b in ((fashion.valid, other.valid), (fashion.test, other.test)):
        assert torch.equal(a.y, b.y)
        torch.testing.assert_close(a.pixels(), b.pixels(), **ROUNDING)
        assert a.mean != b.mean


def test_the_three_parts_share_no_image(fashion):
    parts = [set(same_bytes(s.pixels())) for s in fashion]
    assert [len(p) for p in parts] == [9000, 1000, 2000]
    assert len(set.union(*parts)) == 12_000


def test_fractions_of_one_seed_are_nested_and_seeds_differ():
    def images(fraction, seed):
        train = data.load("fashion-mnist-sample", fraction, seed).train
        assert (train.y.bincount(minlength=10) == round(900 * fraction)).all()
        return same_bytes(train.pixels())

    tiny, small = images(0.01, 0), images(0.1, 0)
    assert tiny == small[: len(tiny)]
    assert tiny == images(0.01, 0)
    assert len(set(tiny) & set(images(0.01, 1))) < 10  # 90 of 9,000: about one in common by chance


def test_two_hundred_images_are_two_hundred():
    assert len(data.load("fashion-mnist-sample", 200 / 9000).train) == 200
    assert len(data.load("fashion-mnist-sample", 1000 / 10_000, validation=0).train) == 1000


def test_no_validation_and_more_of_it():
    splits = data.load("digits", validation=0)
    assert len(splits.valid) == 0
    assert splits.valid.x.shape == (0, 1, 8, 8)
    assert len(splits.train) == 1438
    half = data.load("digits", validation=0.5)
    assert abs(len(half.valid) - len(half.train)) <= 10  # at most one image per class
    torch.testing.assert_close(half.test.pixels(), splits.test.pixels(), **ROUNDING)


def test_breast_cancer_is_a_table_standardised_by_column():
    train, valid, test = data.load("breast-cancer")
    row = next(r for r in data.catalog() if r["name"] == "breast-cancer")
    assert len(train) + len(valid) == row["train"] and len(test) == row["test"]
    assert len(train) + len(valid) + len(test) == 569
    for part in (train, valid, test):
        assert type(part) is data.LabelledTensors and part.x.shape == (len(part), 30)
        assert part.classes == ("malignant", "benign") and part.size == ()
    torch.testing.assert_close(train.x.mean(0), torch.zeros(30), **STANDARD)
    torch.testing.assert_close(train.x.std(0, correction=0), torch.ones(30), **STANDARD)
    from sklearn.datasets import load_breast_cancer

    original = torch.from_numpy(load_breast_cancer().data)
    rows = torch.cat([part.values() for part in (train, valid, test)]).double()
    # Column by column, whatever the order; float32 keeps seven digits of values up to thousands.
    torch.testing.assert_close(rows.sort(0).values, original.sort(0).values, rtol=1e-5, atol=1e-4)
    few = data.load("breast-cancer", 0.1, seed=4)
    assert torch.equal(few.test.y, test.y) and len(few.train) == 41
    torch.testing.assert_close(few.train.x.mean(0), torch.zeros(30), **STANDARD)
    assert "410 samples 30, 2 classes" in repr(train)


def test_catalog(tmp_path, monkeypatch):
    monkeypatch.setenv("SFF_TEACH_DATA", str(tmp_path))
    rows = {row["name"]: row for row in data.catalog()}
    assert {"digits", "fashion-mnist-sample", "cifar10", "folder:PATH"} <= rows.keys()
    assert rows["fashion-mnist-sample"]["present"] is True
    assert rows["digits"]["present"] is True
    assert rows["cifar10"]["present"] is False
    assert all(row.keys() == rows["digits"].keys() for row in rows.values())


# ---------------------------------------------------------------- take_fraction

labels = st.lists(st.integers(1, 30), min_size=1, max_size=6).flatmap(
    lambda sizes: st.integers(0, 999).map(lambda s: shuffled_labels(sizes, s))
)
quick = settings(max_examples=60, deadline=None)  # the first example pays for lazy imports


def chosen(y: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    return y[data.take_fraction(y, fraction, seed).numpy()]


def shuffled_labels(sizes: list[int], seed: int) -> np.ndarray:
    y = [k for k, n in enumerate(sizes) for _ in range(n)]
    random.Random(seed).shuffle(y)
    return np.array(y)


@quick
@given(labels, st.floats(1e-3, 1), st.floats(1e-3, 1), st.integers(0, 2**32 - 1))
def test_take_fraction_is_balanced_nested_repeatable_and_without_repeats(y, one, other, seed):
    counts = np.bincount(y)
    low, high = (max(f, 0.5 / counts.min()) for f in sorted((one, other)))
    small, large = data.take_fraction(y, low, seed), data.take_fraction(y, high, seed)
    assert large.dtype == torch.int64
    assert len(set(large.tolist())) == len(large)
    assert small.tolist() == large[: len(small)].tolist()
    assert small.tolist() == data.take_fraction(torch.tensor(y), low, seed).tolist()
    for fraction, index in ((low, small), (high, large)):
        # half up; 1e-6 forgives a fraction that is itself a rounded (r + ½) / n
        taken = np.bincount(y[index.numpy()], minlength=len(counts))
        assert (np.abs(taken - fraction * counts) <= 0.5 + 1e-6).all()
        assert (taken >= 1).all()
    assert sorted(data.take_fraction(y, 1, seed).tolist()) == list(range(len(y)))


@quick
@given(st.integers(1, 6), st.integers(1, 20), st.integers(0, 99))
def test_every_prefix_of_equal_classes_is_balanced(classes, size, seed):
    y = shuffled_labels([size] * classes, seed)
    order = chosen(y, 1.0, seed)
    for m in range(1, len(y) + 1):
        counts = np.bincount(order[:m], minlength=classes)
        assert counts.max() - counts.min() <= 1


@quick
@given(labels, st.integers(0, 99))
def test_the_smallest_fraction_it_names_works_and_is_the_smallest(y, seed):
    text = message(lambda: data.take_fraction(y, 1e-4, seed))
    named = float(Fraction(re.search(r"use (\S+) or more", text)[1]))
    assert len(set(chosen(y, named, seed))) == len(set(y))
    assert "takes none" in message(lambda: data.take_fraction(y, 0.99 * named, seed))


def test_take_fraction_leaves_the_global_generators_alone():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    data.take_fraction([0, 1] * 10, 0.5, 3)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_the_choice_is_the_same_on_every_machine():
    """Golden positions: a change here would silently change every recorded small-data result."""
    y = [0, 1, 2] * 10
    kept, held = sampling.hold_out(np.array(y), 0.2, "abc")
    assert held.tolist() == [6, 10, 8, 24, 16, 11]
    assert sorted([*kept, *held]) == list(range(30))
    assert data.take_fraction(y, 0.3, seed=0).tolist() == [6, 10, 8, 24, 16, 11, 12, 4, 26]


# ---------------------------------------------------------------- own arrays, subsets


def own(n=12, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, channels, 6, 5, generator=generator) * 3 + 1
    return x, torch.arange(n) % 4


def test_from_arrays_standardises_by_channel_and_gives_the_pixels_back():
    x, y = own()
    before = x.clone()
    images = data.from_arrays(x, y)
    assert images.classes == ("0", "1", "2", "3")
    torch.testing.assert_close(images.x.mean((0, 2, 3)), torch.zeros(3), **STANDARD)
    torch.testing.assert_close(images.x.std((0, 2, 3), correction=0), torch.ones(3), **STANDARD)
    torch.testing.assert_close(images.pixels(), x, **ROUNDING)  # beyond 1: nothing is clipped
    assert torch.equal(x, before)
    images.x.zero_(), images.y.zero_()
    assert torch.equal(x, before)
    assert y[1] == 1


def test_from_arrays_with_the_statistics_of_the_training_images():
    train = data.from_arrays(*own(), classes=["a", "b", "c", "d", "e"])
    test = data.from_arrays(*own(seed=1), train.classes, mean=train.mean, std=train.std)
    assert (test.mean, test.std, test.classes) == (train.mean, train.std, train.classes)
    torch.testing.assert_close(test.pixels(), own(seed=1)[0], **ROUNDING)


def test_from_arrays_takes_numpy_double_and_small_integers():
    x, y = own()
    a = data.from_arrays(x, y)
    b = data.from_arrays(x.double().numpy(), y.numpy().astype(np.uint8))
    assert b.x.dtype == torch.float32
    assert b.y.dtype == torch.int64
    torch.testing.assert_close(a.x, b.x, **ROUNDING)


def test_a_channel_without_contrast_is_not_divided_by_zero():
    x, y = own()
    x[:, 1] = 0.25
    images = data.from_arrays(x, y)
    assert images.std[1] == 1
    assert (images.x[:, 1] == 0).all()


NAN = torch.full((4, 1, 2, 2), torch.nan)


@pytest.mark.parametrize(("shape", "size"), [((12, 5), ()), ((12, 5, 7), (7,))])
def test_from_arrays_takes_tables_and_sequences(shape, size):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3 + 1
    y = torch.arange(12) % 2
    found = data.from_arrays(x, y, ["a", "b"])
    assert type(found) is data.LabelledTensors
    assert (found.channels, found.size, found.num_classes) == (5, size, 2)
    over = [d for d in range(x.dim()) if d != 1]
    torch.testing.assert_close(found.x.mean(over), torch.zeros(5), **STANDARD)
    torch.testing.assert_close(found.values(), x, **ROUNDING)
    part = found.subset([3, 1])
    assert torch.equal(part.x, found.x[[3, 1]])
    assert [b.shape[0] for b, _ in data.batches(found, 5)] == [5, 5, 2]
    again = data.from_arrays(x, y, mean=found.mean, std=found.std)
    assert torch.equal(again.x, found.x)


def test_images_are_image_sets_and_nothing_else_is():
    x, y = own()
    assert type(data.from_arrays(x, y)) is data.ImageSet
    assert type(data.from_arrays(x, y).subset([0])) is data.ImageSet
    assert not hasattr(data.from_arrays(x.flatten(1), y), "as_rgb")


@pytest.mark.parametrize(
    "index",
    [[3, 1], torch.tensor([3, 1]), np.array([3, 1], dtype=np.uint8), range(3, 0, -2), [-9, -11]],
)
def test_subset_takes_positions_in_their_order(index):
    images = data.from_arrays(*own())
    part = images.subset(index)
    assert torch.equal(part.x, images.x[[3, 1]])
    assert torch.equal(part.y, images.y[[3, 1]])
    assert (part.mean, part.std, part.classes) == (images.mean, images.std, images.classes)


def test_subset_takes_slices_masks_and_nothing():
    images = data.from_arrays(*own())
    assert torch.equal(images.subset(slice(2, 5)).x, images.x[2:5])
    assert torch.equal(images.subset(images.y == 1).x, images.x[images.y == 1])
    assert len(images.subset([])) == 0
    assert len(images.subset(images.y == 9)) == 0
    assert images.subset([]).pixels().shape == (0, 3, 6, 5)


# ---------------------------------------------------------------- batches


def numbered(n: int) -> data.ImageSet:
    """n one-pixel images whose value is their number."""
    x = torch.arange(n, dtype=torch.float32).reshape(n, 1, 1, 1)
    return data.ImageSet(x, torch.arange(n), tuple(map(str, range(n))), "numbered", (0.0,), (1.0,))


@quick
@given(st.integers(1, 50), st.integers(1, 60), st.booleans(), st.booleans(), st.integers(0, 99))
def test_batches_hold_every_image_once(n, batch_size, shuffle, drop_last, seed):
    images = numbered(n)
    options = {"shuffle": shuffle, "drop_last": drop_last}
    if shuffle:
        options["generator"] = torch.Generator().manual_seed(seed)
    got = list(data.batches(images, batch_size, **options))
    for x, y in got:
        assert torch.equal(x.flatten().long(), y)  # image and label stay together
    sizes = [len(y) for _, y in got]
    assert all(size == batch_size for size in sizes[:-1])
    seen = [label for _, y in got for label in y.tolist()]
    assert len(set(seen)) == len(seen)
    if drop_last:
        assert set(sizes) <= {batch_size}
        assert len(seen) == n - n % batch_size
    else:
        assert sorted(seen) == list(range(n))
    if not shuffle:
        assert seen == list(range(len(seen)))
    else:
        again = data.batches(
            images, batch_size, **options | {"generator": torch.Generator().manual_seed(seed)}
        )
        assert seen == [label for _, y in again for label in y.tolist()]


def test_each_epoch_has_a_new_order():
    generator = torch.Generator().manual_seed(0)
    images = numbered(50)
    one, two = (
        torch.cat([y for _, y in data.batches(images, 8, shuffle=True, generator=generator)])
        for _ in range(2)
    )
    assert not torch.equal(one, two)
    assert not torch.equal(one, torch.arange(50))


# ---------------------------------------------------------------- augmentation


def different(b, c=2, h=7, w=9):
    """Images in which every pixel of every channel has its own value."""
    return torch.arange(b * c * h * w, dtype=torch.float32).reshape(b, c, h, w)


@pytest.mark.parametrize("shape", [(8, 8), (5, 6)])
def test_each_image_becomes_a_crop_of_its_mirrored_self(shape):
    x, pad = different(40, 2, *shape), 4
    before = x.clone()
    out = data.augment_flip_crop(x, torch.Generator().manual_seed(1))
    assert out.shape == x.shape
    assert torch.equal(x, before)
    padded = F.pad(x, (pad,) * 4, mode="reflect")
    h, w = shape
    for i in range(len(x)):
        crops = (
            padded[i, :, dy : dy + h, dx : dx + w]
            for dy in range(2 * pad + 1)
            for dx in range(2 * pad + 1)
        )
        assert any(torch.equal(out[i], c) or torch.equal(out[i].flip(2), c) for c in crops)


def test_flips_are_half_and_every_shift_occurs():
    # two probe pixels in a large dark image: where they land tells shift and flip
    x = torch.zeros(2000, 1, 17, 17)
    x[:, 0, 8, 8], x[:, 0, 8, 9] = 1, 2
    out = data.augment_flip_crop(x, torch.Generator().manual_seed(0))
    one, two = ((out == v).flatten(1).float().argmax(1) for v in (1, 2))
    assert ((out == 1).flatten(1).sum(1) == 1).all()
    flipped = two < one
    # binomial with n = 2000: five standard deviations are 112
    assert abs(int(flipped.sum()) - 1000) < 112
    row, column = one // 17, one % 17
    # 81 places, 25 images each on average: none missed, with a chance of 81·e⁻²⁵
    assert len({(int(r), int(c)) for r, c in zip(row, column, strict=True)}) == 81
    assert (row.min(), row.max(), column.min(), column.max()) == (4, 12, 4, 12)
    both = torch.stack([flipped.float(), row.float(), column.float()]).corrcoef()
    assert both.fill_diagonal_(0).abs().max() < 0.12  # 5/√2000: independent draws


def test_cutout_hides_one_square_of_a_quarter_of_the_side():
    x = torch.ones(500, 2, 16, 16)
    out = data.AUGMENTATIONS["flip-crop-cutout"](x, torch.Generator().manual_seed(0))
    assert set(out.unique().tolist()) == {0.0, 1.0} and torch.equal(out[:, 0], out[:, 1])
    hidden = 1 - out[:, 0]
    rows, columns = hidden.amax(2).sum(1), hidden.amax(1).sum(1)
    assert torch.equal(hidden.sum((1, 2)), rows * columns)  # a rectangle
    assert (rows.max(), columns.max()) == (4, 4) and rows.min() < 4  # cut off at the border
    assert (hidden.mean(0) > 0).all()  # every pixel at some time


def test_augmentation_repeats_and_spares_the_global_generator():
    x = different(16)
    state = torch.get_rng_state()
    one, two = (data.augment_flip_crop(x, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(torch.get_rng_state(), state)
    other = data.augment_flip_crop(x, torch.Generator().manual_seed(8))
    assert not torch.equal(one, other)
    strided = x.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(data.augment_flip_crop(strided, torch.Generator().manual_seed(7)), one)


# ---------------------------------------------------------------- folders


def write(path: Path, value=0, size=(6, 5), mode="L", **options) -> Path:
    """An image of one value, width × height = size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path, **options)
    return path


def make_folder(root: Path, parts=("train", "test"), classes=("ant", "bee"), n=10) -> Path:
    """n images of each class; every image of the folder has a value of its own."""
    value = 0
    for part in parts:
        for name in classes:
            for i in range(n):
                write(root / part / name / f"{i:02}.png", value)
                value += 1
    return root


def values(images: data.ImageSet) -> list[int]:
    return (images.pixels()[:, 0, 0, 0] * 255).round().int().tolist()


def test_a_folder_with_train_and_test(tmp_path):
    make_folder(tmp_path)
    train, valid, test = data.load(f"folder:{tmp_path}")
    assert [len(s) for s in (train, valid, test)] == [18, 2, 20]
    assert train.classes == ("ant", "bee")
    assert train.x.shape == (18, 1, 5, 6)
    assert values(test) == list(range(20, 40))
    assert test.y.tolist() == [0] * 10 + [1] * 10
    assert sorted(values(train) + values(valid)) == list(range(20))
    for s in (train, valid):
        assert [int(v >= 10) for v in values(s)] == s.y.tolist()


@pytest.mark.parametrize("folder", ["valid", "val"])
def test_a_folder_with_its_own_validation_images(tmp_path, folder):
    make_folder(tmp_path, ("train", folder, "test"))
    train, valid, test = data.load(f"folder:{tmp_path}", 0.5)
    assert [len(s) for s in (train, valid, test)] == [10, 20, 20]
    assert values(valid) == list(range(20, 40))
    none = data.load(f"folder:{tmp_path}", validation=0)
    assert [len(s) for s in none] == [20, 0, 20]


def test_a_folder_of_classes_is_split_the_same_way_for_every_seed(tmp_path):
    make_folder(tmp_path, [""], ("ant", "bee", "cat"), 20)
    splits = data.load(f"folder:{tmp_path}")
    assert [len(s) for s in splits] == [42, 6, 12]
    assert splits.test.y.bincount().tolist() == [4, 4, 4]
    assert sorted(v for s in splits for v in values(s)) == list(range(60))
    other = data.load(f"folder:{tmp_path}", 0.25, seed=9)
    assert values(other.test) == values(splits.test)
    assert values(other.valid) == values(splits.valid)
    for i in range(20, 25):  # five more of one class move at most a few across
        write(tmp_path / "ant" / f"{i}.png", 100 + i)
    grown = data.load(f"folder:{tmp_path}")
    assert len(set(values(splits.test)) - set(values(grown.test))) <= 4


def test_classes_called_train_are_no_split(tmp_path):
    make_folder(tmp_path, [""], ("bus", "train"))
    assert data.load(f"folder:{tmp_path}").classes == ("bus", "train")


@pytest.mark.filterwarnings("ignore:.*are also training images")
def test_every_file_type_and_deeper_folders(tmp_path):
    for i, suffix in enumerate(["png", "jpg", "jpeg", "bmp", "webp", "PNG", "JPG"]):
        write(tmp_path / "ant" / "deep" / f"{i}.{suffix}", 100)
        write(tmp_path / "bee" / f"{i}.{suffix}", 200)
    splits = data.load(f"folder:{tmp_path}", validation=0)
    assert len(splits.train) + len(splits.test) == 14
    pixels = splits.train.pixels() * 255
    expected = torch.where(splits.train.y == 0, 100.0, 200.0)
    # JPEG and WebP keep a flat image to a unit or two of brightness
    assert (pixels - expected[:, None, None, None]).abs().max() <= 2


def test_hidden_files_other_files_and_loops_are_left_out(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "train" / "ant" / "._00.png").write_bytes(b"resource fork")
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    write(tmp_path / "train" / "ant" / ".cache" / "x.png")
    (tmp_path / "train" / "__MACOSX").mkdir()
    (tmp_path / "train" / "Thumbs.db").write_bytes(b"x")
    try:
        os.symlink(tmp_path, tmp_path / "train" / "ant" / "loop", target_is_directory=True)
        os.symlink(tmp_path / "train", tmp_path / "train" / "up", target_is_directory=True)
        os.symlink("self", tmp_path / "train" / "self")
    except OSError:
        pass  # some systems allow no links
    splits = data.load(f"folder:{tmp_path}", validation=0)
    assert splits.classes == ("ant", "bee")
    assert len(splits.train) == 20


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_and_a_broken_link_with_an_images_name_are_not_opened(tmp_path):
    make_folder(tmp_path)
    os.mkfifo(tmp_path / "train" / "ant" / "pipe.png")  # whoever opens it waits for a writer
    os.symlink("nowhere", tmp_path / "train" / "ant" / "gone.png")
    with pytest.warns(UserWarning, match=r"not read: 2 \.png"):
        splits = data.load(f"folder:{tmp_path}", validation=0)
    assert len(splits.train) == 20


def test_grey_folders_have_one_channel_and_one_colour_image_makes_three(tmp_path):
    make_folder(tmp_path)
    write(tmp_path / "train" / "ant" / "grey-alpha.png", (50, 255), mode="LA")
    write(tmp_path / "train" / "ant" / "bit.png", 1, mode="1")
    grey = data.load(f"folder:{tmp_path}", validation=0)
    assert grey.train.channels == 1
    assert {50, 255} < set(values(grey.train))
    write(tmp_path / "test" / "bee" / "colour.png", (10, 20, 30), mode="RGB")
    colour = data.load(f"folder:{tmp_path}", validation=0)
    assert [s.channels for s in colour] == [3, 3, 3]
    pixels = (colour.test.pixels() * 255).round()
    assert pixels[-1, :, 0, 0].tolist() == [10, 20, 30]
    assert (pixels[0] == pixels[0, 0]).all()  # a grey one has three equal channels


def test_rotated_photographs_are_turned_upright(tmp_path):
    make_folder(tmp_path)
    image = Image.new("L", (5, 6))  # stored on its side; upright it is 6 wide and 5 high
    image.putpixel((0, 0), 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # the viewer has to turn it a quarter clockwise
    image.save(tmp_path / "test" / "bee" / "turned.png", exif=exif)
    last = data.load(f"folder:{tmp_path}").test.pixels()[-1, 0]
    assert last.shape == (5, 6)
    assert last.nonzero().tolist() == [[0, 5]]  # top left became top right


def test_size_resizes_the_short_side_and_crops_the_centre(tmp_path):
    make_folder(tmp_path)
    bands = Image.new("RGB", (40, 20), (255, 0, 0))
    bands.paste((0, 255, 0), (10, 0, 30, 20))
    bands.save(tmp_path / "test" / "bee" / "bands.png")
    splits = data.load(f"folder:{tmp_path}", size=10)
    assert splits.test.size == (10, 10)
    last = splits.test.pixels()[-1].round(decimals=3)
    green = torch.tensor([0.0, 1.0, 0.0])[:, None, None]
    assert (last[:, :, 1:-1] == green).all()  # resizing first blends a little red into the edges
    assert data.load(f"folder:{tmp_path}", size=(4, 8)).train.size == (4, 8)


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_fraction_that_empties_a_class_names_it(tmp_path):
    make_folder(tmp_path)
    text = message(lambda: data.load(f"folder:{tmp_path}", 0.01))
    assert "ant" in text
    named = float(Fraction(re.search(r"use (\S+) or more", text)[1]))
    assert len(data.load(f"folder:{tmp_path}", named).train) == 2


def test_the_memory_layout_is_the_usual_one(fashion, digits):
    """With one channel PyTorch calls other strides contiguous too, and sums in another order."""
    for part in (*fashion, *digits, digits.train.subset([3, 1]), digits.train.subset(slice(5))):
        assert part.x.stride() == torch.empty(part.x.shape).stride()
    x = torch.zeros(4, 1, 3, 5).to(memory_format=torch.channels_last)
    assert data.from_arrays(x, torch.tensor([0, 1, 0, 1])).x.stride() == (15, 15, 5, 1)


def test_a_fingerprint_tells_images_apart(digits):
    assert digits.train.fingerprint == data.load("digits").train.fingerprint
    others = [data.load("digits", 0.5, seed=s, validation=0).train for s in (0, 1)]
    assert torch.equal(others[0].y, others[1].y)
    assert others[0].fingerprint != others[1].fingerprint


@pytest.mark.parametrize(
    "parts",
    [("Training", "Testing"), ("Train", "Test"), ("seg_train/seg_train", "seg_test/seg_test"),
     ("set/train", "set/test")],
)  # fmt: skip
def test_usual_names_of_parts(tmp_path, parts):
    make_folder(tmp_path, parts)
    splits = data.load(f"folder:{tmp_path}")
    assert splits.classes == ("ant", "bee")
    assert [len(s) for s in splits] == [18, 2, 20]


def test_parts_without_labels_are_refused(tmp_path):
    for i in range(4):
        write(tmp_path / "train" / f"cat.{i}.jpg")
        write(tmp_path / "test" / f"{i}.jpg")
    assert "labels" in message(lambda: data.load(f"folder:{tmp_path}"))


@pytest.mark.parametrize("folder", ["absent", "."])
def test_folders_that_hold_no_data_set(tmp_path, folder):
    with pytest.raises((FileNotFoundError, SFFError)):
        data.load(f"folder:{tmp_path / folder}")


def test_a_damaged_image_is_named(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "test" / "bee" / "broken.png").write_bytes(b"not an image")
    assert "broken.png" in message(lambda: data.load(f"folder:{tmp_path}"))


def test_images_of_several_sizes_need_a_size(tmp_path):
    make_folder(tmp_path)
    write(tmp_path / "train" / "bee" / "big.png", size=(8, 7))
    assert "size=5" in message(lambda: data.load(f"folder:{tmp_path}"))
    assert data.load(f"folder:{tmp_path}", size=5).train.size == (5, 5)


def test_transparency_is_white_and_deep_images_keep_their_shades(tmp_path):
    make_folder(tmp_path, n=2)
    write(tmp_path / "test" / "bee" / "a.png", (10, 20, 30, 0), mode="RGBA")
    deep = np.full((5, 6), 2047, dtype=np.uint16)  # of a 12-bit camera
    deep[0] = 4095
    Image.fromarray(deep).save(tmp_path / "test" / "bee" / "b.png")
    last = (data.load(f"folder:{tmp_path}", validation=0).test.pixels()[-2:] * 255).round()
    assert (last[0] == 255).all()
    assert last[1, 0, :2, 0].tolist() == [255, 127]


def test_files_that_are_not_read_are_counted(tmp_path):
    make_folder(tmp_path)
    write(tmp_path / "train" / "ant" / "a.tif", 250)
    write(tmp_path / "train" / "ant" / "a.png", 250).rename(tmp_path / "train" / "ant" / "a.heic")
    with pytest.warns(UserWarning, match=r"1 \.heic"):
        assert 250 in values(data.load(f"folder:{tmp_path}", validation=0).train)


def test_equal_images_on_both_sides_are_counted(tmp_path):
    make_folder(tmp_path)
    write(tmp_path / "test" / "ant" / "copy.png", 3)
    with pytest.warns(UserWarning, match="1 of the 21 test"):
        data.load(f"folder:{tmp_path}", validation=0)


def test_two_unicode_spellings_are_one_class(tmp_path):
    make_folder(tmp_path, ("train",), ("caf\u00e9", "bee"))
    for i in range(3):
        write(tmp_path / "test" / "cafe\u0301" / f"{i}.png", 100 + i)
        write(tmp_path / "test" / "bee" / f"{i}.png", 110 + i)
    assert data.load(f"folder:{tmp_path}").classes == ("bee", "caf\u00e9")


def test_a_damaged_embedded_file(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PACKAGE", tmp_path / "project" / "sff_teach")
    monkeypatch.setenv("SFF_TEACH_DATA", str(tmp_path))
    assert data.data_home() == tmp_path
    message(lambda: data.load("fashion-mnist-sample"), FileNotFoundError)
    (tmp_path / sets.SAMPLE_FILE).write_bytes(SAMPLE.read_bytes()[:5000])
    assert "damaged" in message(lambda: data.load("fashion-mnist-sample"))


@pytest.mark.parametrize(
    ("kind", "options"),
    [(SFFError, {"name": "digit"}), (TypeError, {"name": DATA}), (SFFError, {"fraction": 0}),
     (SFFError, {"seed": -1}), (SFFError, {"validation": 1}), (SFFError, {"size": 16})],
)  # fmt: skip
def test_load_refuses(kind, options):
    message(lambda: data.load(**{"name": "digits"} | options), kind)


@pytest.mark.parametrize(
    ("x", "y"),
    [(torch.full((2, 1, 2, 2), torch.nan), [0, 1]), (torch.zeros(2, 1, 2, 2), [0, -1]),
     (torch.zeros(2, 1, 2, 2), [0, 1, 0]), (torch.zeros(0, 1, 2, 2), []),
     (torch.zeros(4), [0] * 4)],
)  # fmt: skip
def test_from_arrays_refuses(x, y):
    message(lambda: data.from_arrays(x, torch.tensor(y, dtype=torch.int64)))
