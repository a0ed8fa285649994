"""Measuring a network, block by block."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core import SFF
from ..forward_forward import FFNetwork
from ..rules import wrap_classifier
from ..util.checks import check_count, check_fits, check_module
from ..util.modes import evaluating
from .loader import Data, MemoryLoader, StreamLoader, as_loader, lay_out, pick_layout

BATCH = 500  # samples at a time


@dataclass(frozen=True)
class Evaluation:
    """What a network does on a data set.

    Attributes:
        accuracy: of the vote, a share in [0, 1].
        block_accuracy: of each block by itself.
        loss: the mean cross-entropy of the vote.
        n: samples.
    """

    accuracy: float
    block_accuracy: list[float]
    loss: float
    n: int

    def row(self) -> dict:
        """As a History keeps it."""
        return {
            "valid_accuracy": self.accuracy,
            "valid_loss": self.loss,
            "valid_block_accuracy": self.block_accuracy,
        }


def evaluate(
    model: nn.Module, data: Data, *, vote: str | None = None, batch_size: int = BATCH
) -> Evaluation:
    """Measure a network on a data set, block by block; nothing in the network changes.

    Args:
        model: as for ``fit``; evaluated in evaluation mode, then put back into the mode it was in.
        data: as for ``fit``.
        vote: ``"mean"``, ``"last"`` or another that the network knows; None for the model's own.
        batch_size: samples at a time, where the data does not come in batches.

    Returns:
        An Evaluation.

    Raises:
        SFFError: data or labels that do not fit the network, an unknown vote.
        TypeError: data of the wrong kind.
    """
    return evaluate_votes(model, data, (vote,), batch_size=batch_size)[0]


def evaluate_votes(
    model: nn.Module, data: Data, votes: Sequence[str | None], *, batch_size: int = BATCH
) -> list[Evaluation]:
    """``evaluate`` with several votes from a single pass over the data.

    Args:
        model: as for ``evaluate``.
        data: as for ``evaluate``.
        votes: the names, or None for the model's own.
        batch_size: as for ``evaluate``.

    Returns:
        One Evaluation per vote.
    """
    check_module(model)
    check_count(batch_size, "batch_size")
    loader = as_loader(data, "data")
    device = next(model.parameters()).device
    network = as_network(model, loader, device)
    channels_last = pick_layout(None, network, loader.sample, device)
    return measure(network, loader, channels_last, votes, batch_size)


def as_network(
    model: nn.Module, loader: MemoryLoader | StreamLoader, device: torch.device
) -> SFF | FFNetwork:
    """The model on its device, known to take these samples; a classifier becomes one block.

    Args:
        model: as for ``evaluate``; moved to the device.
        loader: what the network has to take.
        device: where to compute.

    Raises:
        SFFError: samples or labels do not fit.
    """
    sample = loader.sample.to(device)
    if not isinstance(model, SFF | FFNetwork):
        model.to(device)
        classes = loader.num_classes
        if classes is None:  # of a stream nobody knows: as many as the model has outputs
            with evaluating(model):
                classes = model(sample).shape[1]
        model = wrap_classifier(model, classes)
    loader.check_labels(model.num_classes)
    model.to(device)
    if isinstance(model, SFF) and model.original is not None:
        model.original.to(device)  # its pooling and classifier, which no block owns
    check_fits(model, sample, f"{loader.name} x", model.num_classes)
    return model


def measure(
    network: SFF | FFNetwork,
    loader: MemoryLoader | StreamLoader,
    channels_last: bool,
    votes: Sequence[str | None] = (None,),
    batch_size: int = BATCH,
) -> list[Evaluation]:
    """``evaluate_votes`` on what has been checked already.

    Args:
        network: from ``as_network``.
        loader: what it is measured on.
        channels_last: the memory layout of images.
        votes: as for ``evaluate_votes``.
        batch_size: samples at a time, where the data does not come in batches.
    """
    device = next(network.parameters()).device
    count = VoteCount(network, votes)
    with evaluating(network):
        for x, y in loader.batches(batch_size):
            goodness = network.block_goodness(lay_out(x, device, channels_last))
            count.add(goodness, y.to(device))
    return count.evaluations()


class VoteCount:
    """Counts right answers and adds up losses, on the device, until all samples are through.

    Args:
        network: whose blocks vote.
        votes: as for ``evaluate_votes``.
    """

    def __init__(self, network: SFF | FFNetwork, votes: Sequence[str | None] = (None,)):
        self.network = network
        self.votes = votes
        self.samples = 0
        self.by_block: Tensor | int = 0  # (blocks,)
        self.right: list[Tensor] = []  # (votes,) per batch
        self.losses: list[Tensor] = []

    def add(self, goodness: Tensor, y: Tensor) -> None:
        """Add a batch: goodness (B, blocks, K), labels (B,) or soft labels (B, K)."""
        label = y if y.dim() == 1 else y.argmax(1)
        voted = [self.network.combine(goodness, vote) for vote in self.votes]  # (B, K) each
        losses = [nn.functional.cross_entropy(g, y, reduction="sum") for g in voted]
        self.samples += len(y)
        self.by_block = self.by_block + (goodness.argmax(2) == label[:, None]).sum(0)
        self.right.append(torch.stack([(g.argmax(1) == label).sum() for g in voted]))
        self.losses.append(torch.stack(losses))

    def evaluations(self) -> list[Evaluation]:
        """One per vote."""
        n = self.samples
        by_block = [count / n for count in self.by_block.tolist()]
        right = torch.stack(self.right).sum(0).tolist()
        losses = torch.stack(self.losses).cpu().double().sum(0).tolist()
        return [Evaluation(r / n, by_block, loss / n, n) for r, loss in zip(right, losses)]
