"""Hinton's Forward-Forward: the label is written into the image, right or wrong.

A positive is an image with its own label in its first K pixels, a negative one with a wrong label.
Every layer is trained on its own loss to have high goodness for positives and low for negatives:
``ff_step``.
"""

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from .core import hand_over
from .goodness import mean_squares, sum_squares
from .losses import logistic_loss, symba_loss
from .util.checks import SFFError, check_count, check_known, check_labels, check_positive
from .util.modes import evaluating

GOODNESS = {"mean": mean_squares, "sum": sum_squares}
DEFAULT_SLOPE = {"mean": 10.0, "sum": 1.0}
LABEL_VALUE = 3.0
LEARNING_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def _check_pixels(x: Tensor, num_classes: int) -> None:
    """Raise unless x is (B, C, H, W) with a pixel for every class."""
    check_count(num_classes, "num_classes")
    if x.dim() != 4 or x.shape[2] * x.shape[3] < num_classes:
        raise SFFError(f"x {tuple(x.shape)} must be (B, C, H, W) with {num_classes} pixels or more")


def _write_label(x: Tensor, label: Tensor) -> Tensor:
    """Copy x (B, C, H, W) with label (B, K) as the first K pixels of the first channel."""
    x = x.clone(memory_format=torch.contiguous_format)
    x.view(*x.shape[:2], -1)[:, 0, : label.shape[1]] = label
    return x


def embed_label(x: Tensor, y: Tensor, num_classes: int, *, high: float = LABEL_VALUE) -> Tensor:
    """Write the label into a copy of x: pixel k of the first K is ``high`` if k = y, else 0.

    "First" is row by row in the first channel. In standardised images 0 is the mean grey.

    Source: Hinton 2022, section 3.3. Differs in ``high``: he writes 1 into MNIST in [0, 1].

    Args:
        x: (B, C, H, W) images with H·W ≥ K.
        y: (B,) labels in [0, K).
        num_classes: K.
        high: value of the pixel that stands for the label.
    """
    check_labels(y, num_classes, length=len(x))
    _check_pixels(x, num_classes)
    return _write_label(x, F.one_hot(y, num_classes).to(x) * high)


def neutral_label(x: Tensor, num_classes: int, *, high: float = LABEL_VALUE) -> Tensor:
    """Write the mean of the K embeddings into a copy of x: ``high / K`` in the first K pixels.

    Args:
        x: (B, C, H, W) images with H·W ≥ K.
        num_classes: K.
        high: value of the pixel that stands for a label.
    """
    _check_pixels(x, num_classes)
    return _write_label(x, x.new_full((len(x), num_classes), high / num_classes))


def wrong_labels(y: Tensor, num_classes: int, generator: Generator | None = None) -> Tensor:
    """Draw labels uniformly from the K - 1 wrong ones, ``(y + r) mod K``: never the true one.

    Args:
        y: (B,) labels in [0, K).
        num_classes: K.
        generator: of the random numbers.
    """
    check_count(num_classes, "num_classes", minimum=2)
    check_labels(y, num_classes)
    device = y.device if generator is None else generator.device
    shift = torch.randint(1, num_classes, y.shape, generator=generator, device=device)
    return (y + shift.to(y.device)) % num_classes


def hard_labels(g: Tensor, y: Tensor, generator: Generator | None = None) -> Tensor:
    """Draw wrong labels by the network's own goodness: never the true one.

    Class k ≠ y has probability ``exp g_k / Σ_{j ≠ y} exp g_j``.

    Args:
        g: (B, K) goodness or logits.
        y: (B,) labels in [0, K).
        generator: of the random numbers.
    """
    check_labels(y, g.shape[1], length=len(g))
    wrong = g.nan_to_num().scatter(1, y[:, None], float("-inf"))  # fit reports a loss of NaN
    p = wrong.softmax(1).to(g.device if generator is None else generator.device)
    return torch.multinomial(p, 1, generator=generator).squeeze(1).to(y.device)


