"""The idea of Scalable Forward-Forward: blocks that learn from their own class goodness.

A block's body turns x into h; its head turns h into one goodness per class, on which the block is
trained. Its output is detached and normalised before the next block. The learning rule itself is
``rules.sff_step``.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .goodness import class_goodness, head_activation
from .util.checks import SFFError, check_head, check_known
from .util.original import SharesOriginal

NORMALISATIONS = ("all", "channels", "length", "none")
VOTES = ("mean", "depth", "last", "learned")


def hand_over(
    h: Tensor, normalise: str = "all", local: bool = True, channel_dim: int = 1
) -> Tensor:
    """Make a block's output the next block's input, of the same shape: detach, then normalise.

    Source: Krutsylo 2025 says "layer-normalised" but not over which axes; ``"all"`` and
    ``"channels"`` are the two readings, and ``"all"`` did better (results/normalisation.md).

    Args:
        h: (B, C, ...) block output.
        normalise: ``"all"``: ``(h - mean) / std`` over channels and positions of each sample;
            ``"channels"``: the same over the channels of each position; ``"length"``:
            ``h / sqrt(mean h²)``, Hinton's; ``"none"``: h itself.
        local: False keeps the gradient, for deep supervision.
        channel_dim: the dimension that holds the channels.

    Returns:
        (B, C, ...) in the memory format of h.

    Raises:
        SFFError: another ``normalise``.
    """
    if local:
        h = h.detach()  # the only place where the gradient is cut between blocks
    if normalise == "all":
        if h.is_contiguous() or h.dim() != 4:
            return F.layer_norm(h, h.shape[1:])
        h = h.movedim(1, -1)  # channels-last memory: layer_norm would return NCHW
        return F.layer_norm(h, h.shape[1:]).movedim(-1, 1)
    if normalise == "channels":
        h = h.movedim(channel_dim, -1)
        return F.layer_norm(h, h.shape[-1:]).movedim(-1, channel_dim)
    if normalise == "length":
        return F.rms_norm(h, h.shape[1:], eps=1e-8)
    check_known(normalise, NORMALISATIONS, "normalise")
    return h


class GoodnessHead(nn.Module):
    """An auxiliary convolution whose mean squared output is one goodness per class.

    ``g_k = mean z_k²`` with ``z = weight * h + bias``; see ``goodness.class_goodness``. It serves
    the block's own loss and vote; z is never passed on.

    Args:
        channels: C of the block output.
        num_classes: K.
        kernel_size: odd; 1 in the paper, "or slightly larger".
        filters: head channels per class.
        form: see ``class_goodness``.
        channel_dim: the dimension of h that holds the channels (-1 for tokens).
        dims: dimensions of a wide kernel: 2 for maps, 1 for sequences.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        kernel_size: int = 1,
        filters: int = 1,
        form: str = "auto",
        channel_dim: int = 1,
        dims: int = 2,
    ):
        super().__init__()
        check_head(channels, num_classes, kernel_size, filters, dims)
        self.channels = channels
        self.num_classes = num_classes
        self.filters = filters
        self.form = form
        self.channel_dim = channel_dim
        convolution = nn.Conv2d if dims == 2 else nn.Conv1d
        initial = convolution(channels, num_classes * filters, kernel_size)
        self.weight = initial.weight
        self.bias = initial.bias

    def activation(self, h: Tensor) -> Tensor:
        """z, (B, K·filters, ...): where in the image or text each class finds evidence."""
        return head_activation(h, self.weight, self.bias, self.channel_dim)

    def forward(self, h: Tensor) -> Tensor:
        """(B, C, ...) → (B, K) class goodness."""
        return class_goodness(
            h,
            self.weight,
            self.bias,
            filters=self.filters,
            form=self.form,
            channel_dim=self.channel_dim,
        )


class LinearHead(nn.Module):
    """Global average pooling and a linear layer, for backprop: ``logits = W · mean_hw h + b``.

    Args:
        channels: C of the block output.
        num_classes: K.
        channel_dim: the dimension of h that holds the channels.
    """

    def __init__(self, channels: int, num_classes: int, channel_dim: int = 1):
        super().__init__()
        check_head(channels, num_classes)
        self.channels = channels
        self.num_classes = num_classes
        self.channel_dim = channel_dim
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, h: Tensor) -> Tensor:
        """(B, C, ...) → (B, K) logits."""
        h = h.movedim(self.channel_dim, 1)
        return self.linear(h.reshape(*h.shape[:2], -1).mean(2))


