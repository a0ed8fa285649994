"""Checks of arguments, called at the front doors: `fit`, `evaluate`, `localize`, `load`, commands.

A wrong type raises TypeError, a wrong value SFFError. Exceptions of torch and of the user's own
code are not caught.
"""

import difflib
import math
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor, nn

from .modes import evaluating


class SFFError(ValueError):
    """An argument has an invalid value, or an object is in the wrong state."""


def short_repr(value: object) -> str:
    """The repr on one line, of about 60 characters; of arrays, dtype and shape."""
    if isinstance(value, Tensor | np.ndarray):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"{type(value).__name__}({dtype}, shape {tuple(value.shape)})"
    text = escape_unprintable(repr(value))
    return text if len(text) <= 60 else text[:59] + "…"


def escape_unprintable(text: object) -> str:
    """A text on one line, with unprintable characters as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def sentence(error: BaseException) -> str:
    """An error's text on one line, or its type if it has none."""
    return escape_unprintable(" ".join(str(error).split())) or type(error).__name__


def exit_code(program: str, command: Callable[[], object], *others: type[Exception]) -> int:
    """Run a command: 0, or 2 after an error that is printed in one sentence, or 130 after Ctrl-C.

    `others` are error types besides SFFError and OSError.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError):  # streams that cannot be changed stay as they are
            stream.reconfigure(errors="replace")  # cp1251 has no ×, and prints ? instead
    try:
        command()
    except (SFFError, OSError, *others) as error:
        print(f"{program}: {sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def check_known(name: object, known: Iterable, what: str) -> None:
    """Raise unless `name` is one of `known`; the message names the nearest."""
    known = list(known)
    # types first: an array would be compared with a name value by value
    if any(isinstance(name, type(k)) and name == k for k in known):
        return
    folded = {str(k).casefold(): str(k) for k in known}
    close = difflib.get_close_matches(str(name).casefold(), folded, n=1, cutoff=0.5)
    hint = f"; did you mean {folded[close[0]]!r}?" if close else "."
    listed = ", ".join(sorted(folded.values())[:20]) + (", …" if len(folded) > 20 else "")
    raise SFFError(f"unknown {what} {short_repr(name)}{hint} Known: {listed}.")


def check_number(
    value: object, argument: str, low: float = -math.inf, high: float = math.inf
) -> None:
    """Raise unless `value` is a finite number in [`low`, `high`]."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{argument} must be a number, not {short_repr(value)}")
    if not (low <= value <= high and math.isfinite(value)):
        allowed = f"in [{low:g}, {high:g}]" if high < math.inf else f"at least {low:g}"
        allowed = "finite" if low == -math.inf else allowed
        raise SFFError(f"{argument} must be {allowed}, not {value!r}")


def check_count(value: object, argument: str, minimum: int = 1, maximum: float = math.inf) -> None:
    """Raise unless `value` is a whole number in [`minimum`, `maximum`]."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{argument} must be a whole number, not {short_repr(value)}")
    if not minimum <= value <= maximum:
        limit = f"at least {minimum}" if value < minimum else f"at most {maximum}"
        raise SFFError(f"{argument} must be {limit}, not {short_repr(value)}")


def check_seed(seed: object) -> None:
    """Raise unless `seed` is a whole number in [0, 2³²), as NumPy's generators need it."""
    check_count(seed, "seed", minimum=0, maximum=2**32 - 1)


def check_fraction(value: object) -> None:
    """Raise unless `value` is a number in (0, 1]."""
    check_number(value, "fraction")
    if not 0 < value <= 1:
        hint = f" (did you mean {value / 100:g}?)" if 1 < value <= 100 else ""
        raise SFFError(f"fraction must be in (0, 1], not {value:g}{hint}")


def check_positive(**values: object) -> None:
    """Raise unless every value, named by its argument, is a finite number above 0."""
    for argument, value in values.items():
        check_number(value, argument)
        if value <= 0:
            raise SFFError(f"{argument} must be above 0, not {short_repr(value)}")


