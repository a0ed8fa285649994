"""Bad input is answered in one sentence that names the argument and the remedy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sff_teach.util import checks as _checks

RULES = ("bp", "bp-goodness", "deepsup", "sff", "ff")


def message(call, kind) -> str:
    """The error of `call`, which has to be of this very kind and one tidy sentence."""
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert len(text) < 300
    return text


# ---------------------------------------------------------------- names


def test_nearest_offers_the_closest_name_and_all_known_ones():
    text = message(lambda: _checks.nearest("sfff", RULES, "rule"), ValueError)
    assert text == (
        'unknown rule "sfff"; did you mean "sff"? Known: bp, bp-goodness, deepsup, ff, sff.'
    )


@pytest.mark.parametrize(
    ("typed", "meant"), [("SFF", "sff"), ("bp_goodness", "bp-goodness"), ("deep-sup", "deepsup")]
)
def test_nearest_sees_through_case_and_punctuation(typed, meant):
    assert f'did you mean "{meant}"?' in message(
        lambda: _checks.nearest(typed, RULES, "rule"), ValueError
    )


@pytest.mark.parametrize("typed", ["", "quantum", None, 3])
def test_nearest_offers_nothing_where_nothing_is_close(typed):
    text = message(lambda: _checks.nearest(typed, RULES, "rule"), ValueError)
    assert "did you mean" not in text
    assert "known: bp" in text


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("good", [1, 1.0, 0.5, 1e-9, np.float32(0.25), np.int64(1)])
def test_fractions_that_are_fine(good):
    assert _checks.check_fraction(good) is None


@pytest.mark.parametrize("bad", [0, -0.1, 1.0001, math.nan, math.inf, -math.inf])
def test_fraction_outside_its_range(bad):
    assert "fraction=" in message(lambda: _checks.check_fraction(bad), ValueError)


def test_a_fraction_in_percent_is_recognised():
    assert "did you mean 0.1?" in message(lambda: _checks.check_fraction(10), ValueError)


@pytest.mark.parametrize("bad", ["0.1", None, True, [0.1], torch.tensor([0.1])])
def test_fraction_that_is_no_number(bad):
    assert "share must be a number" in message(
        lambda: _checks.check_fraction(bad, "share"), TypeError
    )


@pytest.mark.parametrize("good", [0, 7, np.int64(3), 2**32 - 1])
def test_seeds_that_are_fine(good):
    assert _checks.check_seed(good) is None


@pytest.mark.parametrize(
    ("bad", "kind"),
    [(-1, ValueError), (2**32, ValueError), (0.5, TypeError), (None, TypeError), (True, TypeError)],
)
def test_seeds_that_are_not(bad, kind):
    assert "seed" in message(lambda: _checks.check_seed(bad), kind)


@pytest.mark.parametrize(
    ("bad", "kind"), [(0, ValueError), (2.0, TypeError), ("4", TypeError), (False, TypeError)]
)
def test_counts(bad, kind):
    _checks.check_count(1, "epochs")
    assert "epochs" in message(lambda: _checks.check_count(bad, "epochs"), kind)


# ---------------------------------------------------------------- labels


def test_good_labels_pass():
    y = torch.tensor([0, 9, 5])
    assert _checks.check_labels(y, 10) is None
    assert _checks.check_labels(y, 10, length=3) is None
    assert torch.equal(y, torch.tensor([0, 9, 5]))


@pytest.mark.parametrize(
    ("y", "kind", "words"),
    [
        (torch.tensor([0, 10]), ValueError, ["label 10", "10 classes", "0 to 9"]),
        (torch.tensor([-1, 3]), ValueError, ["label -1", "0 to 9"]),
        (torch.arange(1, 11), ValueError, ["start at 0", "y - 1"]),
        (torch.tensor([0.0, 1.0]), TypeError, ["float32", "y.long()"]),
        (torch.tensor([True, False]), TypeError, ["bool", "y.long()"]),
        (torch.tensor([1], dtype=torch.int32), TypeError, ["int32", "y.long()"]),
        (torch.tensor([1], dtype=torch.uint8), TypeError, ["uint8", "y.long()"]),
        (torch.eye(10)[:4], ValueError, ["(4, 10)", "argmax(1)"]),
        (torch.zeros(4, 1).long(), ValueError, ["(4, 1)", "squeeze(1)"]),
        (torch.tensor(3), ValueError, ["()", "one class number per image"]),
        (torch.zeros(2, 3, 4).long(), ValueError, ["(2, 3, 4)"]),
        (torch.zeros(0).long(), ValueError, ["empty"]),
        (np.array([1, 2]), TypeError, ["ndarray", "torch.as_tensor(y)"]),
        ([1, 2], TypeError, ["list"]),
        (None, TypeError, ["NoneType"]),
    ],
)
def test_bad_labels(y, kind, words):
    text = message(lambda: _checks.check_labels(y, 10), kind)
    assert text.startswith("y ")
    for word in words:
        assert word in text


def test_labels_of_another_length_than_the_images():
    text = message(lambda: _checks.check_labels(torch.zeros(3).long(), 2, length=4), ValueError)
    assert "3 labels for 4 images" in text


def test_the_argument_is_named_as_the_caller_names_it():
    text = message(lambda: _checks.check_labels(torch.tensor([2]), 2, "targets"), ValueError)
    assert text.startswith("targets ")
    text = message(lambda: _checks.check_images(torch.zeros(2, 2), argument="images"), ValueError)
    assert text.startswith("images ")


# ---------------------------------------------------------------- images


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_good_images_pass_in_every_float_type(dtype):
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = x.clone()
    assert _checks.check_images(x) is None
    assert _checks.check_images(x.requires_grad_(), channels=3) is None
    assert torch.equal(x, before)


def test_the_largest_float_is_still_finite():
    x = torch.full((1, 1, 2, 2), torch.finfo(torch.float32).max)
    assert _checks.check_images(x) is None  # a check by the sum would overflow here


@pytest.mark.parametrize(
    ("x", "kind", "words"),
    [
        (torch.zeros(5, 28, 28), ValueError, ["(5, 28, 28)", "x[:, None]", "x[None]"]),
        (torch.zeros(5, 784), ValueError, ["(5, 784)", "reshape"]),
        (torch.zeros(2, 1, 1, 4, 4), ValueError, ["(2, 1, 1, 4, 4)"]),
        (torch.zeros(2, 1, 4, 4).byte(), TypeError, ["uint8", "divide by 255", "x.float() / 255"]),
        (torch.zeros(2, 1, 4, 4).long(), TypeError, ["int64", "x.float()"]),
        (torch.zeros(2, 1, 4, 4).bool(), TypeError, ["bool"]),
        (torch.zeros(2, 1, 4, 4).cfloat(), TypeError, ["complex64"]),
        (torch.zeros(0, 1, 4, 4), ValueError, ["no images"]),
        (torch.zeros(2, 1, 0, 4), ValueError, ["no pixels"]),
        (np.zeros((2, 1, 4, 4)), TypeError, ["ndarray", "torch.as_tensor(x)"]),
        (None, TypeError, ["NoneType"]),
    ],
)
def test_bad_images(x, kind, words):
    text = message(lambda: _checks.check_images(x), kind)
    assert text.startswith("x ")
    for word in words:
        assert word in text


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 5, 5), (4, 3, 2, 2, 2)])
def test_good_samples_of_any_kind_pass(shape):
    assert _checks.check_samples(torch.ones(shape)) is None


@pytest.mark.parametrize(
    ("x", "kind", "words"),
    [
        (torch.zeros(5), ValueError, ["(5,)", "(B, C, ...)", "x.reshape(-1, 1)"]),
        (torch.zeros(5, 3).long(), TypeError, ["int64", "values are floats"]),
        (torch.zeros(0, 3), ValueError, ["no samples"]),
        (torch.zeros(5, 3, 0), ValueError, ["samples have no values", "every dimension"]),
        (torch.tensor([[1.0, torch.inf]]), ValueError, ["1 of 1 samples"]),
        ([[1.0]], TypeError, ["torch.as_tensor(x)"]),
    ],
)
def test_bad_samples(x, kind, words):
    text = message(lambda: _checks.check_samples(x), kind)
    assert text.startswith("x ")
    for word in words:
        assert word in text


def test_images_without_a_channel_do_not_pass_for_one_image():
    convolution = torch.nn.Conv2d(2, 4, 3)
    assert _checks.check_fits(convolution, torch.zeros(2, 2, 8, 8)) is None
    text = message(lambda: _checks.check_fits(convolution, torch.zeros(2, 8, 8)), ValueError)
    assert "4 predictions for 2 samples" in text and "x[:, None]" in text


@pytest.mark.parametrize(
    ("shape", "channels", "remedy"),
    [
        ((2, 3, 8, 8), 1, "x.mean(1, keepdim=True)"),
        ((2, 1, 8, 8), 3, "x.expand(-1, 3, -1, -1)"),
        ((2, 8, 8, 3), 3, "x.permute(0, 3, 1, 2)"),
        ((2, 4, 8, 8), 3, "give images with 3 channels"),
    ],
)
def test_wrong_channels_come_with_a_remedy_that_works(shape, channels, remedy):
    x = torch.zeros(shape)
    assert remedy in message(lambda: _checks.check_images(x, channels), ValueError)
    if remedy.startswith("x."):
        assert _checks.check_images(eval(remedy, {"x": x}), channels) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_pixels_that_are_not_finite_are_counted_and_found(value):
    x = torch.zeros(6, 2, 3, 3)
    x[3, 1, 2, 0] = value
    x[5, 0, 0, 0] = value
    text = message(lambda: _checks.check_images(x), ValueError)
    assert "2 of 6 images" in text
    assert "number 3" in text
    assert _checks.check_images(torch.nan_to_num(x)) is None  # the remedy it names
