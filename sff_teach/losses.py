"""Losses. Each is a function of goodness alone."""

from torch import Tensor
from torch.nn import functional as F

from .util.checks import SFFError


def logistic_loss(positive: Tensor, negative: Tensor, theta: float) -> Tensor:
    """Hinton's loss: positives above the threshold θ, negatives below it.

    ``mean softplus(θ - g_pos) + mean softplus(g_neg - θ)``, halved: the binary cross-entropy of
    ``p(positive) = sigmoid(g - θ)``. Softplus does not overflow.

    Source: Hinton, "The Forward-Forward Algorithm", 2022, section 2.

    Args:
        positive: (B,) goodness of positive samples.
        negative: (B',) goodness of negative samples.
        theta: threshold, in units of goodness.

    Returns:
        Scalar; ``log 2`` when every goodness equals θ.
    """
    return (F.softplus(theta - positive).mean() + F.softplus(negative - theta).mean()) / 2


def symba_loss(positive: Tensor, negative: Tensor, alpha: float = 4.0) -> Tensor:
    """SymBa's loss of the difference between a positive and its own negative, without threshold.

    ``mean softplus(-α (g_pos - g_neg))``.

    Source: Lee and Song, "SymBa", 2023.

    Args:
        positive: (B,) goodness of positive samples.
        negative: (B,) goodness of the negatives made from the same samples.
        alpha: slope.

    Returns:
        Scalar; ``log 2`` at equal goodness.
    """
    if positive.shape != negative.shape:
        raise SFFError(
            f"positives {tuple(positive.shape)} and negatives {tuple(negative.shape)} must be pairs"
        )
    return F.softplus(-alpha * (positive - negative)).mean()


def class_loss(g: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """SFF's loss: the true class is the positive, every other class a negative.

    ``mean of -(g_y - log Σ_j exp g_j)``. This *is* cross-entropy with goodness as the logits, and
    equals ``softplus(logsumexp of the other classes - g_y)``, a smooth margin.

    Source: Krutsylo, "Scalable Forward-Forward Algorithm", 2025. The sum runs over all classes;
    over the negatives alone it would have no lower bound. Soft labels and label smoothing are ours.

    Args:
        g: (B, K) class goodness.
        y: (B,) int64 labels in [0, K), or (B, K) shares of the classes, such as mixup makes.
        label_smoothing: share of the target that is spread evenly over the classes.

    Returns:
        Scalar; ``log K`` when all classes have equal goodness.
    """
    return F.cross_entropy(g, y, label_smoothing=label_smoothing)
