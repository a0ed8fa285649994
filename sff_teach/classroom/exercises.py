"""Small helpers for the course's notebooks."""

import torch
from torch import Tensor

from ..util.checks import escape_unprintable, explained, short_repr


@explained()
def check_equal(
    name: str, mine: Tensor | float, reference: Tensor | float, atol: float = 1e-5
) -> None:
    """Say how close a by-hand result is to the reference; fail if it is not close.

    Prints "exact", or "close" with the largest difference. A value may be off by ``atol`` × the
    largest reference value, or by ``atol`` itself where that is below 1: 1e-5 is some hundred
    roundings of float32. For small values, such as gradients, give a smaller one.

    Raises:
        AssertionError: shapes differ, or a value is off by more than ``atol``.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, not {short_repr(name)}; say what is compared.")
    name = escape_unprintable(name)
    mine, reference = torch.as_tensor(mine), torch.as_tensor(reference)
    if mine.shape != reference.shape:
        raise AssertionError(
            f"{name}: your result has shape {tuple(mine.shape)}, the reference "
            f"{tuple(reference.shape)}."
        )
    with torch.no_grad():
        off = (mine.double() - reference.double()).abs().max().item() if mine.numel() else 0.0
        scale = max(reference.double().abs().max().item(), 1.0) if mine.numel() else 1.0
    if not off <= atol * scale:
        raise AssertionError(f"{name}: not equal, the largest difference is {off:.3g}.")
    print(f"✓ {name}: " + ("exact" if off == 0 else f"close, largest difference {off:.1e}"))
