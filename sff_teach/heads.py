"""Ways to close the gap to backprop in the head and in the vote; the paper's plain head is in core.

A block that is a single layer must find features which a linear filter on them can judge already.
A head with a small network of its own lets the block keep features that need one more layer.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .core import SFF, GoodnessHead
from .util.checks import check_count, check_head, check_layer, explained
from .util.modes import evaluating


@explained()
class HiddenHead(GoodnessHead):
    """A small convolution, then class goodness of what it finds.

    ``g_k = mean z_k²`` with ``z = weight * a + bias`` and ``a = relu(BN(V * h))``, V a 3×3
    convolution with stride 2 (on a sequence one of width 3). Like every head it serves its own
    block's loss and vote only; V costs a quarter of a 3×3 convolution to as many channels.

    Args:
        channels, num_classes, kernel_size, filters, form, channel_dim, dims: see ``GoodnessHead``.
        hidden: channels of a.

    Source: auxiliary networks of one or more hidden layers are usual in local learning, see Nøkland
    & Eidnes (2019), Belilovsky et al. (2020), Ma et al. (2024). The paper's SFF has none.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        hidden: int,
        kernel_size: int = 1,
        filters: int = 1,
        form: str = "auto",
        channel_dim: int = 1,
        dims: int = 2,
    ):
        check_count(hidden, "hidden")
        check_count(channels, "channels")
        check_layer(channels, hidden, 3**2)
        super().__init__(hidden, num_classes, kernel_size, filters, form, channel_dim, dims)
        self.channels, self.hidden = channels, hidden
        convolution, norm = (
            (nn.Conv2d, nn.BatchNorm2d) if dims == 2 else (nn.Conv1d, nn.BatchNorm1d)
        )
        self.convolution = nn.Sequential(
            convolution(channels, hidden, 3, stride=2, padding=1, bias=False),
            norm(hidden),
            nn.ReLU(),
        )

    def before(self, h: Tensor) -> Tensor:
        """a, with the channels where ``h`` has them."""
        return self.convolution(h.movedim(self.channel_dim, 1)).movedim(1, self.channel_dim)

    def activation(self, h: Tensor) -> Tensor:
        """z, (B, K·filters, ⌈H/2⌉, ⌈W/2⌉), or (B, K·filters, ⌈L/2⌉)."""
        return super().activation(self.before(h))

    def forward(self, h: Tensor) -> Tensor:
        """(B, C, H, W) → (B, K) class goodness."""
        return super().forward(self.before(h))


@explained()
class ChannelGroups(nn.Module):
    """Class goodness without a head: the block's own channels are dealt out to the classes.

    ``g_k = mean of h² over the channels of group k and all positions``; the groups are neighbours
    and as equal in size as can be. No parameters. SFF does without it; it is here to compare with.

    Args:
        channels: C of the block output, at least ``num_classes``. num_classes: K.

    Source: channel-wise competitive learning, Papachristodoulou et al. (AAAI 2024).
    """

    channel_dim = 1

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        check_head(channels, num_classes)
        if channels < num_classes:
            raise ValueError(
                f"channels is {channels} for {num_classes} classes; each needs at least one."
            )
        self.channels, self.num_classes = channels, num_classes

    def forward(self, h: Tensor) -> Tensor:
        """(B, C, H, W) → (B, K) class goodness."""
        groups = h.tensor_split(self.num_classes, dim=1)
        return torch.stack([group.flatten(1).square().mean(1) for group in groups], dim=1)


@explained()
def learn_vote(model: SFF, data: "LabelledTensors", batch_size: int = 500) -> Tensor:  # noqa: F821
    """Fit one weight per block for the vote, and make it the model's own.

    ``argmin_w  mean cross-entropy(Σ_b w_b g_b, y)``, a convex problem of as many unknowns as there
    are blocks, solved by L-BFGS from equal weights. The blocks themselves are not changed.

    Args:
        model: trained; its ``vote`` becomes ``"learned"``.
        data: images to fit the weights on: the training or the validation images, never the test.
        batch_size: images at a time.

    Returns:
        (blocks,) the weights, also kept in ``model.vote_weights``.
    """
    device = model.vote_weights.device
    with evaluating(model):
        parts = [model.block_goodness(x.to(device)).cpu() for x in data.x.split(batch_size)]
    goodness, y = torch.cat(parts), data.y.cpu()
    weights = torch.ones(goodness.shape[1]) / goodness.shape[1]
    weights.requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(torch.einsum("nbk,b->nk", goodness, weights), y)
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        model.vote_weights.copy_(weights)
    model.vote = "learned"
    return model.vote_weights
