"""What fit and evaluate read: tensors in memory, a torch Dataset, or any iterable of batches."""

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
    """Batches of labelled samples, read anew in every epoch.

    Args:
        data: as for ``fit``.
        name: of the argument, for messages.

    Attributes:
        sample: (1 or 2, C, ...) the first samples.
        samples: how many there are; None if they come in batches of their own.
        num_classes: K, or None where the data does not say it.

    Raises:
        SFFError: samples that are not finite, or none; or they can be read only once.
        TypeError: anything else than labelled samples.
    """

    def __init__(self, data: Data, name: str):
        if isinstance(data, LabelledTensors) or not _comes_in_batches(data):
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
            raise SFFError(
                f"{self.name} can be read only once; give something that starts anew for every "
                "epoch, such as a DataLoader"
            )
        with torch.random.fork_rng(devices=[]):  # looking at the data draws no random number
            batch = next(iter(self.batches(2)), None)
        if batch is None:
            raise SFFError(f"{self.name} holds no batches")
        if not (isinstance(batch, tuple | list) and len(batch) == 2
                and all(isinstance(part, Tensor) for part in batch)):  # fmt: skip
            raise TypeError(
                f"{self.name} must give pairs of tensors (x, y), not {short_repr(batch)}"
            )
        check_samples(batch[0], f"{self.name} x")
        return batch[0], batch[1]

    def check_labels(self, num_classes: int) -> None:
        """Raise unless labels are in [0, num_classes) or soft; of a stream, the first batch's."""
        y = self.labels
        if not y.is_floating_point():
            check_labels(y, num_classes, f"{self.name} y")
        elif y.shape[1:] != (num_classes,):
            raise SFFError(
                f"{self.name} y has shape {tuple(y.shape)}; soft labels for {num_classes} classes "
                f"are (B, {num_classes})"
            )

    def steps(self, batch_size: int, smallest: int = 2) -> int | None:
        """Batches of an epoch of training; None if nobody knows.

        Args:
            batch_size: samples per batch.
            smallest: a last batch of fewer samples is left out.
        """
        if self.samples is not None:
            full, rest = divmod(self.samples, batch_size)
            return full + (rest >= smallest)
        try:
            return len(self.data)
        except TypeError:
            return None

    def batches(
        self,
        batch_size: int,
        generator: torch.Generator | None = None,
        drop_last: bool = False,
    ) -> Iterable[tuple[Tensor, Tensor]]:
        """All samples once; data that comes in batches ignores the arguments.

        Args:
            batch_size: samples per batch.
            generator: draws a new order; None for the order they have.
            drop_last: whether to leave out a last batch that is not full.
        """
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
        """One epoch: every sample once, in a new order, augmented.

        Args:
            batch_size: samples per batch.
            generator: draws the order and the augmentation.
            augment: a name from AUGMENTATIONS, or None.
            smallest: a last batch of fewer samples is left out; BatchNorm cannot train on one.
        """
        too_few = self.samples is not None and 0 < self.samples % batch_size < smallest
        for x, y in self.batches(batch_size, generator, drop_last=too_few):
            yield (x if augment is None else AUGMENTATIONS[augment](x, generator)), y

    def fingerprint(self) -> str:
        """By what a checkpoint knows the data; of a stream, the shape of a sample."""
        return self.data.fingerprint if self.in_memory else str(tuple(self.sample.shape[1:]))

    def keep_on(self, device: torch.device) -> None:
        """Move samples in memory to a CUDA device if they take at most half of its free memory."""
        if device.type != "cuda" or not self.in_memory:
            return
        x, y = self.data.x, self.data.y
        if x.numel() * x.element_size() <= torch.cuda.mem_get_info(device)[0] / 2:
            self.data = replace(self.data, x=x.to(device), y=y.to(device))


def _comes_in_batches(data: Any) -> bool:
    no_batches = isinstance(data, Tensor | np.ndarray | str | dict) or _is_pair(data)
    return isinstance(data, Dataset) or (isinstance(data, Iterable) and not no_batches)


def _is_pair(data: Any) -> bool:
    return (
        isinstance(data, tuple | list)
        and len(data) == 2
        and all(isinstance(part, Tensor | np.ndarray) for part in data)
    )


def as_labelled_tensors(data: Any, name: str = "data") -> LabelledTensors:
    """A LabelledTensors as it is; a pair (x, y) of tensors or arrays as one, its values unchanged.

    Args:
        data: the samples and their labels.
        name: of the argument, for messages.

    Raises:
        SFFError: samples that are empty or not finite, labels that do not fit.
        TypeError: anything else.
    """
    if isinstance(data, LabelledTensors):
        check_samples(data.x, f"{name} x")
        return data
    if not _is_pair(data):
        raise TypeError(
            f"{name} must be a LabelledTensors, a pair (x, y) of tensors or arrays, a torch "
            f"Dataset, or an iterable of batches (x, y), not {short_repr(data)}"
        )
    x, y = (torch.as_tensor(part) for part in data)
    check_samples(x, f"{name} x")
    channels = x.shape[1]
    return from_arrays(x, y, mean=[0.0] * channels, std=[1.0] * channels, name=name)


# ---------------------------------------------------------------- memory layout


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
