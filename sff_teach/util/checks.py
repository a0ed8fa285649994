"""Checks of what the user gives: a failure is one sentence with the argument and the remedy.

A wrong kind of thing is a TypeError, a wrong value a ValueError.
"""

from __future__ import annotations

import difflib
import inspect
import math
import os
from collections.abc import Callable, Iterable
from dis import opmap
from functools import wraps
from numbers import Integral, Real
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from .modes import evaluating

class SFFError(ValueError):
    """What this package says about the arguments it was given, or about its own state."""


MOST = 2**31 - 1  # of anything that is counted


# ---------------------------------------------------------------- what is said


def short_repr(value: object) -> str:
    """A value as a sentence can hold it: on one line, and short."""
    if isinstance(value, Tensor | np.ndarray):
        what = "tensor" if isinstance(value, Tensor) else "array"
        where = f" on {value.device}" if isinstance(value, Tensor) and not value.is_cpu else ""
        return f"a {_dtype(value)} {what} of shape {tuple(value.shape)}{where}"
    if isinstance(value, str | bytes | int | float | complex | Path | None):
        if isinstance(value, int) and abs(value) > 10**30:
            return "a number of more than thirty digits"  # Python writes no very long ones
        text = repr(value)
        return text if len(text) <= 60 else text[:59] + "…"
    if isinstance(value, list | tuple | dict | set):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def root_cause(error: BaseException) -> BaseException:
    """The error that started it all."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    return error


def first_line(error: BaseException) -> str:
    """What a library says is wrong, on one line, without its last stop."""
    text = str(error).strip() or type(error).__name__
    line = text.splitlines()[0].rstrip(".!:; ")
    return line if len(line) <= 160 else line[:159] + "…"


def sentence(error: Exception) -> str:
    """An error's text; where it is the system's own, one that names the file and what to do."""
    if isinstance(error, OSError) and error.strerror and type(error).__str__ is OSError.__str__:
        what = escape_unprintable(error.filename) if error.filename else "a file"
        return f"{what} cannot be used ({error.strerror}); change its permissions or give another."
    return str(error)


_HERE = str(Path(__file__).parents[1]) + os.sep
_RAISE = opmap["RAISE_VARARGS"]
_EXPLAINED = (
    RuntimeError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError,
    AssertionError, OSError,
)  # fmt: skip


def is_ours(error: BaseException) -> bool:
    """Whether a ``raise`` of this package made it, and not something that was called."""
    place = error.__traceback__
    while place.tb_next is not None:
        place = place.tb_next
    code = place.tb_frame.f_code
    return code.co_filename.startswith(_HERE) and code.co_code[place.tb_lasti] == _RAISE


def explained(**checks: Callable[[object, str], None]) -> Callable:
    """Decorate a function or a class: what fails inside torch or numpy ends in one sentence.

    Nothing is checked beforehand, so a call that works costs nothing. After a failure the arguments
    named in ``checks`` are checked in turn; the first one refused has the sentence. If none is,
    the sentence has what was given and the library's own reason, whose traceback stays attached.
    Out of memory stays what it is. Of a class, the constructor and the public methods.
    """

    def decorate(thing):
        if isinstance(thing, type):
            for name, member in list(vars(thing).items()):
                if inspect.isfunction(member) and (
                    name in ("__init__", "__call__") or name[0] != "_"
                ):
                    setattr(thing, name, decorate(member))
            return thing

        if inspect.isgeneratorfunction(thing):

            @wraps(thing)
            def generator(*args, **kwargs):
                try:
                    yield from thing(*args, **kwargs)
                except _EXPLAINED as error:
                    _explain(thing, args, kwargs, checks, error)

            return generator

        @wraps(thing)
        def function(*args, **kwargs):
            try:
                return thing(*args, **kwargs)
            except _EXPLAINED as error:
                _explain(thing, args, kwargs, checks, error)

        return function

    return decorate


def _explain(function, args: tuple, kwargs: dict, checks: dict, error: Exception) -> NoReturn:
    if is_ours(error) or isinstance(error, torch.OutOfMemoryError):
        raise error
    if isinstance(error, OSError):
        raise type(error)(sentence(error)) from error
    try:
        given = inspect.signature(function).bind(*args, **kwargs).arguments
    except TypeError:  # an argument too many, or one that is missing: Python says which
        raise error from None
    for argument, check in checks.items():
        if argument in given:
            try:
                check(given[argument], argument)
            except _EXPLAINED as refused:
                if is_ours(refused):
                    raise refused from None
    listed = [f"{name} = {short_repr(value)}" for name, value in given.items() if name != "self"]
    name = function.__qualname__.removesuffix(".__init__").removesuffix(".forward")
    raise ValueError(
        f"{name} can't work with {', '.join(listed[:5])} ({first_line(root_cause(error))}); "
        f"help({name}) says what it takes."
    ) from error


# ---------------------------------------------------------------- checks


def nearest(name: object, known: Iterable[str], what: str) -> NoReturn:
    """Raise the ValueError for an unknown `name`, with the nearest of the `known` ones.

    `nearest("sfff", RULES, "rule")` raises `unknown rule "sfff"; did you mean "sff"? Known: …`.
    """
    known = sorted(str(k) for k in known)
    name = short_repr(name).strip("'\"")
    by_folded = {k.casefold(): k for k in known}
    close = difflib.get_close_matches(str(name).casefold(), by_folded, n=1, cutoff=0.5)
    hint = f' did you mean "{by_folded[close[0]]}"? Known:' if close else " known:"
    if len(known) > 20:
        known = [*difflib.get_close_matches(name, known, n=10, cutoff=0), "and others"]
    raise ValueError(f'unknown {what} "{name}";{hint} {", ".join(known)}.')


def check_count(value: object, argument: str, minimum: int = 1, maximum: int = MOST) -> None:
    """Raise unless `value` is a whole number of at least `minimum` and at most `maximum`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(
            f"{argument} must be a whole number, not {short_repr(value)}; give {minimum} or more."
        )
    if value < minimum:
        raise ValueError(f"{argument}={short_repr(value)} is too small; give {minimum} or more.")
    if value > maximum:
        raise ValueError(f"{argument}={short_repr(value)} is too large; give {maximum:,} or less.")