class LocalBlock(nn.Module):
    """A body, which computes features, and a head, which scores the classes: one unit of learning.

    Args:
        body: (B, C, ...) → (B, C', ...), any module.
        head: (B, C', ...) → (B, K), such as ``GoodnessHead``.
    """

    def __init__(self, body: nn.Module, head: nn.Module):
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, ...) → h (B, C', ...) and g (B, K)."""
        h = self.body(x)
        return h, self.head(h)


class SFF(SharesOriginal):
    """A chain of local blocks that vote.

    Args:
        blocks: LocalBlocks in order.
        normalise: between blocks, see ``hand_over``.
        vote: the ``"mean"`` of all blocks' goodness (the paper's), a mean weighted by ``"depth"``
            (block b counts b times), the ``"last"`` block's, or with ``"learned"`` weights
            (``heads.learn_vote``).
        original: the model the blocks were cut from, if any. Weights, mode, device, dtype and
            state are shared with it.
        classifier: the name of the module in ``original`` that maps the mean of the last features
            to its output. ``bp`` trains a linear layer in its place; then ``original`` predicts.

    Raises:
        SFFError: no blocks, or an unknown ``normalise`` or ``vote``.
    """

    def __init__(
        self,
        blocks: Iterable[LocalBlock],
        *,
        normalise: str = "all",
        vote: str = "mean",
        original: nn.Module | None = None,
        classifier: str | None = None,
    ):
        super().__init__(original)
        self.blocks = nn.ModuleList(blocks)
        if not self.blocks:
            raise SFFError("blocks is empty; a network needs at least one LocalBlock")
        check_known(normalise, NORMALISATIONS, "normalise")
        check_known(vote, VOTES, "vote")
        self.normalise = normalise
        self.vote = vote
        self.register_buffer("vote_weights", torch.ones(len(self.blocks)) / len(self.blocks))
        self.classifier = classifier

    @property
    def num_classes(self) -> int:
        """The number of classes, K."""
        return self.blocks[-1].head.num_classes

    def hand_over(self, block: LocalBlock, h: Tensor, local: bool = True) -> Tensor:
        """Make a block's output the next block's input, with this model's normalisation.

        Args:
            block: the one whose output it is.
            h: (B, C, ...) its output.
            local: False keeps the gradient, for deep supervision.
        """
        return hand_over(h, self.normalise, local, block.head.channel_dim)

    def block_goodness(self, x: Tensor) -> Tensor:
        """(B, C, ...) → (B, blocks, K): every block's class goodness."""
        goodness = []
        for block in self.blocks:
            h, g = block(x)
            goodness.append(g)
            if block is not self.blocks[-1]:
                x = self.hand_over(block, h)
        return torch.stack(goodness, dim=1)

    def combine(self, goodness: Tensor, vote: str | None = None) -> Tensor:
        """Combine the goodness of all blocks by a vote.

        Args:
            goodness: (B, blocks, K).
            vote: ``"mean"``, ``"depth"``, ``"last"`` or ``"learned"``; None for this model's own.

        Returns:
            (B, K).
        """
        vote = self.vote if vote is None else vote
        check_known(vote, VOTES, "vote")
        if vote == "learned":
            return torch.einsum("nbk,b->nk", goodness, self.vote_weights)
        if vote == "depth":
            depth = torch.arange(1, 1 + goodness.shape[1]).to(goodness)
            return torch.einsum("nbk,b->nk", goodness, depth / depth.sum())
        return goodness.mean(1) if vote == "mean" else goodness[:, -1]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) → (B, K): the voted class goodness."""
        return self.combine(self.block_goodness(x))

    def predict(self, x: Tensor) -> Tensor:
        """(B, C, ...) → (B,): the class with the highest voted goodness. Call ``eval()`` first."""
        with torch.no_grad():
            return self(x).argmax(1)