def check_labels(
    y: object, num_classes: int, argument: str = "y", *, length: int | None = None
) -> None:
    """Raise unless `y` is an int64 tensor (B,), not empty, with every label in [0, num_classes).

    `length` is the number of samples, if known.
    """
    if not isinstance(y, Tensor):
        raise TypeError(f"{argument} must be a torch tensor, not {type(y).__name__}")
    if y.dim() != 1:
        one_hot = y.dim() == 2 and y.shape[1] == num_classes
        hint = f"; turn one-hot rows into labels with {argument}.argmax(1)" if one_hot else ""
        raise SFFError(f"{argument} has shape {tuple(y.shape)} instead of (B,){hint}")
    if y.dtype != torch.int64:
        raise TypeError(f"{argument} is {y.dtype}, labels are int64; use {argument}.long()")
    if length is not None and len(y) != length:
        raise SFFError(f"{argument} has {len(y):,} labels for {length:,} images")
    if len(y) == 0:
        raise SFFError(f"{argument} is empty")
    if y.is_meta:
        return
    low, high = (int(v) for v in torch.aminmax(y))
    if low < 0 or high >= num_classes:
        hint = f"; labels start at 0, use {argument} - 1" if (low, high) == (1, num_classes) else ""
        label = low if low < 0 else high
        raise SFFError(f"{argument} holds label {label}, not from 0 to {num_classes - 1}{hint}")


def check_samples(x: object, argument: str = "x") -> None:
    """Raise unless `x` is a floating tensor (B, C, ...), not empty, and finite.

    A table is (B, C), a sequence (B, C, L), an image (B, C, H, W).
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{argument} must be a torch tensor, not {type(x).__name__}")
    if x.dim() < 2:
        raise SFFError(f"{argument} has shape {tuple(x.shape)}, not (B, C, ...)")
    if not x.is_floating_point():
        remedy = f"{argument}.float() / 255" if x.dtype == torch.uint8 else f"{argument}.float()"
        raise TypeError(f"{argument} is {x.dtype}, but must be floating point; use {remedy}")
    if x.numel() == 0:
        raise SFFError(f"{argument} is empty: its shape is {tuple(x.shape)}")
    # min and max propagate NaN and need no mask
    if not x.is_meta and not torch.stack(torch.aminmax(x.detach())).isfinite().all():
        bad = (~torch.isfinite(x)).flatten(1).any(1).nonzero().flatten()
        count = f"{len(bad):,} of {len(x):,} samples"
        raise SFFError(f"{argument} is NaN or infinite in {count}, first in number {int(bad[0])}")


def check_module(model: object) -> None:
    """Raise unless `model` is a torch module that has parameters."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {short_repr(model)}")
    if next(model.parameters(), None) is None:
        raise SFFError("model has no parameters to train")


def check_fits(model: nn.Module, x: Tensor, argument: str = "x") -> Tensor:
    """The model's output for `x` in evaluation mode; raises unless it is (B, K).

    The input of the first convolution must have its number of channels.
    """

    def check_channels(layer: nn.Module, inputs: tuple) -> None:
        got = inputs[0].shape[1]
        if got != layer.in_channels:
            raise SFFError(
                f"{argument} has samples of shape {tuple(x.shape[1:])}: the first convolution "
                f"takes {layer.in_channels} channels and gets {got}"
            )

    convolutions = (m for m in model.modules() if isinstance(m, nn.Conv1d | nn.Conv2d))
    first = next(convolutions, nn.Identity())
    with first.register_forward_pre_hook(check_channels), evaluating(model):
        output = model(x)
    if not isinstance(output, Tensor):
        raise TypeError(f"the model returns {short_repr(output)}, not a tensor (B, K)")
    if output.dim() != 2 or len(output) != len(x):
        raise SFFError(f"the model returns {tuple(output.shape)} for {len(x)} samples, not (B, K)")
    return output


def check_head(
    channels: object, num_classes: object, kernel_size: object = 1, filters: object = 1, dims=2
) -> None:
    """Raise unless a head of these sizes can be made."""
    check_count(channels, "channels")
    check_count(num_classes, "num_classes", minimum=2)
    check_count(filters, "filters")
    check_known(dims, (1, 2), "dims")
    check_count(kernel_size, "kernel_size")
    if kernel_size % 2 == 0:  # an odd one keeps the input's size
        raise SFFError(f"kernel_size must be odd, not {kernel_size}")