def check_seed(seed: object, argument: str = "seed") -> None:
    """Raise unless `seed` is a whole number in [0, 2³²), the range every generator here accepts."""
    check_count(seed, argument, minimum=0, maximum=2**32 - 1)


def check_number(
    value: object, argument: str, low: float = -math.inf, high: float = math.inf
) -> None:
    """Raise unless `value` is a finite number in [`low`, `high`]."""
    allowed = f"in [{low:g}, {high:g}]" if high < math.inf else f"of at least {low:g}"
    allowed = "that is finite" if low == -math.inf else allowed
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"{argument} must be a number, not {short_repr(value)}; give one {allowed}."
        )
    if not (low <= value <= high and abs(value) < math.inf):
        raise ValueError(
            f"{argument}={short_repr(value)} is out of range; give a number {allowed}."
        )


def check_fraction(value: object, argument: str = "fraction") -> None:
    """Raise unless `value` is a number in (0, 1]."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"{argument} must be a number, not {short_repr(value)}; give one in (0, 1]."
        )
    if math.isnan(value) or not 0 < value <= 1:
        hint = f" (did you mean {value / 100:g}?)" if 1 < value <= 100 else ""
        value = f"{float(value):g}" if abs(value) < 1e300 else short_repr(value)
        raise ValueError(f"{argument}={value} is outside (0, 1]; 1 takes every image{hint}.")


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
    check_dense(y, argument)
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


def check_dense(x: Tensor, argument: str) -> None:
    """Raise if `x` is a sparse tensor, which most of torch can't work with."""
    if x.layout is not torch.strided:
        raise TypeError(f"{argument} is a sparse tensor; give {argument}.to_dense().")


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
    check_dense(x, argument)
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


def _dtype(x: Tensor | np.ndarray) -> str:
    return str(x.dtype).removeprefix("torch.")


def check_known(name: object, known: Iterable, what: str) -> None:
    """Raise unless `name` is one of the `known` ones; the sentence says which is nearest."""
    known = list(known)
    # an array would be compared with a name value by value
    if not any(isinstance(name, type(k)) and name == k for k in known):
        nearest(name, known, what)


def check_positive(**values: object) -> None:
    """Raise unless every value, named by its argument, is a finite number above 0."""
    for argument, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(
                f"{argument} must be a number, not {short_repr(value)}; give one above 0."
            )
        if not 0 < value < math.inf:
            raise ValueError(
                f"{argument}={short_repr(value)} is not above 0 and finite; give one that is."
            )


def check_callable(value: object, argument: str, what: str) -> None:
    """Raise unless `value` can be called; `what` says what to give."""
    if not callable(value):
        raise TypeError(f"{argument} must be a function, not {short_repr(value)}; give {what}.")


