"""Goodness: how strongly a layer responds, as one number per image or one per class."""

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable
from torch.nn import functional as F

from .util.checks import SFFError, check_known

FORMS = ("auto", "direct", "moments")
FEW_FILTERS, FEW_POSITIONS = 32, 8  # measured on a CPU, see _DirectGoodness


def sum_squares(h: Tensor) -> Tensor:
    """Hinton's goodness: the sum of squared activations of each sample, ``g = Σ_i h_i²``.

    Pair it with a threshold of about the number of activations D.

    Source: Hinton, "The Forward-Forward Algorithm", 2022, section 2.

    Args:
        h: (B, ...) activations.

    Returns:
        (B,) goodness, ≥ 0.
    """
    return h.flatten(1).square().sum(1)


def mean_squares(h: Tensor) -> Tensor:
    """The mean of squared activations of each sample: ``sum_squares(h) / D``.

    Pair it with a threshold of about 1 or 2, whatever the width.

    Args:
        h: (B, ...) activations.

    Returns:
        (B,) goodness, ≥ 0.
    """
    return h.flatten(1).square().mean(1)


def head_activation(
    h: Tensor, weight: Tensor, bias: Tensor | None = None, channel_dim: int = 1
) -> Tensor:
    """The activation ``z = weight * h + bias`` of an auxiliary convolution with "same" padding.

    Args:
        h: (B, C, H, W) block output, or (B, C, L) of a sequence; for a 1×1 kernel any rank ≥ 2,
            e.g. tokens (B, N, C) and vectors (B, C).
        weight: (F, C, k, k), or (F, C, k) for a sequence, with k odd.
        bias: (F,) or None.
        channel_dim: the dimension of ``h`` that holds the C channels.

    Returns:
        (B, F, H, W), or (B, F, ...) with the positions of ``h``.
    """
    h = _channels_second(h, weight.shape[1], channel_dim)
    if weight.shape[-1] > 1:
        if h.dim() != weight.dim():
            shape = "(B, C, H, W)" if weight.dim() == 4 else "(B, C, L)"
            raise SFFError(
                f"a head with kernel_size={weight.shape[-1]} needs {shape}, but h has rank "
                f"{h.dim()}; use kernel_size=1 for tokens and vectors"
            )
        convolution = F.conv2d if weight.dim() == 4 else F.conv1d
        return convolution(h, weight, bias, padding="same")
    weight = weight.reshape(*weight.shape[:2], 1, 1)
    z = F.conv2d(h.reshape(*h.shape[:2], -1, 1), weight, bias)  # (B, F, N, 1)
    return z.reshape(z.shape[0], z.shape[1], *h.shape[2:])


def _channels_second(h: Tensor, channels: int, channel_dim: int) -> Tensor:
    """Move the channels of h to dimension 1, (B, C, ...), and check their number."""
    h = h.movedim(channel_dim, 1)
    if h.shape[1] != channels:
        raise SFFError(f"h has {h.shape[1]} channels, but the head was built for {channels}")
    return h


def cheaper_form(channels: int, num_filters: int, positions: int) -> str:
    """Name the form of a 1×1 class goodness that needs fewer multiply-adds.

    Per image, direct: ``C·F·N``; by second moments: ``C²·N + F·C²``. Moments win with many
    classes, few channels and a large image.

    Args:
        channels: C of the block output.
        num_filters: F, classes × filters per class.
        positions: N = H·W.
    """
    return "moments" if channels * (positions + num_filters) < positions * num_filters else "direct"


