"""What fit and evaluate read: tensors in memory, a torch Dataset, or any iterable of batches."""

import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..data import AUGMENTATIONS, LabelledTensors, batches, from_arrays
from ..util.checks import SFFError, check_labels, check_samples, short_repr

Data = LabelledTensors | tuple | list | Dataset | Iterable


def lay_out(x: Tensor, device: torch.device | str, channels_last: bool) -> Tensor:
    """A batch on its device, in the memory layout in which the network computes.

    The strides are set even where torch calls both layouts equal (one channel, one pixel): they
    decide which convolution torch takes, and another one rounds differently.

    Args:
        x: (B, C, ...).
        device: of the network.
        channels_last: whether images (B, C, H, W) are stored as (B, H, W, C).
    """
    last = channels_last and x.dim() == 4
    layout = torch.channels_last if last else torch.contiguous_format
    target = torch.empty_like(x, device="meta", memory_format=layout)
    if x.stride() != target.stride():
        x = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=layout).copy_(x)
    return x.to(device, non_blocking=True)


def pick_layout(
    channels_last: bool | None, model: nn.Module, x: Tensor, device: torch.device
) -> bool:
    """Whether to compute channels-last.

    Args:
        channels_last: True, False, or None: for convolutions on a CPU or a CUDA device.
        model: the network.
        x: some samples.
        device: where it computes.

    Raises:
        SFFError: asked for, but the samples are not images.
    """
    if channels_last and x.dim() != 4:
        raise SFFError(
            f"channels_last=True is for images (N, C, H, W), and the samples have shape "
            f"{tuple(x.shape)}"
        )
    if channels_last is None:
        convolves = any(isinstance(module, nn.Conv2d) for module in model.modules())
        return x.dim() == 4 and convolves and device.type in ("cpu", "cuda")
    return channels_last


def as_labelled_tensors(data: Any, argument: str = "data") -> LabelledTensors:
    """A LabelledTensors as it is; a pair (x, y) of tensors or arrays as one, its values unchanged.

    Args:
        data: the samples and their labels.
        argument: its name in messages.

    Raises:
        SFFError: samples that are empty or not finite, labels that do not fit.
        TypeError: anything else.
    """
    if isinstance(data, LabelledTensors):
        check_samples(data.x, f"{argument}.x")
        return data
    if not _is_pair(data):
        raise TypeError(
            f"{argument} must be a LabelledTensors, a pair (x, y) of tensors or arrays, a torch "
            f"Dataset, or an iterable of batches (x, y), not {short_repr(data)}"
        )
    x, y = (torch.as_tensor(part) for part in data)
    check_samples(x, f"{argument} x")
    channels = x.shape[1]
    return from_arrays(x, y, mean=[0.0] * channels, std=[1.0] * channels, name=argument)


def _is_pair(data: Any) -> bool:
    return (
        isinstance(data, tuple | list)
        and len(data) == 2
        and all(isinstance(part, Tensor | np.ndarray) for part in data)
    )


def as_loader(data: Data, argument: str) -> "MemoryLoader | StreamLoader":
    """The data in the form that ``fit`` and ``evaluate`` read.

    Args:
        data: as for ``fit``.
        argument: its name in messages.
    """
    if isinstance(data, Dataset) or (isinstance(data, Iterable) and not _in_memory(data)):
        return StreamLoader(data, argument)
    return MemoryLoader(as_labelled_tensors(data, argument))


def _in_memory(data: Any) -> bool:
    return isinstance(data, LabelledTensors | Tensor | np.ndarray | str | dict) or _is_pair(data)


