"""Arguments: what passes, what is refused, and as which kind of error."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from sff_teach.util import checks
from sff_teach.util.checks import SFFError

RULES = ("bp", "bp-goodness", "deepsup", "sff", "ff")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("sfff", "sff"), ("SFF", "sff"), ("bp_goodness", "bp-goodness"), ("deep-sup", "deepsup")],
)
def test_an_unknown_name_is_answered_with_the_nearest(typed, meant):
    with pytest.raises(SFFError, match=f"did you mean '{meant}'"):
        checks.check_known(typed, RULES, "rule")


@pytest.mark.parametrize("typed", ["", "quantum", None, 3, np.array(["sff", "bp"])])
def test_nothing_is_offered_where_nothing_is_near(typed):
    with pytest.raises(SFFError, match="Known: bp") as caught:
        checks.check_known(typed, RULES, "rule")
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("check", "good", "bad", "wrong_kind"),
    [
        (checks.check_fraction, [1, 0.5, np.float32(0.25)], [0, -0.1, 1.5, math.nan], ["1", True]),
        (checks.check_seed, [0, np.int64(3), 2**32 - 1], [-1, 2**32], [0.5, None, True]),
        (lambda v: checks.check_count(v, "n"), [1, np.int64(4)], [0, -2], [2.0, "4", False]),
        (lambda v: checks.check_number(v, "n", 0, 2), [0, 2.0], [-1, 3, math.inf], ["1", None]),
        (lambda v: checks.check_positive(n=v), [1e-9, 3], [0, -1, math.nan, math.inf], ["1", True]),
    ],
)
def test_numbers(check, good, bad, wrong_kind):
    for value in good:
        check(value)
    for value in bad:
        with pytest.raises(SFFError):
            check(value)
    for value in wrong_kind:
        with pytest.raises(TypeError):
            check(value)


def test_a_fraction_in_percent_is_recognised():
    with pytest.raises(SFFError, match=r"did you mean 0\.1"):
        checks.check_fraction(10)


@pytest.mark.parametrize(
    ("y", "kind", "word"),
    [
        (torch.tensor([0, 10]), SFFError, "label 10"),
        (torch.tensor([-1, 3]), SFFError, "label -1"),
        (torch.arange(1, 11), SFFError, "y - 1"),
        (torch.eye(10)[:4], SFFError, "argmax"),
        (torch.zeros(0).long(), SFFError, "empty"),
        (torch.tensor([0.0, 1.0]), TypeError, "float32"),
        (torch.tensor([1], dtype=torch.int32), TypeError, "long"),
        ([0, 1], TypeError, "tensor"),
    ],
)
def test_labels(y, kind, word):
    checks.check_labels(torch.tensor([0, 9, 5]), 10, length=3)
    with pytest.raises(kind, match=word):
        checks.check_labels(y, 10)


def test_labels_and_images_are_equally_many():
    with pytest.raises(SFFError, match="3 labels for 4 images"):
        checks.check_labels(torch.tensor([0, 1, 2]), 3, length=4)


@pytest.mark.parametrize(
    ("x", "kind", "word"),
    [
        (torch.rand(0, 3, 8, 8), SFFError, "empty"),
        (torch.full((2, 3, 8, 8), math.nan), SFFError, "2 of 2"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), TypeError, "255"),
        (np.zeros((2, 3, 8, 8)), TypeError, "tensor"),
    ],
)
def test_samples(x, kind, word):
    checks.check_samples(torch.rand(2, 3, 8, 8))
    with pytest.raises(kind, match=word):
        checks.check_samples(x)


def test_a_model_is_a_module_with_parameters():
    checks.check_module(nn.Linear(2, 2))
    with pytest.raises(TypeError):
        checks.check_module(nn.Linear)
    with pytest.raises(SFFError):
        checks.check_module(nn.ReLU())


def test_a_model_fits_its_samples():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(5))
    x = torch.rand(2, 3, 8, 8)
    model(x)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert checks.check_fits(model.train(), x).shape == (2, 5)
    assert model[1].training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    with pytest.raises(SFFError, match="not \\(B, K\\)"):
        checks.check_fits(model[:2], x)
    with pytest.raises(SFFError, match="takes 3 channels and gets 1"):
        checks.check_fits(model, x[:, :1])
    as_rgb = nn.Sequential(Expand(), *model)  # makes its own channels
    assert checks.check_fits(as_rgb, x[:, :1]).shape == (2, 5)
    with pytest.raises(RuntimeError, match="mat1"):  # and the sizes
        checks.check_fits(model, torch.rand(2, 3, 9, 9))
    with pytest.raises(TypeError, match="returns"):
        checks.check_fits(Dictionary(), x)


class Expand(nn.Module):
    def forward(self, x):
        return x.expand(-1, 3, -1, -1)


class Dictionary(nn.Module):
    def forward(self, x):
        return {"logits": x}


def test_texts_stay_on_one_line():
    assert checks.short_repr(torch.zeros(2, 3)) == "Tensor(float32, shape (2, 3))"
    assert len(checks.short_repr("x" * 1000)) == 60
    assert checks.escape_unprintable("a\nb\u202e") == "a\\nb\\u202e"
    assert checks.sentence(OSError(2, "No such file", "a\nb")).count("\n") == 0
    assert checks.sentence(KeyboardInterrupt()) == "KeyboardInterrupt"
