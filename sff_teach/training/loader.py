"""The data of fit and evaluate: tensors in memory, a torch Dataset, or an iterable of batches."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..data import AUGMENTATIONS, LabelledTensors, batches, from_arrays
from ..util.checks import SFFError, check_labels, check_samples, short_repr

Data = LabelledTensors | tuple | list | Dataset | Iterable


class Loader:
    """Batches of labelled samples, read anew in every epoch; ``name`` is used in messages.

    Attributes:
        sample: (1 or 2, C, ...) the first samples.
        samples: their number; None for an iterable of batches.
        num_classes: K, or None if unknown.
    """

    def __init__(self, data: Data, name: str):
        if isinstance(data, LabelledTensors) or not _yields_batches(data):
            data = as_labelled_tensors(data, name)
        self.data = data
        self.name = name
        self.in_memory = isinstance(data, LabelledTensors)
        self.is_dataset = isinstance(data, Dataset) and not isinstance(data, IterableDataset)
        self.samples = len(data) if self.in_memory or self.is_dataset else None
        self.num_classes = data.num_classes if self.in_memory else None
        x, self.labels = (data.x, data.y) if self.in_memory else self._first_batch()
        self.sample = x[:2]

    def _first_batch(self) -> tuple[Tensor, Tensor]:
        if isinstance(self.data, Iterator):
            raise SFFError(f"{self.name} can be read only once; give a list or a DataLoader")
        with torch.random.fork_rng(devices=[]):  # leaves the random state unchanged
            batch = next(iter(self.batches(2)), None)
        if batch is None:
            raise SFFError(f"{self.name} holds no batches")
        if not (isinstance(batch, tuple | list) and len(batch) == 2
                and all(isinstance(part, Tensor) for part in batch)):  # fmt: skip
            raise TypeError(f"{self.name} must give tensors (x, y), not {short_repr(batch)}")
        check_samples(batch[0], f"{self.name} x")
        return batch[0], batch[1]

    def check_labels(self, num_classes: int) -> None:
        """Raise unless labels are in [0, num_classes) or soft; of a stream, the first batch's."""
        y = self.labels
        if not y.is_floating_point():
            check_labels(y, num_classes, f"{self.name} y")
        elif y.shape[1:] != (num_classes,):
            raise SFFError(f"{self.name} y {tuple(y.shape)}: soft labels are (B, {num_classes})")

    def steps(self, batch_size: int, smallest: int = 2) -> int | None:
        """Batches per epoch, without a last one of fewer than ``smallest``; None if unknown."""
        if self.samples is not None:
            full, rest = divmod(self.samples, batch_size)
            return full + (rest >= smallest)
        try:
            return len(self.data)
        except TypeError:
            return None

    def batches(
        self, batch_size: int, generator: torch.Generator | None = None, drop_last: bool = False
    ) -> Iterable[tuple[Tensor, Tensor]]:
        """All samples once, shuffled if there is a generator; streams ignore the arguments."""
        options = {"generator": generator, "shuffle": generator is not None, "drop_last": drop_last}
        if self.in_memory:
            return batches(self.data, batch_size, **options)
        if self.is_dataset:
            return DataLoader(self.data, batch_size, **options)
        if isinstance(self.data, IterableDataset):
            return DataLoader(self.data, batch_size)
        return self.data

    def shuffled(
        self,
        batch_size: int,
        generator: torch.Generator,
        augment: str | None = None,
        smallest: int = 2,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of training, shuffled, augmented, without a last batch below ``smallest``."""
        too_few = self.samples is not None and 0 < self.samples % batch_size < smallest
        for x, y in self.batches(batch_size, generator, drop_last=too_few):
            yield (x if augment is None else AUGMENTATIONS[augment](x, generator)), y

    def fingerprint(self) -> str:
        """What identifies the data in a checkpoint; for a stream, the shape of a sample."""
        return self.data.fingerprint if self.in_memory else str(tuple(self.sample.shape[1:]))

    def to_device_if_it_fits(self, device: torch.device) -> None:
        """Move samples in memory to a CUDA device if they take at most half of its free memory."""
        if device.type != "cuda" or not self.in_memory:
            return
        x, y = self.data.x, self.data.y
        if x.numel() * x.element_size() <= torch.cuda.mem_get_info(device)[0] / 2:
            self.data = replace(self.data, x=x.to(device), y=y.to(device))


def _yields_batches(data: Any) -> bool:
    no_batches = isinstance(data, Tensor | np.ndarray | str | dict) or _is_pair(data)
    return isinstance(data, Dataset) or (isinstance(data, Iterable) and not no_batches)


def _is_pair(data: Any) -> bool:
    return (
        isinstance(data, tuple | list)
        and len(data) == 2
        and all(isinstance(part, Tensor | np.ndarray) for part in data)
    )


def as_labelled_tensors(data: Any, name: str = "data") -> LabelledTensors:
    """A LabelledTensors itself, or one made of a pair (x, y) with unchanged values."""
    if isinstance(data, LabelledTensors):
        check_samples(data.x, f"{name} x")
        return data
    if not _is_pair(data):
        kind = type(data).__name__
        raise TypeError(f"{name} must be labelled tensors, a Dataset or batches (x, y), not {kind}")
    x, y = (torch.as_tensor(part) for part in data)
    check_samples(x, f"{name} x")
    channels = x.shape[1]
    return from_arrays(x, y, mean=[0.0] * channels, std=[1.0] * channels, name=name)


def pick_layout(
    channels_last: bool | None, model: nn.Module, x: Tensor, device: torch.device
) -> bool:
    """Whether to use channels-last memory; None: for convolutions on a CPU or a CUDA device."""
    if channels_last and x.dim() != 4:
        raise SFFError(f"channels_last=True is for images (N, C, H, W), not for {tuple(x.shape)}")
    if channels_last is None:
        convolves = any(isinstance(module, nn.Conv2d) for module in model.modules())
        return x.dim() == 4 and convolves and device.type in ("cpu", "cuda")
    return channels_last


def lay_out(x: Tensor, device: torch.device | str, channels_last: bool) -> Tensor:
    """A batch (B, C, ...) on the device, in the network's memory layout.

    The strides are set even where both layouts count as contiguous (one channel, one pixel): they
    decide which kernel torch uses, and another kernel rounds differently.
    """
    last = channels_last and x.dim() == 4
    layout = torch.channels_last if last else torch.contiguous_format
    target = torch.empty_like(x, device="meta", memory_format=layout)
    if x.stride() != target.stride():
        x = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=layout).copy_(x)
    return x.to(device, non_blocking=True)
