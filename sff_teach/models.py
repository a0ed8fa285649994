"""Small networks. Larger ones come from torchvision, unmodified."""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import nn

from .util.checks import SFFError


def cnn(
    channels: int = 1,
    widths: Sequence[int] = (16, 32, 64, 64),
    pool_after: Sequence[int] = (1, 2, 4),
) -> nn.Sequential:
    """A plain CNN: layers of a 3×3 convolution, BatchNorm, ReLU and, after some, a 2×2 max-pool.

    It has no classifier: ``localize`` adds heads. Layers are named ``layer1``, ``layer2``, ….

    Args:
        channels: of the input image.
        widths: output channels of each layer.
        pool_after: layers (counted from 1) that end with a max-pool.
    """
    return _convolutions(channels, widths, pool_after, 3, dims=2)


def cnn1d(
    channels: int,
    widths: Sequence[int] = (64, 64, 128, 128),
    pool_after: Sequence[int] = (1, 2, 3),
    kernel_size: int = 5,
) -> nn.Sequential:
    """A plain CNN for sequences, such as the characters of a text.

    Source: Zhang, Zhao & LeCun (2015), with fewer and narrower layers.

    Args:
        channels: of the input, for text the number of different characters.
        widths: output channels of each layer.
        pool_after: layers (counted from 1) that end with a max-pool over two neighbours.
        kernel_size: of the convolutions, odd.
    """
    return _convolutions(channels, widths, pool_after, kernel_size, dims=1)


def _convolutions(
    channels: int, widths: Sequence[int], pool_after: Sequence[int], kernel_size: int, dims: int
) -> nn.Sequential:
    if missing := set(pool_after) - set(range(1, len(widths) + 1)):
        raise SFFError(f"pool_after names layers {sorted(missing)}, but there are {len(widths)}")
    convolution = nn.Conv2d if dims == 2 else nn.Conv1d
    norm = nn.BatchNorm2d if dims == 2 else nn.BatchNorm1d
    pool = nn.MaxPool2d if dims == 2 else nn.MaxPool1d
    layers = OrderedDict()
    for number, width in enumerate(widths, 1):
        parts = [
            convolution(channels, width, kernel_size, padding=kernel_size // 2, bias=False),
            norm(width),
            nn.ReLU(),
        ]
        if number in pool_after:
            parts.append(pool(2))
        layers[f"layer{number}"] = nn.Sequential(*parts)
        channels = width
    return nn.Sequential(layers)


def mlp(inputs: int, widths: Sequence[int] = (500, 500)) -> nn.Sequential:
    """A plain multilayer perceptron without a classifier: flatten, then linear + ReLU layers.

    Args:
        inputs: number of input values, C·H·W.
        widths: units of each layer.
    """
    layers = OrderedDict()
    for number, width in enumerate(widths, 1):
        parts = [nn.Linear(inputs, width), nn.ReLU()]
        layers[f"layer{number}"] = nn.Sequential(*([nn.Flatten()] if number == 1 else []), *parts)
        inputs = width
    return nn.Sequential(layers)


NETWORKS: dict[str, Callable[[int, tuple[int, ...]], nn.Sequential]] = {
    "cnn3": lambda channels, size: cnn(channels, (16, 32, 64), pool_after=(1, 2)),
    "cnn4": lambda channels, size: cnn(channels, (16, 32, 64, 64), pool_after=(1, 2, 4)),
    "cnn5": lambda channels, size: cnn(channels, (32, 64, 64, 128, 128), pool_after=(1, 2, 4)),
    "cnn1d": lambda channels, size: cnn1d(channels),
    "mlp": lambda channels, size: mlp(channels * math.prod(size), (500, 500)),
    "mlp3": lambda channels, size: mlp(channels * math.prod(size), (64, 64, 64)),
}
"""Networks by name, each a function of the data's channels and size, (H, W), (L,) or ()."""