class FFNetwork(nn.Module):
    """A chain of layers trained to tell images with their own label from images with a wrong one.

    Every layer's input, the image included, is divided by its length, so that the goodness of one
    layer is not an input of the next. The prediction is the label with the highest goodness.

    Source: Hinton 2022; SymBa 2023. Differs: mean goodness with slope 10; the read-out sees
    convolutions averaged over positions.

    Args:
        layers: bodies in order, e.g. ``models.mlp(784)`` or ``models.cnn()``.
        num_classes: K.
        goodness: ``"mean"`` or ``"sum"`` of squares.
        theta: threshold; None for 1 with ``"mean"`` and the number of activations with ``"sum"``.
        slope: in the loss, ``p(positive) = sigmoid(slope·(g - θ))``, SymBa's α; None for 10 with
            ``"mean"`` and 1 with ``"sum"``.
        loss: ``"logistic"`` or ``"symba"`` (no θ).
        negatives: wrong labels, ``"random"``; drawn by the probabilities of the ``"readout"``
            (Hinton's; one more pass); or ``"hard"``, drawn by goodness (K passes).
        vote: mean of all layers ``"but-first"`` (Hinton), of all (``"mean"``), or the ``"last"``.
        high: value of the label's "on" pixel, see ``embed_label``.
    """

    def __init__(
        self,
        layers: Iterable[nn.Module],
        num_classes: int,
        *,
        goodness: str = "mean",
        theta: float | None = None,
        slope: float | None = None,
        loss: str = "logistic",
        negatives: str = "random",
        vote: str = "but-first",
        high: float = LABEL_VALUE,
    ):
        super().__init__()
        check_count(num_classes, "num_classes", minimum=2)
        check_known(goodness, GOODNESS, "goodness")
        check_known(loss, ("logistic", "symba"), "loss")
        check_known(negatives, ("random", "readout", "hard"), "negatives")
        check_known(vote, ("but-first", "mean", "last"), "vote")
        if loss == "symba" and theta is not None:
            raise SFFError('loss="symba" has no threshold; leave theta out')
        self.layers = nn.ModuleList(layers)
        self.num_classes = num_classes
        self.goodness = goodness
        self.theta = theta
        self.slope = DEFAULT_SLOPE[goodness] if slope is None else slope
        self.loss = loss
        self.negatives = negatives
        self.vote = vote
        self.high = high
        check_positive(high=high, slope=self.slope, theta=1.0 if theta is None else theta)
        self.layer_goodness = GOODNESS[goodness]  # (B, ...) → (B,)
        self.embed = partial(embed_label, num_classes=num_classes, high=high)  # x, y → x
        # The layers before it neither vote nor feed the read-out.
        self.first_voter = min(1, len(self.layers) - 1)
        self.readout = nn.Linear(self._readout_width(), num_classes)

    def _readout_width(self) -> int:
        """Units or channels of the layers that feed the read-out."""
        widths = []
        for layer in self.layers:
            learning = [m for m in layer.modules() if isinstance(m, LEARNING_LAYERS)]
            if not learning:
                raise SFFError("every layer needs a linear map or a convolution that learns")
            widths.append(learning[-1].weight.shape[0])
        if not widths:
            raise SFFError("layers is empty; give for example models.mlp(784)")
        return sum(widths[self.first_voter :])

    def layer_loss(self, positive: Tensor, negative: Tensor, activations: int) -> Tensor:
        """The loss of a layer from the goodness (B,) of positives and of their negatives.

        With ``"sum"``, the default of θ is its number of ``activations`` per sample.
        """
        if self.loss == "symba":
            return symba_loss(positive, negative, alpha=self.slope)
        theta = self.theta or (1.0 if self.goodness == "mean" else activations)
        return logistic_loss(self.slope * positive, self.slope * negative, self.slope * theta)

    def features(self, x: Tensor) -> list[Tensor]:
        """Every layer's activations for images that already carry a label."""
        activations = [x]
        for layer in self.layers:
            activations.append(layer(hand_over(activations[-1], "length")))
        return activations[1:]

    def block_goodness(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, layers, K): K passes, each with another label, B images at a time."""
        passes = []
        for y in torch.arange(self.num_classes, device=x.device)[:, None].expand(-1, len(x)):
            activations = self.features(self.embed(x, y))
            passes.append(torch.stack([self.layer_goodness(h) for h in activations], dim=1))
        return torch.stack(passes, dim=2)

    def combine(self, goodness: Tensor, vote: str | None = None) -> Tensor:
        """(B, layers, K) → (B, K) by a vote; None for this network's own."""
        starts = {"but-first": self.first_voter, "mean": 0, "last": -1}
        check_known(vote or self.vote, starts, "vote")
        start = starts[vote or self.vote]
        return goodness[:, start:].mean(1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, K): the voted goodness of each label."""
        return self.combine(self.block_goodness(x))

    def predict(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B,): the label with the highest goodness. Call ``eval()`` first."""
        with torch.no_grad():
            return self(x).argmax(1)

    def neutral_features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, D): normalised activations of all layers but the first, no label."""
        activations = self.features(neutral_label(x, self.num_classes, high=self.high))
        hidden = [hand_over(h, "length") for h in activations[self.first_voter :]]
        return torch.cat([h.reshape(*h.shape[:2], -1).mean(2) for h in hidden], dim=1)

    def predict_one_pass(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B,) by the read-out, in one pass; see ``readout_step``."""
        with torch.no_grad():
            return self.readout(self.neutral_features(x)).argmax(1)

    def negative_labels(self, x: Tensor, y: Tensor, generator: Generator | None = None) -> Tensor:
        """(B,) wrong labels for images x with labels y, drawn as ``negatives`` says."""
        if self.negatives == "random":
            return wrong_labels(y, self.num_classes, generator)
        with evaluating(self):
            if self.negatives == "readout":
                return hard_labels(self.readout(self.neutral_features(x)), y, generator)
            return hard_labels(self.slope * self(x), y, generator)


