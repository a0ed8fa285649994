"""Choosing samples: class-balanced fractions, and samples held out for validation or test."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..util.checks import SFFError, check_fraction, check_seed

SPLIT_SEED = 0  # of validation and test splits, which do not depend on the user's seed


def take_fraction(
    y: Tensor | np.ndarray | Sequence[int],
    fraction: float,
    seed: int = 0,
    *,
    classes: Sequence[str] | None = None,
) -> Tensor:
    """Positions of a class-balanced subset: of the n samples of a class, round(fraction · n).

    The subsets of one seed are nested, each a prefix of the next.

    Args:
        y: labels (N,).
        fraction: in (0, 1].
        seed: draws the order of the samples.
        classes: names for the error message.
    """
    check_fraction(fraction)
    check_seed(seed)
    y = torch.as_tensor(y).cpu().numpy()
    order, share = _balanced_order(y, seed)
    numbers, counts = np.unique(y, return_counts=True)
    rarest = int(counts.argmin())
    n = counts[rarest]
    if fraction < 0.5 / n - 1e-9:
        name = numbers[rarest] if classes is None else classes[int(numbers[rarest])]
        raise SFFError(f'fraction={fraction:g} takes none of class "{name}"; use 1/{2 * n} or more')
    return torch.from_numpy(order[share <= fraction + 1e-9])


def hold_out(y: np.ndarray, share: float, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hold out the same share of every class: positions kept, and positions held out.

    Args:
        y: labels (N,).
        share: in [0, 1).
        classes: names for the error message.
    """
    if share == 0:
        return np.arange(len(y)), np.arange(0)
    order, needed = _balanced_order(y, SPLIT_SEED)
    taken = needed <= share + 1e-9
    counts = np.bincount(y, minlength=len(classes))
    held_counts = np.bincount(y[order[taken]], minlength=len(classes))
    for name, n, out in zip(classes, counts, held_counts, strict=True):
        if not 0 < out < n:
            enough = f", or 1/{2 * n} or more" if out == 0 and n > 1 else ""
            raise SFFError(f'validation={share:g} takes {out} of {n} of "{name}"; use 0{enough}')
    return np.sort(order[~taken]), order[taken]


def _balanced_order(y: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """All positions in the order of growing fractions, and the fraction from which on each is
    included, (rank within the class + ½) / class size; both (N,)."""
    random = np.random.RandomState(seed)  # its stream is frozen, unlike default_rng's
    share = np.empty(len(y))
    for k in np.unique(y):
        members = random.permutation(np.flatnonzero(y == k))
        share[members] = (np.arange(len(members)) + 0.5) / len(members)
    order = np.lexsort((y, share))
    return order, share[order]
