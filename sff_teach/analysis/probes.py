"""Analysis of trained networks: linear probes, CKA, goodness maps, block votes, calibration.

All functions use evaluation mode and do not change the network.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core import SFF, GoodnessHead
from ..util.checks import SFFError, check_labels, check_samples
from ..util.modes import evaluating

PENALTIES = (0.0003, 0.003, 0.03, 0.3, 3.0)  # values of C that linear_probe tries
BINS = 15  # of confidence, as in Guo et al.


# ---------------------------------------------------------------- features by depth


def block_features(model: SFF, images: Tensor) -> list[Tensor]:
    """The output h of every block, before the hand-over; one (B, C, ...) tensor per depth.

    For a network that ``bp`` or ``bp-goodness`` merged into one block, the outputs of the merged
    bodies.

    Args:
        model: from ``localize``.
        images: (B, C, ...).
    """
    _check(model, images)
    device = next(model.parameters()).device
    with evaluating(model):
        chunks = [[h.cpu() for h in _features(model, x.to(device))] for x in images.split(500)]
    return [torch.cat(depth) for depth in zip(*chunks)]


def _features(model: SFF, x: Tensor) -> list[Tensor]:
    merged = len(model.blocks) == 1 and isinstance(model.blocks[0].body, nn.Sequential)
    features = []
    for part in model.blocks[0].body if merged else model.blocks:
        h = part(x) if merged else part.body(x)
        x = h if merged else model.hand_over(part, h)
        features.append(h)
    return features


def pooled(features: Tensor, side: int = 3) -> Tensor:
    """Average maps to at most ``side`` × ``side`` and flatten: (B, C, H, W) → (B, C·side²).

    Args:
        features: maps (B, C, H, W).
        side: height and width afterwards.
    """
    size = [min(side, n) for n in features.shape[2:]]
    return F.adaptive_avg_pool2d(features, size).flatten(1)


# ---------------------------------------------------------------- linear probes


@dataclass(frozen=True)
class Probe:
    """A linear probe's accuracies, the C chosen on validation, and the chance level."""

    accuracy: float
    valid_accuracy: float
    penalty: float
    chance: float


def linear_probe(
    train: tuple[Tensor, Tensor],
    valid: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    penalties: Sequence[float] = PENALTIES,
) -> Probe:
    """The accuracy of a linear classifier on fixed features.

    scikit-learn's ``LogisticRegression`` on standardised features; the penalty is the one with the
    best validation accuracy, the strongest at a tie.

    Source: Alain and Bengio 2017, "Understanding intermediate layers using linear classifier
    probes".

    Args:
        train: features (N, ...), flattened here, and labels (N,).
        valid: the same, to choose the penalty by.
        test: the same, to measure on.
        penalties: values of C, the inverse strength of the L2 penalty.
    """
    from sklearn.linear_model import LogisticRegression  # slow to import
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    parts = []
    for x, y in (train, valid, test):
        x = torch.as_tensor(x).detach().cpu().flatten(1)
        check_samples(x, "features")
        parts.append((x.double().numpy(), torch.as_tensor(y).cpu().numpy()))
    train, valid, test = parts
    scores = {}
    for c in sorted(penalties):
        regression = LogisticRegression(C=c, max_iter=1000, tol=1e-3)
        model = make_pipeline(StandardScaler(), regression).fit(*train)
        scores[c] = float(model.score(*valid)), float(model.score(*test))
    best = max(scores, key=lambda c: scores[c][0])  # the strongest penalty at a tie
    values, counts = np.unique(train[1], return_counts=True)
    chance = float(np.mean(test[1] == values[counts.argmax()]))
    return Probe(scores[best][1], scores[best][0], float(best), chance)


# ---------------------------------------------------------------- similarity


def cka(a: Tensor, b: Tensor, unbiased: bool = True) -> float:
    """Linear centred kernel alignment: the similarity of two representations of the same images.

    ``CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))`` with ``K = A Aᵀ``, ``L = B Bᵀ``. It is 1 for
    features that differ by a rotation, a shift and one scale only.

    Source: Kornblith et al. 2019, "Similarity of neural network representations revisited";
    unbiased HSIC: Song et al. 2012, eq. 5, used in CKA by Nguyen et al. 2021.

    Args:
        a: (N, ...) features, flattened; N at least four.
        b: (N, ...) features of the same N images, of any width.
        unbiased: HSIC by the U-statistic, 0 on average for independent features.
    """
    a, b = (torch.as_tensor(x).detach().double().flatten(1) for x in (a, b))
    n = len(a)
    if n != len(b):
        raise SFFError(f"a holds {n} images and b {len(b)}; give features of the same images.")
    if n < 4:
        raise SFFError(f"a and b hold {n} images; CKA needs at least four.")
    a, b = a - a.mean(0), b - b.mean(0)  # for precision: HSIC is invariant to shifts
    k, l = a @ a.T, b @ b.T  # (N, N) each  # noqa: E741
    hsic = _hsic_unbiased if unbiased else _hsic_plain
    kk, ll = hsic(k, k), hsic(l, l)
    if min(kk, ll) <= 1e-20:
        raise SFFError("a or b hardly changes between images; CKA is not defined for it.")
    return float(hsic(k, l) / (kk * ll) ** 0.5)