def ff_step(
    network: FFNetwork,
    x: Tensor,
    y: Tensor,
    optimizers: Sequence[Optimizer],
    generator: Generator | None = None,
    readout_optimizer: Optimizer | None = None,
    only: int | None = None,
) -> tuple[Tensor, Tensor]:
    """One minibatch of Forward-Forward: every layer learns before the next one starts.

    Returns the losses (layers,), and (layers,) samples with higher goodness as positive.

    Source: Hinton 2022. Positives and negatives form one batch of 2B: separate batches would be
    normalised separately by BatchNorm, which removes their difference.

    Args:
        network: in training mode.
        x: (B, C, H, W) images without labels.
        y: (B,) labels.
        optimizers: one per layer.
        generator: for the negatives.
        readout_optimizer: the read-out's, if it is to learn as well.
        only: number of the one layer that learns, for greedy training.
    """
    if len(optimizers) != len(network.layers):
        raise SFFError(f"{len(optimizers)} optimizers for {len(network.layers)} layers")
    h = torch.cat([network.embed(x, y), network.embed(x, network.negative_labels(x, y, generator))])
    losses, correct = [], []
    for k, (layer, optimizer) in enumerate(zip(network.layers, optimizers, strict=True)):
        learns = only is None or only == k
        layer.train(learns and network.training)  # BatchNorm of the others keeps its statistics
        with torch.set_grad_enabled(learns):
            h = layer(hand_over(h, "length"))  # (2B, ...): cut, normalised, transformed
            positive, negative = network.layer_goodness(h).chunk(2)  # (B,), (B,)
            loss = network.layer_loss(positive, negative, activations=h[0].numel())
        if learns:
            optimizer.zero_grad()
            loss.backward()  # reaches this layer only, and frees its graph
            optimizer.step()
        losses.append(loss)
        correct.append((positive > negative).sum())
    if readout_optimizer is not None:
        readout_step(network, x, y, readout_optimizer)
    with torch.no_grad():
        return torch.stack(losses), torch.stack(correct)


def readout_step(network: FFNetwork, x: Tensor, y: Tensor, optimizer: Optimizer) -> None:
    """Train the softmax read-out on one minibatch of neutral-label activations.

    Args:
        network: its layers are not changed.
        x: (B, C, H, W) images without labels.
        y: (B,) labels.
        optimizer: of ``network.readout``.
    """
    with evaluating(network):
        features = network.neutral_features(x)  # (B, D), no gradient to the layers
    loss = F.cross_entropy(network.readout(features), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