def check_flag(**values: object) -> None:
    """Raise unless every value, named by its argument, is True or False."""
    for argument, value in values.items():
        if not isinstance(value, bool):
            raise TypeError(f"{argument} must be True or False, not {short_repr(value)}; give one.")


def check_path(value: object, argument: str = "path") -> None:
    """Raise unless `value` can be the name of a file or folder."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(
            f"{argument} must be a path, not {short_repr(value)}; give a string or a Path."
        )
    if not str(value).strip() or "\0" in str(value):
        raise ValueError(
            f"{argument}={short_repr(str(value))} is no name; give the path of a file."
        )


def check_module(model: object, argument: str = "model") -> None:
    """Raise unless `model` is a torch module that has parameters with values."""
    if not isinstance(model, torch.nn.Module):
        what = "the class itself" if isinstance(model, type) else short_repr(model)
        raise TypeError(f"{argument} must be a torch.nn.Module, not {what}; build it first.")
    parameters = list(model.parameters())
    if not parameters:
        raise ValueError(f"{argument} has no parameters; give a network that can learn.")
    if any(p.is_meta for p in parameters):
        raise ValueError(
            f'{argument} is on the device "meta", where nothing has a value; build it on the CPU.'
        )


def check_head(
    channels: object, num_classes: object, kernel_size: object = 1, filters: object = 1, dims=2
) -> None:
    """Raise unless a head of these sizes can be made."""
    check_count(channels, "channels")
    check_count(num_classes, "num_classes")
    check_count(filters, "filters")
    check_kernel(kernel_size)
    if num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}; a head needs at least two classes.")
    if dims not in (1, 2):
        raise ValueError(f"dims is {short_repr(dims)}; give 2 for maps or 1 for sequences.")
    check_layer(channels, num_classes * filters, kernel_size**dims)


def check_kernel(kernel_size: object) -> None:
    """Raise unless `kernel_size` is odd, so that the output can have the input's size."""
    check_count(kernel_size, "kernel_size", minimum=-MOST)
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size is {kernel_size}; use an odd number such as 1, 3 or 5.")


def check_layer(inputs: object, outputs: object, kernel: int = 1, **named: object) -> None:
    """Raise unless a layer of these sizes can be made and trained on this machine.

    `named`: further counts by their arguments, to be checked with them.
    """
    for argument, value in named.items():
        check_count(value, argument)
    weights = int(inputs) * int(outputs) * int(kernel)
    if weights * 16 > memory() // 2:  # weight, gradient, and AdamW's two moments
        raise ValueError(
            f"{short_repr(inputs)} inputs and {short_repr(outputs)} outputs make a layer of "
            f"{float(weights):.0e} weights, too many for this machine's memory; give fewer."
        )


def memory() -> int:
    """Bytes of this machine's memory; 8 GiB where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 8 * 2**30


def escape_unprintable(text: object) -> str:
    """A path or another text on one line, with what can't be printed written out."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def _misfit(output: object, samples: int, classes: int | None) -> str:
    """What is wrong with a model's output; nothing if it is one row for each sample."""
    if not isinstance(output, Tensor) or output.dim() < 1:
        return f"it returns {short_repr(output)}"
    if len(output) != samples:  # a convolution takes (C, H, W) for a single image
        return f"{len(output)} predictions for {samples} samples"
    if classes is not None and (output.dim() != 2 or output.shape[1] < classes):
        return f"it returns {tuple(output.shape)}, not a number for each of {classes} classes"
    return ""


def check_fits(
    model: torch.nn.Module, x: Tensor, argument: str = "x", classes: int | None = None
) -> None:
    """Raise unless `model` can take samples like `x`, in one sentence instead of torch's traceback.

    `classes`: how many numbers it has to give for each sample, at least; None where it is no
    classifier.
    Runs `model` once in evaluation mode without gradients; nothing in it changes.
    """
    try:
        with evaluating(model):
            output = model(x)
        reason = _misfit(output, len(x), classes)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever the model's own code raises
        reason = first_line(root_cause(error))
    if reason:
        what = "images" if x.dim() == 4 else "samples"
        hint = f", or {argument}[:, None] if these are grey images" if x.dim() == 3 else ""
        raise ValueError(
            f"{argument} of shape {tuple(x.shape)} does not fit the model ({reason}); "
            f"give {what} with the channels and size that it was built for{hint}."
        )