def _in_float32(goodness: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Switch autocast off: in half precision a mean of squares keeps only three digits."""

    @wraps(goodness)
    def in_float32(h: Tensor, *args, **kwargs) -> Tensor:
        device = h.device.type
        if device == "meta" or not torch.is_autocast_enabled(device):
            return goodness(h, *args, **kwargs)
        with torch.autocast(device, enabled=False):
            return goodness(h.float(), *args, **kwargs)

    return in_float32


@_in_float32
def class_goodness(
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    filters: int = 1,
    form: str = "auto",
    channel_dim: int = 1,
) -> Tensor:
    """One goodness per class: the mean squared activation of that class's head channels.

    ``g_k = mean over positions (and the class's filters) of z_k²`` with ``z = weight * h + bias``.
    For a 1×1 kernel the same number is ``w̃_kᵀ M w̃_k`` with ``h̃ = [h; 1]``, ``w̃ = [w; b]`` and
    the second moment ``M = mean over positions of h̃ h̃ᵀ``: exact, and z is never stored.

    Source: Krutsylo, "Scalable Forward-Forward Algorithm", 2025. The second-moment form and
    ``filters > 1`` are ours; the paper describes one channel per class.

    Args:
        h: (B, C, H, W) block output, or (B, C, L); for a 1×1 kernel any rank ≥ 2.
        weight: (K·filters, C, k, k) or (K·filters, C, k); a class's filters are neighbours.
        bias: (K·filters,) or None.
        filters: head channels per class.
        form: ``"direct"``, ``"moments"`` (1×1 only) or ``"auto"``, the cheaper of the two.
        channel_dim: the dimension of ``h`` that holds the C channels.

    Returns:
        (B, K) goodness, ≥ 0.

    Raises:
        SFFError: ``h`` and ``weight`` differ in their channels, or a kernel wider than 1×1 meets
            an ``h`` with other dimensions.
    """
    num_filters, channels, kernel = weight.shape[0], weight.shape[1], weight.shape[-1]
    if num_filters % filters:
        raise SFFError(f"filters={filters} does not divide the {num_filters} channels of the head")
    if form == "moments" and kernel > 1:
        raise SFFError(f'form="moments" needs a 1×1 kernel, not {kernel}×{kernel}')
    if form == "auto":
        positions = h[0].numel() // h.shape[channel_dim]
        form = cheaper_form(channels, num_filters, positions) if kernel == 1 else "direct"
    check_known(form, FORMS, "form")
    if kernel > 1 or (form == "direct" and num_filters > FEW_FILTERS):
        z = head_activation(h, weight, bias, channel_dim)  # (B, K·filters, ...)
        return _MeanSquare.apply(z.reshape(z.shape[0], num_filters // filters, -1))
    h = _channels_second(h, channels, channel_dim)
    h = h.reshape(*h.shape[:2], -1).mT  # (B, N, C)
    bias = weight.new_zeros(num_filters) if bias is None else bias
    goodness = _DirectGoodness if form == "direct" else _SecondMomentGoodness
    g = goodness.apply(h, weight.flatten(1), bias)
    return g if filters == 1 else g.reshape(g.shape[0], -1, filters).mean(2)


class _MeanSquare(Function):
    """``z.square().mean(2)``, bit for bit; autograd's own backward passes over z twice more."""

    @staticmethod
    def forward(ctx, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z.square().mean(2)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return z * (2 * grad / z.shape[2]).unsqueeze(2)


class _DirectGoodness(Function):
    """``g = mean over positions of (w h + b)²``, (B, N, C), (F, C) and (F,) → (B, F).

    For few filters one matrix product per sample, or for the whole batch if it has few positions,
    is faster on a CPU than a 1×1 convolution.
    """

    @staticmethod
    def forward(ctx, h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if h.shape[1] < FEW_POSITIONS:
            z = F.linear(h, weight, bias).mT  # (B, F, N)
        else:
            z = torch.baddbmm(bias[:, None], weight.expand(len(h), -1, -1), h.mT)
        ctx.save_for_backward(h, weight, z)
        return z.square().mean(2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h, weight, z = ctx.saved_tensors
        grad_z = z * (grad * (2 / z.shape[2]))[:, :, None]  # (B, F, N)
        if h.shape[1] < FEW_POSITIONS:
            flat = grad_z.mT.flatten(0, 1)  # (B·N, F)
            return (flat @ weight).view_as(h), flat.T @ h.flatten(0, 1), flat.sum(0)
        weight = weight.expand(len(h), -1, -1)
        # the gradient gets the memory layout of h
        grad_h = grad_z.mT @ weight if h.is_contiguous() else (weight.mT @ grad_z).mT
        return grad_h, (grad_z @ h).sum(0), grad_z.sum((0, 2))


class _SecondMomentGoodness(Function):
    """``g = wᵀ M w + 2 b mᵀ w + b²``, (B, N, C), (F, C) and (F,) → (B, F), and its gradient.

    ``M = hᵀ h / N`` and ``m`` is the mean of h over the positions. Autograd does not use the
    symmetry of M. With it, ``dg/dw = 2 (M w + b m)`` is what forward has computed already, and
    ``dg/dh = 2 (w wᵀ h + b w) / N``: two matrix products fewer, and h is read once. The products
    with the weight are 1×1 convolutions, which are faster than ``@`` on a CPU.
    """

    @staticmethod
    def forward(ctx, h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        moment = h.mT @ h / h.shape[1]  # (B, C, C)
        product = F.conv1d(moment, weight[:, :, None])  # M w, (B, F, C)
        mean = h.mean(1)  # (B, C)
        linear = mean @ weight.T  # (B, F)
        ctx.save_for_backward(h, weight, bias, product, mean, linear)
        return (product * weight).sum(2) + 2 * bias * linear + bias.square()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h, weight, bias, product, mean, linear = ctx.saved_tensors
        scale = 2 / h.shape[1]
        by_filter = grad[:, :, None]  # (B, F, 1)
        square = F.conv1d(weight * by_filter, weight.T[:, :, None])  # Σ w wᵀ, (B, C, C)
        shift = (grad * bias) @ weight  # (B, C)
        if h.is_contiguous():  # the gradient gets the memory layout of h
            grad_h = torch.baddbmm(shift[:, None], h, square, beta=scale, alpha=scale)
        else:
            grad_h = torch.baddbmm(shift[:, :, None], square, h.mT, beta=scale, alpha=scale).mT
        grad_weight = (product * by_filter).sum(0) + (grad * bias).T @ mean
        grad_bias = (grad * (linear + bias)).sum(0)
        return grad_h, 2 * grad_weight, 2 * grad_bias
