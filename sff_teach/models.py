"""Small networks to learn on. Bigger ones come from torchvision, unmodified."""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from torch import nn

from .util.checks import check_count, check_kernel, check_layer, explained, short_repr


@explained()
def cnn(
    channels: int = 1,
    widths: Sequence[int] = (16, 32, 64, 64),
    pool_after: Sequence[int] = (1, 2, 4),
) -> nn.Sequential:
    """A plain CNN: per layer a 3×3 convolution, BatchNorm, ReLU, and a 2×2 max-pool where asked.

    It has no classifier: heads are added by ``split.localize``.

    Args:
        channels: of the input image.
        widths: output channels of each layer.
        pool_after: layers (counted from 1) that end with a max-pool.

    Returns:
        A Sequential of ``len(widths)`` layers named ``layer1``, ``layer2``, …; input
        (B, channels, H, W), H and W at least ``2 ** len(pool_after)``.

    Raises:
        ValueError: no layer, or a pool after a layer that is not there.
    """
    return _chain(channels, widths, pool_after, 3, dims=2)


@explained()
def cnn1d(
    channels: int,
    widths: Sequence[int] = (64, 64, 128, 128),
    pool_after: Sequence[int] = (1, 2, 3),
    kernel_size: int = 5,
) -> nn.Sequential:
    """The same for sequences, such as the letters of a sentence: convolutions along one dimension.

    Args:
        channels: of the input, for text the number of different characters.
        widths: output channels of each layer.
        pool_after: layers (counted from 1) that end with a max-pool over two neighbours.
        kernel_size: odd; how many neighbours a convolution sees.

    Returns:
        A Sequential of layers ``layer1``, …; input (B, channels, L), L at least
        ``2 ** len(pool_after)``.

    Raises:
        ValueError: no layer, a pool after a layer that is not there, or an even kernel size.

    Source: convolutions over characters, Zhang, Zhao & LeCun (2015), there deeper and wider.
    """
    check_kernel(kernel_size)
    return _chain(channels, widths, pool_after, kernel_size, dims=1)


def _chain(
    channels: int, widths: Sequence[int], pool_after: Sequence[int], kernel_size: int, dims: int
) -> nn.Sequential:
    convolution, norm, pool = (
        (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d)
        if dims == 2
        else (nn.Conv1d, nn.BatchNorm1d, nn.MaxPool1d)
    )
    widths, pool_after = _widths(widths, "(16, 32)"), list(pool_after)
    check_count(channels, "channels")
    for inputs, outputs in zip((channels, *widths), widths):
        check_layer(inputs, outputs, kernel_size**dims)
    if strange := set(pool_after) - set(range(1, len(widths) + 1)):
        raise ValueError(
            f"pool_after names layers {sorted(strange)}, but there are {len(widths)}; "
            f"use numbers from 1 to {len(widths)}."
        )
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


@explained()
def mlp(inputs: int, widths: Sequence[int] = (500, 500)) -> nn.Sequential:
    """A plain multilayer perceptron without a classifier: flatten, then linear + ReLU layers.

    Args:
        inputs: number of input values, C·H·W.
        widths: units of each layer.

    Returns:
        A Sequential of ``len(widths)`` layers named ``layer1``, …; input (B, ...), output
        (B, widths[-1]).
    """
    widths = _widths(widths, "(500, 500)")
    check_count(inputs, "inputs")
    for before, after in zip((inputs, *widths), widths):
        check_layer(before, after)
    layers = OrderedDict()
    for number, width in enumerate(widths, 1):
        parts = [nn.Linear(inputs, width), nn.ReLU()]
        layers[f"layer{number}"] = nn.Sequential(*([nn.Flatten()] if number == 1 else []), *parts)
        inputs = width
    return nn.Sequential(layers)


def _widths(widths: Sequence[int], example: str) -> list[int]:
    """The widths, each a count; at least one."""
    if isinstance(widths, str | bytes) or not isinstance(widths, Iterable):
        raise TypeError(
            f"widths must be a list, not {short_repr(widths)}; give for example {example}."
        )
    widths = list(widths)
    if not widths:
        raise ValueError(f"widths is empty; give at least one layer, e.g. {example}.")
    for width in widths:
        check_count(width, "widths")
    return widths


NETWORKS: dict[str, Callable[[int, tuple[int, ...]], nn.Sequential]] = {
    "cnn3": lambda channels, size: cnn(channels, (16, 32, 64), pool_after=(1, 2)),
    "cnn4": lambda channels, size: cnn(channels, (16, 32, 64, 64), pool_after=(1, 2, 4)),
    "cnn5": lambda channels, size: cnn(channels, (32, 64, 64, 128, 128), pool_after=(1, 2, 4)),
    "cnn1d": lambda channels, size: cnn1d(channels),
    "mlp": lambda channels, size: mlp(channels * math.prod(size), (500, 500)),
    "mlp3": lambda channels, size: mlp(channels * math.prod(size), (64, 64, 64)),
}
"""Networks by name, each a function of the data's channels and size, (H, W), (L,) or ()."""
