"""Checks of what the user gives: a failure is one sentence with the argument and the remedy.

A wrong kind of thing is a TypeError, a wrong value a ValueError.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import NoReturn

import torch
from torch import Tensor

from ._modes import looking


def nearest(name: object, known: Iterable[str], what: str) -> NoReturn:
    """Raise the ValueError for an unknown `name`, with the nearest of the `known` ones.

    `nearest("sfff", RULES, "rule")` raises `unknown rule "sfff"; did you mean "sff"? Known: …`.
    """
    known = [str(k) for k in known]
    by_folded = {k.casefold(): k for k in known}
    close = difflib.get_close_matches(str(name).casefold(), by_folded, n=1, cutoff=0.5)
    hint = f' did you mean "{by_folded[close[0]]}"? Known:' if close else " known:"
    raise ValueError(f'unknown {what} "{name}";{hint} {", ".join(sorted(known))}.')


def check_count(value: object, argument: str, minimum: int = 1) -> None:
    """Raise unless `value` is a whole number of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(
            f"{argument} must be a whole number, not {value!r}; give {minimum} or more."
        )
    if value < minimum:
        raise ValueError(f"{argument}={value} is too small; give {minimum} or more.")


def check_seed(seed: object, argument: str = "seed") -> None:
    """Raise unless `seed` is a whole number in [0, 2³²), the range every generator here accepts."""
    check_count(seed, argument, minimum=0)
    if seed >= 2**32:
        raise ValueError(f"{argument}={seed} is too large; give a whole number below 2**32.")


