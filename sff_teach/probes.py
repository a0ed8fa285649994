"""What a trained network knows layer by layer: probes, similarity of features, calibration."""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from ._modes import looking
from .core import SFF, GoodnessHead


def features(
    model: SFF, images: Tensor, layers: Sequence[nn.Module] | None = None, batch_size: int = 500
) -> list[Tensor]:
    """The output of each layer, as the network itself computes it in evaluation mode.

    Args:
        model: of any rule. images: (N, C, H, W).
        layers: modules inside the model, in order; None for the bodies of its blocks. Networks that
            ``bp`` joined into one block still hold the layers of the original. A Sequential stands
            for its last module: blocks that ``localize`` cut call its parts, not itself.
        batch_size: images at a time.

    Returns:
        One tensor (N, C', H', W') per layer.

    Raises:
        ValueError: a layer that the network does not run.
    """
    layers = [block.body for block in model.blocks] if layers is None else map(_last, layers)
    layers = list(layers)
    outputs: list[list[Tensor]] = [[] for _ in layers]
    handles = [
        layer.register_forward_hook(lambda _, __, h, kept=kept: kept.append(h))
        for layer, kept in zip(layers, outputs, strict=True)
    ]
    try:
        with looking(model):
            for x in images.split(batch_size):
                model.block_goodness(x)
    finally:
        for handle in handles:
            handle.remove()
    for number, kept in enumerate(outputs, 1):
        if not kept:
            raise ValueError(f"layer {number} of layers never ran; give modules of this model.")
    return [torch.cat(kept) for kept in outputs]


def _last(layer: nn.Module) -> nn.Module:
    while isinstance(layer, nn.Sequential) and len(layer):
        layer = layer[-1]
    return layer


def linear_cka(a: Tensor, b: Tensor) -> float:
    """Linear centred kernel alignment: how alike two sets of features of the same images are.

    ``‖Bᵀ A‖² / (‖Aᵀ A‖ ‖Bᵀ B‖)`` with centred columns and Frobenius norms; 1 for features that are
    equal up to rotation, shift and scale. It grows when there are few images for many features: use
    some hundreds, and compare with the value between two networks of the same kind.

    Args:
        a: (N, ...) features. b: (N, ...) others of the same N images; flattened.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: different numbers of images, or features that do not vary.

    Source: Kornblith et al., "Similarity of Neural Network Representations Revisited", 2019.
    """
    if len(a) != len(b):
        raise ValueError(f"a has {len(a)} images and b has {len(b)}; give the same images.")
    # By Gram matrices (N, N): maps have more numbers than there are images.
    grams = []
    for name, h in (("a", a), ("b", b)):
        h = h.flatten(1).double()
        h = h - h.mean(0)
        gram = h @ h.T
        if not gram.norm() > 0:
            raise ValueError(f"{name} is the same for all images; features must vary.")
        grams.append(gram)
    return float((grams[0] * grams[1]).sum() / (grams[0].norm() * grams[1].norm()))


def linear_probe(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], side: int = 2) -> float:
    """Test accuracy of logistic regression on features: what a linear reader finds in them.

    Maps are averaged to ``side`` × ``side`` positions, standardised, and read by scikit-learn's
    ``LogisticRegression`` (C = 0.1, fixed).

    Args:
        train, test: features (N, C, H, W) or (N, D), and labels (N,).
        side: positions kept in each direction.
    """

    def flat(h: Tensor) -> np.ndarray:
        if h.dim() == 4:
            h = F.adaptive_avg_pool2d(h, (min(side, h.shape[2]), min(side, h.shape[3])))
        return h.flatten(1).numpy()

    reader = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
    reader.fit(flat(train[0]), train[1].numpy())
    return float(reader.score(flat(test[0]), test[1].numpy()))


def goodness_maps(model: SFF, x: Tensor) -> list[Tensor]:
    """Where in the image each block sees evidence for each class: z² by position.

    The mean of a map over its positions is that class's goodness: the map is what is averaged.

    Args:
        model: with goodness heads. x: (B, C, H, W).

    Returns:
        Per block (B, K, H', W').

    Raises:
        ValueError: a head that is not a goodness head.
    """
    maps = []
    with looking(model):
        for block in model.blocks:
            if not isinstance(block.head, GoodnessHead):
                raise ValueError(
                    f"a block has a {type(block.head).__name__}, which has no goodness; "
                    "train by sff, deepsup or bp-goodness."
                )
            h, _ = block(x)
            z = block.head.activation(h).square()  # (B, K·filters, H', W')
            maps.append(z.unflatten(1, (block.head.num_classes, -1)).mean(2))
            x = model.hand_over(block, h)
    return maps


def disagreement(goodness: Tensor) -> Tensor:
    """How often two blocks predict different classes: (N, blocks, K) → (blocks, blocks)."""
    votes = goodness.argmax(2)  # (N, blocks)
    return (votes[:, :, None] != votes[:, None, :]).float().mean(0)


def calibration(goodness: Tensor, y: Tensor, bins: int = 15) -> list[dict]:
    """The reliability table of softmax(goodness): per bin of confidence, how often it was right.

    Args:
        goodness: (N, K). y: (N,). bins: of equal width in [0, 1].

    Returns:
        Per filled bin ``low``, ``high``, ``count``, mean ``confidence`` and ``accuracy``.
    """
    confidence, predicted = goodness.softmax(1).max(1)
    right = (predicted == y).float()
    number = (confidence * bins).ceil().long().clamp(1, bins) - 1  # bins (low, high]
    table = []
    for i in range(bins):
        inside = number == i
        if inside.any():
            table.append(
                {
                    "low": i / bins,
                    "high": (i + 1) / bins,
                    "count": int(inside.sum()),
                    "confidence": float(confidence[inside].mean()),
                    "accuracy": float(right[inside].mean()),
                }
            )
    return table


def expected_calibration_error(goodness: Tensor, y: Tensor, bins: int = 15) -> float:
    """``Σ_bins (count / N) |accuracy - confidence|``: how far stated confidence is from the truth.

    Args and bins as in ``calibration``.

    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017.
    """
    table = calibration(goodness, y, bins)
    return sum(r["count"] * abs(r["accuracy"] - r["confidence"]) for r in table) / len(y)
