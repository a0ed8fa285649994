"""Losses: what to ask of goodness. Every one is a function of goodness alone."""

from torch import Tensor
from torch.nn import functional as F


def logistic_loss(positive: Tensor, negative: Tensor, theta: float) -> Tensor:
    """Hinton's loss: positives above the threshold θ, negatives below it.

    ``mean softplus(θ - g_pos) + mean softplus(g_neg - θ)``, halved: the binary cross-entropy of
    ``p(positive) = sigmoid(g - θ)``.

    Args:
        positive: (B,) goodness of positive samples. negative: (B',) of negative samples.
        theta: threshold, in units of goodness.

    Returns:
        Scalar; ``log 2`` when every goodness equals θ.

    Source: Hinton 2022, section 2. Written with softplus, which does not overflow.
    """
    return (F.softplus(theta - positive).mean() + F.softplus(negative - theta).mean()) / 2


def symba_loss(positive: Tensor, negative: Tensor, alpha: float = 4.0) -> Tensor:
    """SymBa's loss: only the difference of a positive and its own negative counts, no threshold.

    ``mean softplus(-α (g_pos - g_neg))``.

    Args:
        positive: (B,) goodness of positive samples.
        negative: (B,) goodness of the negatives made from the same samples.
        alpha: slope.

    Returns:
        Scalar; ``log 2`` at equal goodness.

    Raises:
        ValueError: the two have different lengths.

    Source: SymBa, 2023.
    """
    if positive.shape != negative.shape:
        raise ValueError(
            f"positive {tuple(positive.shape)} and negative {tuple(negative.shape)} differ in "
            "shape; symba_loss compares each positive with its own negative."
        )
    return F.softplus(-alpha * (positive - negative)).mean()


def class_loss(g: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """SFF's loss: the true class is the positive, every other class a negative.

    ``mean of -(g_y - log Σ_j exp g_j)``. This *is* cross-entropy with goodness as the logits, and
    equals ``softplus(logsumexp of the other classes - g_y)``, a smooth margin.

    Args:
        g: (B, K) class goodness. y: (B,) int64 labels in [0, K).
        label_smoothing: share of the target spread evenly over the classes.

    Returns:
        Scalar; ``log K`` when all classes are equally good.

    Source: Krutsylo 2025, where the sum runs over all classes; over the negatives alone it would
    have no lower bound. Label smoothing is ours, off by default.
    """
    return F.cross_entropy(g, y, label_smoothing=label_smoothing)