def check_fraction(value: object, argument: str = "fraction") -> None:
    """Raise unless `value` is a number in (0, 1]."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{argument} must be a number, not {value!r}; give one in (0, 1].")
    if math.isnan(value) or not 0 < value <= 1:
        hint = f" (did you mean {value / 100:g}?)" if 1 < value <= 100 else ""
        raise ValueError(f"{argument}={value:g} is outside (0, 1]; 1 takes every image{hint}.")


def check_labels(
    y: object, num_classes: int, argument: str = "y", *, length: int | None = None
) -> None:
    """Raise unless `y` is an int64 tensor (B,), not empty, with every label in [0, num_classes).

    `length` is the number of images that the labels belong to, where that is known.
    """
    if not isinstance(y, Tensor):
        raise TypeError(
            f"{argument} must be a torch tensor, not {type(y).__name__}; "
            f"use torch.as_tensor({argument})."
        )
    if y.dim() != 1:
        if y.dim() == 2 and y.shape[1] == num_classes:
            remedy = f"turn one-hot rows into class numbers with {argument}.argmax(1)"
        elif y.dim() == 2 and y.shape[1] == 1:
            remedy = f"use {argument}.squeeze(1)"
        else:
            remedy = "give one class number per image, shape (B,)"
        raise ValueError(f"{argument} has shape {tuple(y.shape)} instead of (B,); {remedy}.")
    if y.dtype != torch.int64:
        raise TypeError(
            f"{argument} has dtype {_dtype(y)}, but class numbers are int64; "
            f"convert with {argument}.long()."
        )
    if length is not None and len(y) != length:
        raise ValueError(
            f"{argument} has {len(y):,} labels for {length:,} images; give one label per image."
        )
    if len(y) == 0:
        raise ValueError(f"{argument} is empty; give at least one label.")
    if y.is_meta:
        return  # a shape without values
    low, high = (int(v) for v in torch.aminmax(y))
    if low < 0 or high >= num_classes:
        if low == 1 and high == num_classes:
            remedy = f"labels start at 0, so use {argument} - 1"
        else:
            remedy = "relabel, or give the right number of classes"
        raise ValueError(
            f"{argument} holds label {low if low < 0 else high}, but with {num_classes} classes "
            f"labels are 0 to {num_classes - 1}; {remedy}."
        )


def check_images(x: object, channels: int | None = None, argument: str = "x") -> None:
    """Raise unless `x` is a floating tensor (B, C, H, W), not empty, and finite.

    `channels` is the number of channels that the model takes, where that is known.
    """
    if isinstance(x, Tensor) and x.dim() != 4:
        if x.dim() == 3:
            remedy = f"use {argument}[:, None] for grey images or {argument}[None] for one image"
        else:
            remedy = f"reshape {argument} to four dimensions"
        raise ValueError(f"{argument} has shape {tuple(x.shape)}, not (B, C, H, W); {remedy}.")
    check_samples(x, argument)
    if channels is not None and x.shape[1] != channels:
        if x.shape[3] == channels:
            remedy = f"channels come second, so use {argument}.permute(0, 3, 1, 2)"
        elif channels == 1:
            remedy = f"make them grey with {argument}.mean(1, keepdim=True)"
        elif x.shape[1] == 1:
            remedy = f"repeat the grey channel with {argument}.expand(-1, {channels}, -1, -1)"
        else:
            remedy = f"give images with {channels} channels"
        raise ValueError(
            f"{argument} has shape {tuple(x.shape)}, so {x.shape[1]} channels where {channels} "
            f"are needed; {remedy}."
        )


def check_samples(x: object, argument: str = "x") -> None:
    """Raise unless `x` is a floating tensor (B, C, ...), not empty, and finite.

    A table is (B, C), a sequence (B, C, L), an image (B, C, H, W).
    """
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{argument} must be a torch tensor, not {type(x).__name__}; "
            f"use torch.as_tensor({argument})."
        )
    if x.dim() < 2:
        raise ValueError(
            f"{argument} has shape {tuple(x.shape)}, not (B, C, ...); for a table with one column "
            f"use {argument}.reshape(-1, 1)."
        )
    samples, values = ("images", "pixels") if x.dim() == 4 else ("samples", "values")
    if not x.is_floating_point():
        remedy = f"{argument}.float()"
        if x.dtype == torch.uint8:
            remedy = f"divide by 255: {remedy} / 255"
        else:
            remedy = f"convert with {remedy}"
        raise TypeError(f"{argument} has dtype {_dtype(x)}, but {values} are floats; {remedy}.")
    if len(x) == 0:
        raise ValueError(f"{argument} holds no {samples}; give at least one.")
    if x.numel() == 0:
        needed = "C, H and W" if x.dim() == 4 else "every dimension"
        raise ValueError(
            f"{argument} has shape {tuple(x.shape)}, so its {samples} have no {values}; "
            f"give {needed} of at least 1."
        )
    if x.is_meta:
        return  # a shape without values
    # min and max pass NaN on, and need no mask as large as the images
    if not all(math.isfinite(v) for v in torch.stack(torch.aminmax(x.detach())).tolist()):
        bad = (~torch.isfinite(x)).flatten(1).any(1).nonzero().flatten()
        raise ValueError(
            f"{argument} holds NaN or infinite {values} in {len(bad):,} of {len(x):,} {samples} "
            f"(the first is number {int(bad[0])}); repair them with torch.nan_to_num or leave them "
            "out."
        )


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def check_known(name: object, known: Iterable, what: str) -> None:
    """Raise unless `name` is one of the `known` ones; the sentence says which is nearest."""
    if name not in (known := list(known)):
        nearest(name, known, what)


def check_positive(**values: object) -> None:
    """Raise unless every value, named by its argument, is a finite number above 0."""
    for argument, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{argument} must be a number, not {value!r}; give one above 0.")
        if not 0 < value < math.inf:
            raise ValueError(f"{argument}={value:g} is not above 0 and finite; give one that is.")


def check_fits(model: torch.nn.Module, x: Tensor, argument: str = "x") -> None:
    """Raise unless `model` can take samples like `x`, in one sentence instead of torch's traceback.

    Runs `model` once in evaluation mode without gradients; nothing in it changes.
    """
    try:
        with looking(model):
            given = len(model(x))  # a convolution takes (C, H, W) for a single image
        reason = "" if given == len(x) else f"{given} predictions for {len(x)} samples"
    except (RuntimeError, ValueError, IndexError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
    if reason:
        what = "images" if x.dim() == 4 else "samples"
        hint = f", or {argument}[:, None] if these are grey images" if x.dim() == 3 else ""
        raise ValueError(
            f"{argument} of shape {tuple(x.shape)} does not fit the model ({reason}); "
            f"give {what} with the channels and size that it was built for{hint}."
        )