def _hsic_plain(k: Tensor, l: Tensor) -> float:  # noqa: E741
    """tr(K H L H) / (N - 1)², with H the centring matrix; K and L are centred already."""
    return float((k * l).sum()) / (len(k) - 1) ** 2


def _hsic_unbiased(k: Tensor, l: Tensor) -> float:  # noqa: E741
    """Song et al. 2012, eq. 5, with the diagonals set to 0."""
    n = len(k)
    k, l = (m - m.diag().diag() for m in (k, l))  # noqa: E741
    trace = (k * l).sum()
    means = k.sum() * l.sum() / ((n - 1) * (n - 2))
    rows = 2 * (k.sum(0) * l.sum(0)).sum() / (n - 2)
    return float(trace + means - rows) / (n * (n - 3))


def cka_matrix(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """``cka`` of every layer of one network with every layer of another: (layers a, layers b).

    Args:
        a: features (N, ...) of one network, layer by layer.
        b: features of the other, of the same images.
    """
    return torch.tensor([[cka(x, y) for y in b] for x in a])


# ---------------------------------------------------------------- goodness and votes


def goodness_maps(model: SFF, images: Tensor) -> list[Tensor]:
    """Every block's evidence for every class by position: ``z²``, (B, K, H, W) per block.

    Averaged over the filters of a class. The mean over positions is the class goodness.

    Source: Krutsylo 2025 for z²; a map of class evidence under global averaging is the class
    activation map of Zhou et al. 2016.

    Args:
        model: with goodness heads.
        images: (B, C, H, W), or sequences (B, C, L).
    """
    _check(model, images)
    if not all(isinstance(block.head, GoodnessHead) for block in model.blocks):
        raise SFFError("rule='bp' left model a head without goodness; train it with 'sff'")
    maps, x = [], images.to(next(model.parameters()).device)
    with evaluating(model):
        for block in model.blocks:
            h = block.body(x)
            z = block.head.activation(h)  # (B, K·filters, H, W)
            z = z.unflatten(1, (block.head.num_classes, block.head.filters))
            maps.append(z.square().mean(2))
            x = model.hand_over(block, h)
    return maps


def block_votes(model: SFF, images: Tensor) -> Tensor:
    """(B, C, ...) → (B, blocks): the class with the highest goodness in each block.

    Args:
        model: from ``localize``.
        images: (B, C, ...).
    """
    _check(model, images)
    with evaluating(model):
        return model.block_goodness(images.to(next(model.parameters()).device)).argmax(2).cpu()


def disagreement(votes: Tensor) -> Tensor:
    """(B, blocks) → (blocks, blocks): share of the images on which two blocks' votes differ.

    Source: the disagreement measure of Kuncheva and Whitaker 2003, of votes instead of errors.
    """
    return (votes[:, :, None] != votes[:, None, :]).double().mean(0)


# ---------------------------------------------------------------- calibration


@dataclass(frozen=True)
class Bin:
    """One row of a reliability table: of n images with confidence in (low, high]."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


def reliability(goodness: Tensor, y: Tensor) -> list[Bin]:
    """Confidence and accuracy of ``softmax(goodness)`` in 15 bins, without empty ones.

    Source: Guo et al. 2017, "On calibration of modern neural networks".

    Args:
        goodness: (B, K) voted goodness, or any logits.
        y: (B,) labels.
    """
    check_labels(y, goodness.shape[1], length=len(goodness))
    confidence, choice = goodness.detach().double().softmax(1).max(1)
    right = (choice == y.to(choice.device)).double()
    place = (confidence * BINS).ceil().long().clamp(1, BINS) - 1  # (low, high]
    rows = []
    for i in place.unique().tolist():
        in_bin = place == i
        means = confidence[in_bin].mean().item(), right[in_bin].mean().item()
        rows.append(Bin(i / BINS, (i + 1) / BINS, int(in_bin.sum()), *means))
    return rows


def expected_calibration_error(goodness: Tensor, y: Tensor) -> float:
    """``ECE = Σ_b (n_b / B) |accuracy_b - confidence_b|``, a fraction; see ``reliability``.

    Args:
        goodness: (B, K) voted goodness, or any logits.
        y: (B,) labels.

    Source: Guo et al. 2017, eq. 3.
    """
    rows = reliability(goodness, y)
    return sum(row.n * abs(row.accuracy - row.confidence) for row in rows) / len(y)


def _check(model: object, images: Tensor) -> None:
    check_samples(images, "images")
    if not isinstance(model, SFF):
        raise TypeError(f"model is a {type(model).__name__}; use sff_teach.localize(model, …)")
