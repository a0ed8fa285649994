"""Labelled samples in memory, and mini-batches of them.

Samples are images (N, C, H, W), sequences (N, C, L) or tables (N, C), whose columns are channels.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..util.checks import SFFError, check_count, check_labels, check_positive, check_samples

FINGERPRINT_VALUES = 1 << 20  # values in a fingerprint, at most
SHIFT = 4  # pixels of the random crop


@dataclass(frozen=True, eq=False)
class LabelledTensors:
    """Labelled samples in memory, standardised per channel: x = (values - mean) / std.

    Attributes:
        x: (N, C, ...) float32; images (N, C, H, W) are an ``ImageSet``.
        y: (N,) int64, in [0, K).
        classes: K names.
        name: of the data set and its part.
        mean: of the training samples, one number per channel.
        std: likewise.
    """

    x: Tensor
    y: Tensor
    classes: tuple[str, ...]
    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        kind, shape = type(self).__name__, "×".join(str(n) for n in self.x.shape[1:])
        what = "images" if isinstance(self, ImageSet) else "samples"
        return f"{kind}({self.name}: {len(self):,} {what} {shape}, {self.num_classes} classes)"

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.classes)

    @property
    def channels(self) -> int:
        """C."""
        return self.x.shape[1]

    @property
    def size(self) -> tuple[int, ...]:
        """(H, W) of images, (L,) of sequences, () of a table's rows."""
        return tuple(self.x.shape[2:])

    @property
    def fingerprint(self) -> str:
        """A hash of labels and about a million values, to identify the data of a checkpoint."""
        values = self.x.flatten(1)
        values = values[:, :: max(1, values.numel() // FINGERPRINT_VALUES)]
        digest = hashlib.sha256(repr((tuple(self.x.shape), self.classes)).encode())
        for tensor in (values, self.y):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def subset(self, index: Tensor | np.ndarray | Sequence[int] | slice) -> LabelledTensors:
        """Some of the samples, with the same standardisation.

        Args:
            index: Positions (M,), a mask (N,) or a slice.
        """
        if isinstance(index, slice):
            index = range(len(self))[index]
        index = torch.as_tensor(index, device=self.x.device)
        if index.dim() != 1:
            raise SFFError(f"index has shape {tuple(index.shape)}, not (M,); for sample i use [i]")
        if index.dtype != torch.bool:
            index = index.long()  # uint8 would be a mask
        return replace(self, x=_standard_layout(self.x[index]), y=self.y[index.to(self.y.device)])

    def values(self) -> Tensor:
        """The samples before they were standardised, (N, C, ...): x · std + mean."""
        return self.x * per_channel(self.std, self.x) + per_channel(self.mean, self.x)


class ImageSet(LabelledTensors):
    """Labelled images in memory: x is (N, C, H, W)."""

    def as_rgb(self) -> ImageSet:
        """The images with three equal channels (no copy); colour images are returned unchanged."""
        if self.channels == 3:
            return self
        if self.channels != 1:
            raise SFFError(f"images have {self.channels} channels; as_rgb needs one or three.")
        return replace(self, x=self.x.expand(-1, 3, -1, -1), mean=self.mean * 3, std=self.std * 3)

    def pixels(self) -> Tensor:
        """The images before they were standardised, (N, C, H, W); in [0, 1] for every named set."""
        p = self.values()
        if len(p) and p.min() > -1e-4 and p.max() < 1 + 1e-4:
            p.clamp_(0, 1)  # rounding errors, which matplotlib warns of
        return p


@dataclass(frozen=True, eq=False)
class Splits:
    """The three parts of a data set; ``train, valid, test = load(name)`` unpacks them."""

    train: LabelledTensors
    valid: LabelledTensors
    test: LabelledTensors

    def __iter__(self) -> Iterator[LabelledTensors]:
        return iter((self.train, self.valid, self.test))

    @property
    def classes(self) -> tuple[str, ...]:
        """The K names."""
        return self.train.classes

    @property
    def num_classes(self) -> int:
        """K."""
        return self.train.num_classes


def from_arrays(
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    classes: Sequence[str] | None = None,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    name: str = "own data",
) -> LabelledTensors:
    """Standardise a copy of your own samples: an ``ImageSet``, or a ``LabelledTensors``.

    For validation and test data give the statistics of the training data:
    ``test = from_arrays(x, y, train.classes, mean=train.mean, std=train.std)``.

    Args:
        x: (N, C, ...), floating point: a table (N, C), sequences (N, C, L) or images (N, C, H, W).
        y: (N,), whole numbers in [0, K).
        classes: K names; by default the numbers 0 … max(y).
        mean: one number per channel; by default that of ``x``.
        std: likewise.
        name: of the data set.

    Raises:
        SFFError: naN, labels outside [0, K), shapes that do not fit.
        TypeError: pixels that are not floating point, labels that are not whole numbers.
    """
    x, y = torch.as_tensor(x).detach(), torch.as_tensor(y).detach()
    x = x.float() if x.is_floating_point() else x
    check_samples(x)
    y = y.to(x.device, copy=True)
    if not y.is_floating_point() and y.dtype != torch.bool:
        y = y.long()
    if classes is None:
        classes = [str(k) for k in range(int(y.max()) + 1 if len(y) else 1)]
    check_labels(y, len(classes), length=len(x))
    if mean is None or std is None:
        over = [d for d in range(x.dim()) if d != 1]
        own_std, own_mean = torch.std_mean(x.double(), over, correction=0)
        mean = own_mean if mean is None else mean
        std = safe_std(own_std.tolist()) if std is None else std
    mean, std = (tuple(float(v) for v in values) for values in (mean, std))
    if not len(mean) == len(std) == x.shape[1]:
        raise SFFError(f"mean={mean} and std={std} need a number for each of {x.shape[1]} channels")
    for value in std:
        check_positive(std=value)
    kind = ImageSet if x.dim() == 4 else LabelledTensors
    data = kind(_standard_layout(x), y, tuple(str(c) for c in classes), name, mean, std)
    return replace(data, x=(data.x - per_channel(mean, x)) / per_channel(std, x))


# ---------------------------------------------------------------- standardising


def mean_std(x: np.ndarray, scale: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel of x / scale.

    Args:
        x: (N, C, ...).
        scale: what the values are divided by.
    """
    if x.dtype != np.uint8:  # uint8 is counted below: exact, without a float copy
        over = (0, *range(2, x.ndim))
        return tuple((x.mean(over) / scale).tolist()), safe_std((x.std(over) / scale).tolist())
    level = torch.arange(256, dtype=torch.float64) / scale
    means, stds = [], []
    for c in range(x.shape[1]):
        channel = torch.from_numpy(x[:, c]).flatten()
        share = torch.bincount(channel, minlength=256).double() / len(channel)
        means.append(float(share @ level))
        stds.append(math.sqrt(float(share @ (level - means[-1]) ** 2)))
    return tuple(means), safe_std(stds)


def safe_std(stds: Sequence[float]) -> tuple[float, ...]:
    """The same numbers, but 1 for constant channels, which are then not scaled."""
    return tuple(std if std > 1e-6 else 1.0 for std in stds)


def per_channel(values: Sequence[float], x: Tensor) -> Tensor:
    """One number per channel, in the shape (C, 1, …) that broadcasts over x.

    Args:
        values: C numbers.
        x: (N, C, ...) samples.
    """
    return torch.tensor(values).to(x).reshape(-1, *[1] * (x.dim() - 2))


def _standard_layout(x: Tensor) -> Tensor:
    """x in the standard memory layout: N, then C, then the others."""
    # With one channel a tensor with the strides of channels-last is contiguous too, but
    # convolutions then compute in another order.
    strides = torch.empty(x.shape, device="meta").stride()
    return x if x.stride() == strides else torch.empty(x.shape, device=x.device).copy_(x)


# ---------------------------------------------------------------- batches


def batches(
    data: LabelledTensors,
    batch_size: int,
    *,
    shuffle: bool = False,
    generator: torch.Generator | None = None,
    drop_last: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Mini-batches that hold every sample once.

    Args:
        data: one part of a data set.
        batch_size: B.
        shuffle: whether to draw a new order.
        generator: draws the order, so that it repeats.
        drop_last: whether to leave out a last batch that is not full.

    Yields:
        x (B, C, ...) and y (B,).
    """
    check_count(batch_size, "batch_size")
    count = len(data)
    order = torch.randperm(count, generator=generator) if shuffle else torch.arange(count)
    order = order.to(data.x.device)
    stop = count - (count % batch_size if drop_last else 0)
    for start in range(0, stop, batch_size):
        chosen = order[start : start + batch_size]
        yield data.x[chosen], data.y[chosen]


def augment_flip_crop(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Flip each image left to right with probability ½ and shift it by up to ``SHIFT`` pixels.

    The shift is a random crop of the image padded by reflection; zeros would add a border that no
    test image has. Not for digits or letters, whose mirror image is another sign.

    Args:
        x: (B, C, H, W), H and W above 4.
        generator: of the CPU; draws flips and shifts.
    """
    b, c, height, width = x.shape
    if min(height, width) <= SHIFT:
        raise SFFError(f"images of {height}×{width} pixels are too small to shift by {SHIFT}.")
    shift = _sent_to(x, torch.randint(-SHIFT, SHIFT + 1, (2, b, 1), generator=generator))
    flip = _sent_to(x, torch.rand(b, 1, generator=generator)) < 0.5
    rows = _mirror(torch.arange(height, device=x.device) + shift[0], height)  # (B, H)
    columns = _mirror(torch.arange(width, device=x.device) + shift[1], width)  # (B, W)
    columns = torch.where(flip, columns.flip(1), columns)
    source = rows[:, :, None] * width + columns[:, None, :]  # (B, H, W), places in a flat image
    source = source.reshape(b, 1, -1).expand(b, c, -1)
    return x.reshape(b, c, -1).gather(2, source).view(b, c, height, width)


def _sent_to(x: Tensor, drawn: Tensor) -> Tensor:
    """Numbers drawn on the CPU, sent to the device of x without waiting for it."""
    return drawn.to(x.device, non_blocking=True)


def _mirror(place: Tensor, length: int) -> Tensor:
    """Places outside [0, length) reflected at the first and the last pixel."""
    return length - 1 - (length - 1 - place.abs()).abs()


def augment_flip_crop_cutout(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """``augment_flip_crop``, then a square of a quarter of the side is set to 0, the mean pixel.

    Source: DeVries & Taylor 2017 (Cutout), with a smaller square.

    Args:
        x: (B, C, H, W), standardised.
        generator: of the CPU; draws flips, shifts and places.
    """
    x = augment_flip_crop(x, generator)
    centre = _sent_to(x, torch.rand(2, len(x), 1, generator=generator))
    half = min(x.shape[2:]) / 8
    rows, columns = (
        (torch.arange(n, device=x.device) + 0.5 - n * place).abs() < half  # (B, H) and (B, W)
        for n, place in zip(x.shape[2:], centre, strict=True)
    )
    return x.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)


AUGMENTATIONS = {"flip-crop": augment_flip_crop, "flip-crop-cutout": augment_flip_crop_cutout}
