"""Other heads and votes that narrow the gap to backprop; the paper's plain head is in core."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .core import SFF, GoodnessHead
from .util.checks import SFFError, check_count, check_positive
from .util.modes import evaluating

BATCH = 500  # samples at a time
# The values of ``localize(head=...)``; see results/accurate_head.md.
HEADS = {
    "plain": {},
    "accurate": {"hidden": 96, "kernel_size": 3, "side": 8, "scale": 4.0},
}


class HiddenHead(GoodnessHead):
    """A small convolution, then the class goodness of its output.

    ``g_k = scale · mean z_k²`` with ``z = weight * a + bias`` and ``a = relu(BN(V * h))``, V a 3×3
    convolution with stride 2 (on a sequence one of width 3). The features of the block need not
    separate the classes themselves.

    Source: auxiliary networks of one or more hidden layers are usual in local learning, see Nøkland
    & Eidnes (2019), Belilovsky et al. (2020), Ma et al. (2024). The paper's SFF has none.

    Args:
        channels: C of the block output.
        num_classes: K.
        hidden: channels of a.
        kernel_size: of the goodness convolution, odd.
        filters: head channels per class.
        form: see ``class_goodness``.
        channel_dim: the dimension of h that holds the channels.
        dims: 2 for maps, 1 for sequences.
        side: larger maps are averaged down to this side before V; None leaves them.
        scale: a factor on goodness: one over the temperature of the loss's softmax.
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
        side: int | None = None,
        scale: float = 1.0,
    ):
        check_count(hidden, "hidden")
        check_positive(scale=scale)
        super().__init__(hidden, num_classes, kernel_size, filters, form, channel_dim, dims)
        self.channels = channels
        self.hidden = hidden
        self.side = side
        self.scale = scale
        convolution = nn.Conv2d if dims == 2 else nn.Conv1d
        norm = nn.BatchNorm2d if dims == 2 else nn.BatchNorm1d
        self.convolution = nn.Sequential(
            convolution(channels, hidden, 3, stride=2, padding=1, bias=False),
            norm(hidden),
            nn.ReLU(),
        )

    def features(self, h: Tensor) -> Tensor:
        """a, with the channels where ``h`` has them."""
        h = h.movedim(self.channel_dim, 1)
        if self.side is not None:
            pool = F.adaptive_avg_pool2d if h.dim() == 4 else F.adaptive_avg_pool1d
            h = pool(h, [min(n, self.side) for n in h.shape[2:]])
        return self.convolution(h).movedim(1, self.channel_dim)

    def activation(self, h: Tensor) -> Tensor:
        """z, (B, K·filters, ⌈H/2⌉, ⌈W/2⌉), or (B, K·filters, ⌈L/2⌉)."""
        return super().activation(self.features(h))

    def forward(self, h: Tensor) -> Tensor:
        """(B, C, H, W) → (B, K) class goodness."""
        return self.scale * super().forward(self.features(h))


def learn_vote(model: SFF, x: Tensor, y: Tensor) -> Tensor:
    """Fit one weight per block, and set the model to vote with them.

    ``argmin_w  mean cross-entropy(Σ_b w_b g_b, y)``, a convex problem with one unknown per block,
    solved by L-BFGS from equal weights. The blocks themselves are not changed.

    Args:
        model: trained; its ``vote`` becomes ``"learned"``.
        x: (N, C, ...) samples to fit the weights on: training or validation, never test.
        y: (N,) their labels.

    Returns:
        (blocks,) the weights, which are ``model.vote_weights``.
    """
    device = model.vote_weights.device
    with evaluating(model):
        parts = [model.block_goodness(part.to(device)).cpu() for part in x.split(BATCH)]
    goodness, y = torch.cat(parts), y.cpu()
    weights = torch.ones(goodness.shape[1]) / goodness.shape[1]
    weights.requires_grad_()
    _minimise([weights], lambda: F.cross_entropy(torch.einsum("nbk,b->nk", goodness, weights), y))
    with torch.no_grad():
        model.vote_weights.copy_(weights)
    model.vote = "learned"
    return model.vote_weights


def learn_classifier(model: SFF, x: Tensor, y: Tensor) -> nn.Module:
    """Fit a linear classifier of ``model.original`` to the mean of its last features.

    ``argmin_{W,b}  mean cross-entropy(W f + b, y)``, a convex problem, solved by L-BFGS. The layer
    replaces the original's classifier. After ``rule="bp"`` the original predicts already.

    Args:
        model: from ``localize``, trained.
        x: (N, C, ...) samples to fit the layer on: training or validation, never test.
        y: (N,) their labels.

    Returns:
        ``model.original``, in evaluation mode: an ordinary classifier.

    Raises:
        SFFError: the original does not classify the mean of the last features.
    """
    if model.classifier is None:
        raise SFFError(
            "the original has no classifier right after the mean of the last features; use "
            "model.predict, or fit(model.original, …, rule='bp')"
        )
    original, like = model.original, next(model.parameters())
    old = original.get_submodule(model.classifier)
    original.set_submodule(model.classifier, nn.Identity())
    try:
        with evaluating(original):
            parts = [original(part.to(like)) for part in x.split(BATCH)]
    finally:
        original.set_submodule(model.classifier, old)
    features = torch.cat(parts).float()
    std, mean = torch.std_mean(features, dim=0)
    scaled, y = (features - mean) / std.clamp_min(1e-6), y.to(features.device)
    linear = nn.Linear(features.shape[1], model.num_classes, device=features.device)
    _minimise([linear.weight, linear.bias], lambda: F.cross_entropy(linear(scaled), y))
    with torch.no_grad():  # the same function of the unscaled features
        linear.weight.div_(std.clamp_min(1e-6))
        linear.bias.sub_(linear.weight @ mean)
    original.set_submodule(model.classifier, linear.to(like.dtype))
    return original.eval()


def _minimise(parameters: list[Tensor], loss: Callable[[], Tensor]) -> None:
    optimizer = torch.optim.LBFGS(parameters, max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
