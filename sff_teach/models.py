"""Small networks to learn on. Bigger ones come from torchvision, unmodified."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import nn


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
    if not widths:
        raise ValueError("widths is empty; give at least one layer, e.g. (16, 32).")
    if strange := set(pool_after) - set(range(1, len(widths) + 1)):
        raise ValueError(
            f"pool_after names layers {sorted(strange)}, but there are {len(widths)}; "
            f"use numbers from 1 to {len(widths)}."
        )
    layers = OrderedDict()
    for number, width in enumerate(widths, 1):
        parts = [
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        if number in pool_after:
            parts.append(nn.MaxPool2d(2))
        layers[f"layer{number}"] = nn.Sequential(*parts)
        channels = width
    return nn.Sequential(layers)


def mlp(inputs: int, widths: Sequence[int] = (500, 500)) -> nn.Sequential:
    """A plain multilayer perceptron without a classifier: flatten, then linear + ReLU layers.

    Args:
        inputs: number of input values, C·H·W.
        widths: units of each layer.

    Returns:
        A Sequential of ``len(widths)`` layers named ``layer1``, …; input (B, ...), output
        (B, widths[-1]).
    """
    if not widths:
        raise ValueError("widths is empty; give at least one layer, e.g. (500, 500).")
    layers = OrderedDict()
    for number, width in enumerate(widths, 1):
        parts = [nn.Linear(inputs, width), nn.ReLU()]
        layers[f"layer{number}"] = nn.Sequential(*([nn.Flatten()] if number == 1 else []), *parts)
        inputs = width
    return nn.Sequential(layers)


NETWORKS: dict[str, Callable[[int, tuple[int, int]], nn.Sequential]] = {
    "cnn3": lambda channels, size: cnn(channels, (16, 32, 64), pool_after=(1, 2)),
    "cnn4": lambda channels, size: cnn(channels, (16, 32, 64, 64), pool_after=(1, 2, 4)),
    "cnn5": lambda channels, size: cnn(channels, (32, 64, 64, 128, 128), pool_after=(1, 2, 4)),
    "mlp": lambda channels, size: mlp(channels * size[0] * size[1], (500, 500)),
}
"""Networks by name, each a function of the image's channels and size."""