class MemoryLoader:
    """Batches of samples that are in memory."""

    def __init__(self, data: LabelledTensors):
        self.data = data
        self.name = data.name
        self.sample = data.x[:2]
        self.num_classes = data.num_classes

    def check_labels(self, num_classes: int) -> None:
        """Raise unless every label is in [0, num_classes)."""
        check_labels(self.data.y, num_classes, f"{self.name} y")

    def steps(self, batch_size: int, smallest: int = 1) -> int:
        """Batches of an epoch; a last one of fewer than ``smallest`` samples is left out."""
        full, rest = divmod(len(self.data), batch_size)
        return full + (rest >= smallest > 0 and rest > 0)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All samples once, in order."""
        return batches(self.data, batch_size)

    def shuffled(
        self,
        batch_size: int,
        generator: torch.Generator,
        augment: str | None = None,
        smallest: int = 2,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch: every sample once, in a new order, augmented.

        Args:
            batch_size: samples per batch.
            generator: draws the order and the augmentation.
            augment: a name from AUGMENTATIONS, or None.
            smallest: a last batch of fewer samples is left out; BatchNorm cannot train on one.
        """
        short = 0 < len(self.data) % batch_size < smallest
        for x, y in batches(
            self.data, batch_size, shuffle=True, generator=generator, drop_last=short
        ):
            yield (x if augment is None else AUGMENTATIONS[augment](x, generator)), y

    def fingerprint(self) -> list[int]:
        """The shape and a checksum of samples and labels, by which a checkpoint knows them."""
        checksum = zlib.crc32(self.data.y.cpu().numpy().tobytes())
        for part in self.data.x.split(1000):  # never a copy of all samples
            checksum = zlib.crc32(part.cpu().contiguous().numpy(), checksum)
        return [*self.data.x.shape, checksum]


class StreamLoader:
    """Batches of a torch Dataset or of any iterable, read anew in every epoch.

    Args:
        data: a map-style Dataset, which is shuffled here; or an iterable of batches (x, y), such
            as a DataLoader, in whatever order it gives them. y may hold soft labels (B, K).
        argument: its name in messages.

    Raises:
        SFFError: nothing in it, or it can be read only once.
        TypeError: its items are not pairs of tensors.
    """

    def __init__(self, data: Dataset | Iterable, argument: str):
        self.data = data
        self.name = argument
        self.is_dataset = isinstance(data, Dataset) and not isinstance(data, IterableDataset)
        if isinstance(data, Iterator):
            raise SFFError(
                f"{argument} can be read only once; give something that starts anew for every "
                "epoch, such as a DataLoader"
            )
        with torch.random.fork_rng(devices=[]):  # looking at the data draws no random number
            batch = next(iter(self.batches(2)), None)
        if batch is None:
            raise SFFError(f"{argument} holds no batches")
        if not (isinstance(batch, tuple | list) and len(batch) == 2
                and all(isinstance(part, Tensor) for part in batch)):  # fmt: skip
            raise TypeError(
                f"{argument} must give pairs of tensors (x, y), not {short_repr(batch)}"
            )
        x, self.labels = batch
        check_samples(x, f"{argument} x")
        self.sample = x[:2]
        self.num_classes = None

    def check_labels(self, num_classes: int) -> None:
        """Raise unless the first batch's labels are in [0, num_classes), or soft labels."""
        if self.labels.is_floating_point():
            if self.labels.dim() != 2 or self.labels.shape[1] != num_classes:
                raise SFFError(
                    f"{self.name} y has shape {tuple(self.labels.shape)}; soft labels for "
                    f"{num_classes} classes are (B, {num_classes})"
                )
        else:
            check_labels(self.labels, num_classes, f"{self.name} y")

    def steps(self, batch_size: int, smallest: int = 1) -> int | None:
        """Batches of an epoch; None if nobody knows."""
        if self.is_dataset:
            full, rest = divmod(len(self.data), batch_size)
            return full + (0 < smallest <= rest)
        try:
            return len(self.data)
        except TypeError:
            return None

    def batches(self, batch_size: int) -> Iterable[tuple[Tensor, Tensor]]:
        """All samples once; ``batch_size`` is for a Dataset only."""
        if isinstance(self.data, Dataset):
            return DataLoader(self.data, batch_size)
        return self.data

    def shuffled(
        self,
        batch_size: int,
        generator: torch.Generator,
        augment: str | None = None,
        smallest: int = 2,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch; arguments as in ``MemoryLoader.shuffled``. Only a Dataset is shuffled here."""
        loader = self.batches(batch_size)
        if self.is_dataset:
            short = 0 < len(self.data) % batch_size < smallest
            loader = DataLoader(
                self.data, batch_size, shuffle=True, generator=generator, drop_last=short
            )
        for x, y in loader:
            yield (x if augment is None else AUGMENTATIONS[augment](x, generator)), y

    def fingerprint(self) -> list[int]:
        """The shape of a sample: what can be known without reading everything."""
        return list(self.sample.shape[1:])
