"""Models as users write them: cut without a difference, or refused in a sentence; never changed."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sff_teach import fit, localize
from sff_teach.util.checks import SFFError

IMAGE = (3, 16, 16)


def conv(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU())


class MultiScale(nn.Module):
    """Its classifier sees the features of three depths."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.fc = conv(3, 8), conv(8, 12), conv(12, 16), nn.Linear(36, 3)

    def forward(self, x):
        a = self.a(x)
        b = self.b(F.max_pool2d(a, 2))
        c = self.c(F.max_pool2d(b, 2))
        return self.fc(torch.cat([h.mean((2, 3)) for h in (a, b, c)], 1))


def test_features_of_several_depths_stay_in_the_blocks():
    model = MultiScale()
    net = localize(model, 3, input_shape=IMAGE)
    held = {id(p) for block in net.blocks for p in block.body.parameters()}
    assert {id(p) for part in (model.a, model.b, model.c) for p in part.parameters()} <= held


class Optional(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3), nn.Linear(12, 3)

    def forward(self, x, scale=1.0, mask=None, return_features=False):
        x = self.a(x).relu() * scale
        x = x if mask is None else x * mask
        x = self.b(x).relu()
        return x if return_features else self.fc(x.mean((2, 3)))


def test_optional_arguments_take_their_defaults():
    model = Optional()
    assert len(localize(model, 3, input_shape=IMAGE).blocks) == 2


class Recurrent(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.embed, self.layer = nn.Linear(6, 8), layer
        self.after, self.fc = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        h = self.embed(x.transpose(1, 2)).relu()
        attends = isinstance(self.layer, nn.MultiheadAttention)
        h, _ = self.layer(h, h, h) if attends else self.layer(h)
        return self.fc(self.after(h).relu().mean(1))


@pytest.mark.parametrize(
    "layer",
    [
        nn.GRU(8, 8, batch_first=True),
        nn.LSTM(8, 8, batch_first=True),
        nn.MultiheadAttention(8, 2, batch_first=True),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_that_returns_a_tuple_is_cut_behind_its_tensor(layer):
    net = localize(Recurrent(layer), 3, input_shape=(6, 10), cut="layer")
    assert len(net.blocks) > 1
    fit(net, (torch.randn(24, 6, 10), torch.arange(24) % 3), epochs=1, progress=False)


class HandMadeNorm(nn.Module):
    """Keeps its statistics as attributes, as textbooks write it."""

    def __init__(self):
        super().__init__()
        self.mean = torch.zeros(1, 8, 1, 1)

    def forward(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.mean((0, 2, 3), True).detach()
        return x - self.mean


def test_what_forward_assigns_to_itself_is_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), HandMadeNorm(), nn.ReLU(), nn.Conv2d(8, 12, 3))
    before, mean = [dict(vars(module)) for module in model.modules()], model[1].mean
    try:
        localize(model, 3, input_shape=IMAGE)
    except SFFError as error:
        assert "\n" not in str(error)
    assert [list(vars(module)) for module in model.modules()] == [list(old) for old in before]
    assert model[1].mean is mean and not mean.any()


class InPlaceOnTwoNames(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        keep = x
        x += 1.0  # changes what keep is
        return self.conv(x) + keep


def test_in_place_operations_on_a_tensor_with_two_names():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), InPlaceOnTwoNames(), nn.ReLU()).eval()
    x = torch.randn(2, *IMAGE)
    body = localize(model, 3, input_shape=IMAGE, cut=1).eval().blocks[0].body
    assert torch.equal(model(x), body(x))


class Positions(nn.Module):
    """Its first parameter with four dimensions is no convolution's."""

    def __init__(self):
        super().__init__()
        self.place = nn.Parameter(torch.zeros(1, 1, 16, 16))
        self.a, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.a(x + self.place[..., : x.shape[-2], : x.shape[-1]]).mean((2, 3)))


def test_channels_are_those_of_the_first_convolution():
    assert localize(Positions(), 3, input_shape=IMAGE).blocks[0].head.channels == 8


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (lambda: nn.DataParallel(Optional()), "model.module"),
        pytest.param(
            lambda: torch.compile(Optional()), "model._orig_mod", marks=pytest.mark.nightly
        ),  # importing the compiler takes seconds
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.LazyConv2d(4, 3)), "lazy layers"),
    ],
)
def test_wrappers_and_lazy_layers_are_refused(model, sentence):
    with pytest.raises(SFFError, match=sentence) as refused:
        localize(model(), 3, input_shape=IMAGE)
    assert "\n" not in str(refused.value)


def test_a_refused_lazy_layer_still_gets_its_values():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.LazyConv2d(4, 3))
    with pytest.raises(SFFError):
        localize(model, 3, input_shape=IMAGE)
    assert model(torch.randn(2, *IMAGE)).shape == (2, 4, 12, 12)


class Output:
    def __init__(self, logits):
        self.logits = logits


class ReturnsAnObject(nn.Sequential):
    def forward(self, x):
        return Output(super().forward(x))


@pytest.mark.parametrize(
    ("kind", "dtype", "error", "words"),
    [
        (nn.Sequential, torch.float64, RuntimeError, "(?i)double|dtype|float"),
        (ReturnsAnObject, torch.float32, TypeError, "the model returns .*Output"),
    ],
)
def test_an_error_names_its_true_cause(kind, dtype, error, words):
    layers = nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    x, y = torch.randn(12, *IMAGE, dtype=dtype), torch.arange(12) % 3
    with pytest.raises(error, match=words) as raised:
        fit(kind(*layers).to(dtype), (x, y), rule="bp", epochs=1, progress=False)
    assert "size" not in str(raised.value)
