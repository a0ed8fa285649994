"""Comparisons for exercises."""

import torch
from torch import Tensor


def check_equal(
    name: str, mine: Tensor | float, reference: Tensor | float, atol: float = 1e-5
) -> None:
    """Print how close your result is to the reference; fail if it is not close.

    Args:
        name: What is compared.
        mine: Your result.
        reference: The right one, of the same shape.
        atol: How far a value may be off, times the largest reference value where that is above 1.
            1e-5 is some hundred roundings of float32; small values, such as gradients, need less.

    Raises:
        AssertionError: Shapes differ, or a value is off by more than ``atol``.
    """
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
