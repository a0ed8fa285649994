"""Statistics that more than one room needs."""

from collections.abc import Sequence

import numpy as np
from scipy import stats


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % confidence interval by Student's t; NaN bounds for a single value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    error = stats.sem(values)
    if error == 0:
        return mean, mean, mean
    low, high = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=error)
    return mean, float(low), float(high)


def paired_p_value(n: int, mean: float, low: float, high: float, threshold: float = 0.0) -> float:
    """Two-sided p value of a mean against a threshold, from its 95 % interval by Student's t.

    Args:
        n: number of values, at least 2.
        mean: their mean.
        low: lower end of its 95 % interval.
        high: upper end.
        threshold: what the mean is compared with.
    """
    error = (high - low) / 2 / stats.t.ppf(0.975, n - 1)
    if error == 0:
        return float(mean == threshold)
    return float(2 * stats.t.sf(abs(mean - threshold) / error, n - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction for several tests: the corrected p values, in the order given."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected
