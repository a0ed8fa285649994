"""Measuring a network, block by block."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..core import SFF
from ..forward_forward import FFNetwork
from ..rules import wrap_classifier
from ..util.checks import SFFError, check_fits, check_module
from ..util.modes import evaluating
from .loader import Data, Loader, lay_out, pick_layout

BATCH = 500  # samples at a time


@dataclass(frozen=True)
class Evaluation:
    """The accuracy and loss of a network on a data set.

    Attributes:
        accuracy: of the vote, in [0, 1].
        block_accuracy: of each block alone.
        loss: the mean cross-entropy of the vote.
        n: the number of samples.
    """

    accuracy: float
    block_accuracy: list[float]
    loss: float
    n: int

    def row(self) -> dict:
        """The values under their names in a History."""
        return {
            "valid_accuracy": self.accuracy,
            "valid_loss": self.loss,
            "valid_block_accuracy": self.block_accuracy,
        }


def evaluate(model: nn.Module, data: Data, *, vote: str | None = None) -> Evaluation:
    """Measure a network on a data set, block by block; nothing in the network changes.

    Args:
        model: as for ``fit``; evaluated in evaluation mode, then put back into the mode it was in.
        data: as for ``fit``.
        vote: ``"mean"``, ``"last"`` or another of the model's votes; None for its default.

    Raises:
        SFFError: data or labels that do not fit the network, an unknown vote.
        TypeError: data of the wrong kind.
    """
    return evaluate_votes(model, data, (vote,))[0]


def evaluate_votes(model: nn.Module, data: Data, votes: Sequence[str | None]) -> list[Evaluation]:
    """``evaluate`` with several votes from a single pass over the data: one Evaluation per vote.

    Args:
        model: as for ``evaluate``.
        data: as for ``evaluate``.
        votes: names, or None for the model's default.
    """
    check_module(model)
    loader = Loader(data, "data")
    device = next(model.parameters()).device
    network = as_network(model, loader, device)
    channels_last = pick_layout(None, network, loader.sample, device)
    return measure(network, loader, channels_last, votes)


def as_network(model: nn.Module, loader: Loader, device: torch.device) -> SFF | FFNetwork:
    """The model on its device, after a check of samples and labels; a classifier becomes one block.

    Args:
        model: as for ``evaluate``; moved to the device.
        loader: the data.
        device: to compute on.

    Raises:
        SFFError: samples or labels do not fit.
    """
    output = check_fits(model.to(device), loader.sample.to(device), f"{loader.name} x")
    if not isinstance(model, SFF | FFNetwork):
        # The number of classes of a stream is unknown: it is the number of outputs.
        model = wrap_classifier(model, loader.num_classes or output.shape[1])
        if output.shape[1] < model.num_classes:
            raise SFFError(f"model has {output.shape[1]} outputs for {model.num_classes} classes")
    loader.check_labels(model.num_classes)
    return model


def measure(
    network: SFF | FFNetwork,
    loader: Loader,
    channels_last: bool,
    votes: Sequence[str | None] = (None,),
) -> list[Evaluation]:
    """``evaluate_votes`` after its checks.

    Args:
        network: from ``as_network``.
        loader: the data.
        channels_last: the memory layout of images.
        votes: as for ``evaluate_votes``.
    """
    device = next(network.parameters()).device
    n, by_block, correct, losses = 0, 0, 0, []
    with evaluating(network):
        for x, y in loader.batches(BATCH):
            goodness = network.block_goodness(lay_out(x, device, channels_last))  # (B, blocks, K)
            y = y.to(device)
            label = y if y.dim() == 1 else y.argmax(1)
            voted = [network.combine(goodness, vote) for vote in votes]  # (B, K) each
            n += len(y)
            by_block = by_block + (goodness.argmax(2) == label[:, None]).sum(0)
            correct = correct + torch.stack([(g.argmax(1) == label).sum() for g in voted])
            batch_losses = [nn.functional.cross_entropy(g, y, reduction="sum") for g in voted]
            losses.append(torch.stack(batch_losses))
    block_accuracy = [count / n for count in by_block.tolist()]
    sums = torch.stack(losses).cpu().double().sum(0).tolist()
    return [
        Evaluation(count / n, block_accuracy, loss / n, n)
        for count, loss in zip(correct.tolist(), sums)
    ]
