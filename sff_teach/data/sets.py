"""Data in memory: load(name, fraction, seed) for embedded sets and for a folder of images.

Train, validation and test are kept apart. The test images and the validation images are the same
whatever the seed and the fraction; only the training images are thinned out. What holds for images
(N, C, H, W) holds for sequences (N, C, L) and for tables (N, C): a table's columns are channels.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..util.checks import (
    check_count,
    check_fraction,
    check_labels,
    check_number,
    check_samples,
    check_seed,
    escape_unprintable,
    explained,
    nearest,
    short_repr,
)
from . import text
from .download import FASHION_CLASSES, SETS, fetch, read_arrays
from .folder import HELD_OUT, read_folder

SAMPLE_FILE = "fashion-mnist-sample.npz"
SAMPLE_SHA256 = "700e63054256b4370861c32efc36a931e92474b5a83b6d9b120acc8f0b28b732"

MOST_CLASSES = 1_000_000

_EMBEDDED = ("digits", "fashion-mnist-sample", "breast-cancer", "docstrings")
_HERE = Path(__file__).resolve().parents[1]  # the package
_SPLIT_SEED = 0  # of the fixed splits; the user's seed never moves a test or validation image


# ---------------------------------------------------------------- what a data set is


@explained()
@dataclass(frozen=True, eq=False)
class LabelledTensors:
    """Labelled samples in memory, standardised per channel: x = (values - mean) / std.

    x: (N, C, ...) float32, a table (N, C) or sequences (N, C, L); images (N, C, H, W) are an
    `ImageSet`. y: (N,) int64 in [0, K); classes: the K names; mean and std: one number per channel,
    of the training samples. Raises ValueError where these do not fit together.
    """

    x: Tensor
    y: Tensor
    classes: tuple[str, ...]
    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        fits = self.x.dim() == 4 if isinstance(self, ImageSet) else self.x.dim() >= 2
        if not fits or self.y.dim() != 1 or len(self.x) != len(self.y):
            shape = "(N, C, H, W)" if isinstance(self, ImageSet) else "(N, C, ...)"
            raise ValueError(
                f"x has shape {tuple(self.x.shape)} and y has shape {tuple(self.y.shape)}; "
                f"give x as {shape} and y as (N,)."
            )
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(
                f"mean has {len(self.mean)} and std {len(self.std)} numbers for {self.channels} "
                "channels; give one of each per channel."
            )

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        kind, shape = type(self).__name__, "×".join(str(n) for n in self.x.shape[1:])
        what = "images" if isinstance(self, ImageSet) else "samples"
        return f"{kind}({self.name}: {len(self):,} {what} {shape}, {self.num_classes} classes)"

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def channels(self) -> int:
        return self.x.shape[1]

    @property
    def size(self) -> tuple[int, ...]:
        """(H, W) of images, (L,) of sequences, () of a table's rows."""
        return tuple(self.x.shape[2:])

    def subset(self, index: Tensor | np.ndarray | Sequence[int] | slice) -> LabelledTensors:
        """The samples at `index` (positions (M,), a mask (N,) or a slice), standardised as before.

        Raises ValueError for a position outside [-N, N), a mask of another length, another shape.
        """
        if isinstance(index, slice):
            index = torch.arange(len(self))[index]
        index = torch.as_tensor(index)
        if index.numel() == 0:
            index = index.long()
        if index.dim() != 1 or index.is_floating_point() or index.is_complex():
            raise ValueError(
                f"index must be a list of positions, a mask or a slice, not {_dtype_shape(index)}; "
                "for one sample i give [i]."
            )
        if index.dtype == torch.bool:
            if len(index) != len(self):
                raise ValueError(
                    f"index is a mask of {len(index):,} for {len(self):,} samples; give one per "
                    "sample."
                )
            index = index.nonzero().flatten()
        index = index.long()
        if len(index) and not -len(self) <= int(index.min()) <= int(index.max()) < len(self):
            raise ValueError(
                f"index reaches from {int(index.min())} to {int(index.max())}, but {self.name} "
                f"has {len(self):,} samples; stay below that."
            )
        return replace(self, x=self.x[index], y=self.y[index])

    def values(self) -> Tensor:
        """The samples as they were, (N, C, ...): x · std + mean."""
        mean, std = (_per_channel(v, self.x) for v in (self.mean, self.std))
        return self.x * std + mean


@explained()
class ImageSet(LabelledTensors):
    """A LabelledTensors of images: x (N, C, H, W)."""

    def as_rgb(self) -> ImageSet:
        """The same images with three equal channels, for networks made for colour; no copy.

        Colour images come back as they are.
        """
        if self.channels == 3:
            return self
        if self.channels != 1:
            raise ValueError(f"images have {self.channels} channels; as_rgb needs one or three.")
        return replace(self, x=self.x.expand(-1, 3, -1, -1), mean=self.mean * 3, std=self.std * 3)

    def pixels(self) -> Tensor:
        """The images as they were, (N, C, H, W): x · std + mean; in [0, 1] for every named set."""
        p = self.values()
        if len(p) and p.min() > -1e-4 and p.max() < 1 + 1e-4:
            p.clamp_(0, 1)  # rounding reaches 1e-6 over, and matplotlib complains
        return p


@dataclass(frozen=True, eq=False)
class Splits:
    """The three parts of a data set; `train, valid, test = load(name)` takes them apart."""

    train: LabelledTensors
    valid: LabelledTensors
    test: LabelledTensors

    def __iter__(self) -> Iterator[LabelledTensors]:
        return iter((self.train, self.valid, self.test))

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

    @property
    def num_classes(self) -> int:
        return self.train.num_classes


# ---------------------------------------------------------------- loading by name


@explained()
def load(
    name: str,
    fraction: float = 1.0,
    seed: int = 0,
    *,
    validation: float = 0.1,
    size: int | tuple[int, int] | None = None,
) -> Splits:
    """Load a data set by name, split into train, validation and test.

    name: "digits" (1,797 images 1×8×8); "fashion-mnist-sample" (10,000 + 2,000 images 1×28×28);
    "breast-cancer" (a table of 569 rows and 30 columns); "docstrings" (up to 5,750 + 1,500
    sentences as sequences, from the libraries installed here, see `text.corpus`); "fashion-mnist",
    "cifar10", "cifar100", "imagenette" (cropped to 160×160: 4.1 GB of memory) and
    "pneumonia-mnist", which are downloaded on first use into `data_home()`; or "folder:PATH", where
    PATH holds train/ and test/ (and perhaps valid/) with one folder of images per class, or else
    the class folders themselves, of which 20 % of each become the test images.
    validation: share of each class of the training pool that is set aside; 0 gives an empty set.
    The choice is fixed: it depends on neither seed nor fraction. Where a folder has valid/ (or
    val/), or a set has validation data of its own ("docstrings", "pneumonia-mnist"), that is the
    validation set instead, unless validation is 0.
    fraction, seed: share of each class of the rest that is trained on (see `take_fraction`).
    size: for folders only: H = W or (H, W); the short side is resized, then the centre is cropped.

    All three parts are standardised with the mean and standard deviation per channel of the chosen
    training images alone: a small-data run must not learn even these from images it does not have.
    (Sentences are ones and zeros and stay so.)
    So the x of a test image differs a little from one fraction to another; `pixels()` does not.

    A folder's images (png, jpg, jpeg, bmp, webp) become RGB if any is stored in colour, else one
    grey channel; transparency is dropped, EXIF rotation applied, 16 bits cut to 8. Hidden files,
    files of other types, and links to folders inside a class folder are left out. Classes are the
    folder names in alphabetical order.

    Raises ValueError, TypeError or FileNotFoundError in one sentence for an unknown name, numbers
    out of range, a class left without images, and damaged, missing or unequal files.
    """
    if not isinstance(name, str):
        raise TypeError(
            f'name must be a string, not {type(name).__name__}; for a folder give "folder:PATH".'
        )
    check_fraction(fraction)
    check_seed(seed)
    check_number(validation, "validation")
    if not 0 <= validation < 1:
        raise ValueError(
            f"validation={short_repr(validation)} is outside [0, 1); give for example 0.1."
        )
    size = _check_size(size)
    if size is not None and not name.startswith("folder:"):
        raise ValueError(f'size only works with "folder:PATH"; leave it out for "{name}".')

    if name == "digits":
        raw = _read_digits()
    elif name == "fashion-mnist-sample":
        raw = _read_fashion_sample()
    elif name == "breast-cancer":
        raw = _read_breast_cancer()
    elif name == "docstrings":
        raw = _read_docstrings()
    elif name.startswith("folder:"):
        raw = _Raw(**read_folder(name.removeprefix("folder:"), size))
    elif name in SETS:
        raw = _read_download(name)
    elif os.path.isdir(name):
        raise ValueError(
            f'"{escape_unprintable(name)}" is a folder; write load("folder:{escape_unprintable(name)}").'
        )
    else:
        nearest(name, [*_EMBEDDED, *SETS, "folder:PATH"], "data set")

    x, y = raw.train
    if raw.valid is None:
        rest, held = _hold_out(y, validation, raw.classes, "validation")
        raw_valid = x[held], y[held]
    else:
        rest = np.arange(len(y))
        raw_valid = raw.valid if validation else (x[:0], y[:0])
    rest = rest[take_fraction(y[rest], fraction, seed, classes=raw.classes).numpy()]
    raw_train = x[rest], y[rest]
    if raw.standardised:
        mean, std = _mean_std(raw_train[0], raw.full_scale)
    else:
        mean, std = (0.0,) * x.shape[1], (1.0,) * x.shape[1]

    def finish(part: str, x: np.ndarray, y: np.ndarray) -> LabelledTensors:
        x = torch.from_numpy(np.ascontiguousarray(x)).float().div_(raw.full_scale)
        x.sub_(_per_channel(mean, x)).div_(_per_channel(std, x))
        return _data_set(x, torch.from_numpy(y), raw.classes, f"{name}/{part}", mean, std)

    return Splits(
        finish("train", *raw_train), finish("valid", *raw_valid), finish("test", *raw.test)
    )


@explained()
def from_arrays(
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    classes: Sequence[str] | None = None,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    name: str = "own data",
) -> LabelledTensors:
    """Your own samples x (N, C, ...), floating, and labels y (N,), whole numbers, as a LabelledTensors.

    A table is (N, C) with a column per channel, sequences are (N, C, L); images (N, C, H, W) make
    an ImageSet.
    Without mean and std, x is standardised with its own. Give those of the training images to the
    others: `test = from_arrays(x, y, train.classes, mean=train.mean, std=train.std)`.
    classes: K names; without them the numbers 0 … max(y). The tensors given are not changed.
    Raises TypeError or ValueError for NaN, uint8 pixels, labels outside [0, K), and wrong shapes.
    """
    x, y = _tensor(x, "x"), _tensor(y, "y")
    if x.is_meta or y.is_meta:
        raise ValueError('x or y is on the device "meta", where nothing has a value; use the CPU.')
    y = y.cpu()
    x = x.float() if x.is_floating_point() else x
    check_samples(x)
    if not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool):
        y = y.long()
    if isinstance(classes, str):
        raise TypeError(f'classes must be a list of names, not "{classes}"; give one per class.')
    if classes is None:
        whole = y.dtype == torch.int64 and y.numel()
        count = int(y.max()) + 1 if whole else 1
        if count > MOST_CLASSES:
            raise ValueError(
                f"y holds label {short_repr(count - 1)}, and without classes that makes as many names; "
                "number the classes from 0, or give classes=."
            )
        classes = [str(k) for k in range(count)]
    check_labels(y, len(classes), length=len(x))
    if (mean is None) != (std is None):
        raise ValueError("mean and std belong together; give both or neither.")
    if mean is None:
        by_channel = [x[:, c].double() for c in range(x.shape[1])]
        mean = [float(v.mean()) for v in by_channel]
        std = [_safe_std(float(v.std(correction=0))) for v in by_channel]
    mean, std = (tuple(float(v) for v in values) for values in (mean, std))
    if not all(0 < s < math.inf for s in std) or not all(math.isfinite(m) for m in mean):
        raise ValueError(
            f"mean={mean} and std={std} must be finite, and std above 0; take them from the "
            "training images."
        )
    if len(mean) == len(std) == x.shape[1]:  # else LabelledTensors says what is wrong
        x = (x - _per_channel(mean, x)) / _per_channel(std, x)
    return _data_set(x, y.clone().to(x.device), tuple(str(c) for c in classes), name, mean, std)


def _data_set(x: Tensor, *rest) -> LabelledTensors:
    return (ImageSet if x.dim() == 4 else LabelledTensors)(x, *rest)


def catalog() -> list[dict[str, object]]:
    """Every known data set: name, train, test (images), classes, shape, licence, present."""
    rows = [
        ("digits", 1438, 359, 10, "1×8×8", "UCI, shipped with scikit-learn"),
        ("fashion-mnist-sample", 10_000, 2_000, 10, "1×28×28", "MIT"),
        ("breast-cancer", 456, 113, 2, "30", "CC BY 4.0, shipped with scikit-learn"),
        ("docstrings", 5_750, 1_500, 5, text.SHAPE, "BSD-like, of the installed libraries"),
        ("fashion-mnist", 60_000, 10_000, 10, "1×28×28", "MIT"),
        ("cifar10", 50_000, 10_000, 10, "3×32×32", "none stated"),
        ("cifar100", 50_000, 10_000, 100, "3×32×32", "none stated"),
        ("imagenette", 9_469, 3_925, 10, "3×160×160", "of ImageNet"),
        ("pneumonia-mnist", 5_232, 624, 2, "1×28×28", "CC BY 4.0"),
        ("folder:PATH", None, None, None, "yours", "yours"),
    ]
    keys = ("name", "train", "test", "classes", "shape", "licence")
    return [dict(zip(keys, row, strict=True)) | {"present": _present(row[0])} for row in rows]


def data_home() -> Path:
    """Folder for downloaded sets: SFF_TEACH_DATA, or `sff-teach` in the user's cache folder.

    It is not created here. Raises NotADirectoryError if it is a file.
    """
    if os.environ.get("SFF_TEACH_DATA"):
        home = Path(os.environ["SFF_TEACH_DATA"]).expanduser()
    elif sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        home = Path(os.environ["LOCALAPPDATA"]) / "sff-teach"
    elif sys.platform == "darwin":
        home = Path.home() / "Library" / "Caches" / "sff-teach"
    elif os.environ.get("XDG_CACHE_HOME"):
        home = Path(os.environ["XDG_CACHE_HOME"]) / "sff-teach"
    else:
        home = Path.home() / ".cache" / "sff-teach"
    if home.exists() and not home.is_dir():
        raise NotADirectoryError(f"{home} is a file; set SFF_TEACH_DATA to a folder.")
    return home


# ---------------------------------------------------------------- choosing images


@explained()
def take_fraction(
    y: Tensor | np.ndarray | Sequence[int],
    fraction: float,
    seed: int = 0,
    *,
    classes: Sequence[str] | None = None,
) -> Tensor:
    """Positions (M,) of a class-balanced subset: of the n images of a class, round(fraction · n).

    The images of each class are put in an order drawn from the seed; the one at place r = 0, 1, …
    of its class comes in as soon as fraction ≥ (r + ½) / n. So the subsets of one seed are nested,
    each a prefix of the next, and every prefix is balanced to within one image per class.
    y: labels (N,). classes: names for the error message.
    Raises ValueError for a fraction outside (0, 1] or one that leaves a class without images.
    """
    check_fraction(fraction)
    check_seed(seed)
    y = _tensor(y, "y").cpu().numpy()
    if y.ndim != 1 or len(y) == 0:
        raise ValueError(f"y has shape {y.shape}; give at least one label, shape (N,).")
    order, share = _balanced_order(y, seed)
    numbers, counts = np.unique(y, return_counts=True)
    rarest = int(counts.argmin())
    smallest = 0.5 / counts[rarest]
    if fraction < smallest - 1e-9:
        who = classes[int(numbers[rarest])] if classes is not None else numbers[rarest]
        raise ValueError(
            f'fraction={fraction:g} leaves class "{who}" ({_images(counts[rarest])}) without one; '
            f"use fraction={_round_up(smallest):g} or more."
        )
    return torch.from_numpy(order[share <= fraction + 1e-9])


def _balanced_order(y: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """All positions in the order in which growing fractions take them in, and the fraction each
    one needs, (rank within the class + ½) / class size; both (N,)."""
    random = np.random.RandomState(seed)  # its stream is frozen, unlike default_rng's
    share = np.empty(len(y))
    for k in np.unique(y):
        members = random.permutation(np.flatnonzero(y == k))
        share[members] = (np.arange(len(members)) + 0.5) / len(members)
    order = np.lexsort((y, share))
    return order, share[order]


def _hold_out(
    y: np.ndarray, share: float, classes: Sequence[str], argument: str
) -> tuple[np.ndarray, np.ndarray]:
    """Positions kept and positions set aside, the same share of every class, without any seed."""
    if share == 0:
        return np.arange(len(y)), np.arange(0)
    order, needed = _balanced_order(y, _SPLIT_SEED)
    taken = needed <= share + 1e-9
    counts = np.bincount(y, minlength=len(classes))
    held = np.bincount(y[order[taken]], minlength=len(classes))
    for k, (n, out) in enumerate(zip(counts, held, strict=True)):
        if out == 0 or out == n:
            if n == 1:
                remedy = f"add images or use {argument}=0"
            elif out == n:
                remedy = f"use a smaller {argument}"
            else:
                remedy = f"use {argument}={_round_up(0.5 / n):g} or more, or {argument}=0"
            raise ValueError(
                f'{argument}={share:g} leaves class "{classes[k]}" ({_images(n)}) with '
                f"{n - out} to train on and {out} to validate on; {remedy}."
            )
    return np.sort(order[~taken]), order[taken]


@explained()
def batches(
    data: LabelledTensors,
    batch_size: int,
    *,
    shuffle: bool = False,
    generator: torch.Generator | None = None,
    drop_last: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Minibatches (x (B, C, ...), y (B,)), every sample once, in a new order if `shuffle`.

    drop_last leaves out a last batch that is not full; `fit` does so where it holds a single image,
    which BatchNorm cannot train on. generator: draws the order, so that it repeats.
    Raises TypeError for anything but a LabelledTensors, ValueError if not even one batch comes out.
    """
    if not isinstance(data, LabelledTensors):
        hint = "give one part, like splits.train" if isinstance(data, Splits) else "see from_arrays"
        raise TypeError(f"data must be a LabelledTensors, not {type(data).__name__}; {hint}.")
    check_count(batch_size, "batch_size")
    if generator is not None and not shuffle:
        raise ValueError("generator has no effect without shuffle=True; give both or neither.")
    if len(data) == 0:
        raise ValueError(f"data ({data.name}) holds no samples; give at least one.")
    if drop_last and len(data) < batch_size:
        raise ValueError(
            f"batch_size={batch_size} is more than the {len(data)} samples of {data.name}, and "
            f"drop_last leaves no batch; use batch_size={len(data)} or less."
        )
    where = generator.device if generator is not None else "cpu"
    order = torch.randperm(len(data), generator=generator, device=where) if shuffle else None

    def produce() -> Iterator[tuple[Tensor, Tensor]]:
        last = len(data) - (len(data) % batch_size if drop_last else 0)
        for start in range(0, last, batch_size):
            chosen = slice(start, start + batch_size)
            if order is not None:
                chosen = order[chosen].to(data.x.device)
            yield data.x[chosen], data.y[chosen]  # (B, C, ...), (B,)

    return produce()


@explained()
def augment_flip_crop(x: Tensor, generator: torch.Generator | None = None, pad: int = 4) -> Tensor:
    """Flip each image left to right with probability ½ and shift it by up to `pad` pixels.

    x: (B, C, H, W); returns a new tensor of that shape. The shift is a random crop of the image
    padded by mirroring: zeros would draw a border that no test image has. Not for digits or
    letters: a mirrored 2 is no 2.
    Raises ValueError unless 0 ≤ pad < min(H, W). The draws come from `generator`, and are the same
    for x on any device.
    """
    if x.dim() != 4:
        raise ValueError(f"x has shape {tuple(x.shape)}; give images (B, C, H, W).")
    b, c, height, width = x.shape
    check_count(pad, "pad", minimum=0)
    if pad >= min(height, width):
        raise ValueError(
            f"pad={pad} is too large to mirror images of {height}×{width} pixels; "
            f"use pad={min(height, width) - 1} or less."
        )
    where = generator.device if generator is not None else "cpu"
    shift = torch.randint(-pad, pad + 1, (2, b, 1), generator=generator, device=where).to(x.device)
    flip = torch.rand(b, 1, generator=generator, device=where).to(x.device) < 0.5
    rows = _mirror(torch.arange(height, device=x.device) + shift[0], height)  # (B, H)
    columns = _mirror(torch.arange(width, device=x.device) + shift[1], width)  # (B, W)
    columns = torch.where(flip, columns.flip(1), columns)
    source = rows[:, :, None] * width + columns[:, None, :]  # (B, H, W), places in a flat image
    source = source.reshape(b, 1, -1).expand(b, c, -1)
    return x.reshape(b, c, -1).gather(2, source).view(b, c, height, width)


AUGMENTATIONS = {"flip-crop": augment_flip_crop}


def _mirror(place: Tensor, length: int) -> Tensor:
    """Places outside [0, length) reflected at the first and the last pixel."""
    return length - 1 - (length - 1 - place.abs()).abs()


# ---------------------------------------------------------------- standardising


def _mean_std(x: np.ndarray, full_scale: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std per channel, of uint8 images scaled to [0, 1], exact, from their histograms."""
    if x.dtype != np.uint8:
        over = (0, *range(2, x.ndim))
        return tuple(x.mean(over).tolist()), tuple(map(_safe_std, x.std(over).tolist()))
    level = np.arange(256) / full_scale
    means, stds = [], []
    for c in range(x.shape[1]):
        parts = (x[i : i + 4096, c] for i in range(0, len(x), 4096))  # bincount wants int64 copies
        p = sum(np.bincount(part.ravel(), minlength=256) for part in parts) / x[:, c].size
        means.append(float(p @ level))
        stds.append(_safe_std(math.sqrt(float(p @ (level - means[-1]) ** 2))))
    return tuple(means), tuple(stds)


def _safe_std(std: float) -> float:
    return std if std > 1e-6 else 1.0  # a channel without any contrast stays as it is


def _per_channel(values: Sequence[float], x: Tensor) -> Tensor:
    return torch.tensor(values).to(x).reshape(-1, *[1] * (x.dim() - 2))  # (C, 1, …)


def _round_up(value: float) -> float:
    """Three significant digits, never below `value` by more than take_fraction's tolerance."""
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    return math.ceil(value / step - 1e-9) * step


def _check_size(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    both = (size, size) if not isinstance(size, (tuple, list)) else tuple(size)
    if len(both) != 2:
        raise ValueError(f"size={size} has {len(both)} numbers; give one, or (height, width).")
    for side in both:
        check_count(side, "size")
    return both


def _tensor(value: object, argument: str) -> Tensor:
    try:
        if isinstance(value, np.ndarray):
            value = np.ascontiguousarray(value)
        return torch.as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"{argument} ({type(value).__name__}) does not turn into a tensor; "
            "give an array of numbers."
        ) from None


def _images(n: int) -> str:
    return f"{n:,} image" if n == 1 else f"{n:,} images"


def _dtype_shape(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} of shape {tuple(x.shape)}"


# ---------------------------------------------------------------- reading


@dataclass(frozen=True, eq=False)
class _Raw:
    """Samples (N, C, ...) with labels (N,) int64, before any split.

    Images and sequences are uint8 in [0, full_scale]; tables are float64, with full_scale 1.
    """

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    classes: tuple[str, ...]
    valid: tuple[np.ndarray, np.ndarray] | None = None
    full_scale: int = 255
    standardised: bool = True


def _of_scikit_learn(name: str, reader: str):
    try:
        from sklearn import datasets  # a second to import, so only where it is needed
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f'load("{name}") needs scikit-learn; install it with pip install scikit-learn.'
        ) from None
    return getattr(datasets, reader)()


def _read_digits() -> _Raw:
    digits = _of_scikit_learn("digits", "load_digits")
    x = digits.images.astype(np.uint8)[:, None]  # (1797, 1, 8, 8), 0 … 16
    y = digits.target.astype(np.int64)
    classes = tuple(str(k) for k in range(10))
    rest, held = _hold_out(y, HELD_OUT, classes, "test share")
    return _Raw((x[rest], y[rest]), (x[held], y[held]), classes, full_scale=16)


def _read_breast_cancer() -> _Raw:
    table = _of_scikit_learn("breast-cancer", "load_breast_cancer")
    x, y = table.data, table.target.astype(np.int64)  # (569, 30), (569,)
    classes = tuple(str(name) for name in table.target_names)
    rest, held = _hold_out(y, HELD_OUT, classes, "test share")
    return _Raw((x[rest], y[rest]), (x[held], y[held]), classes, full_scale=1)


def _read_docstrings() -> _Raw:
    found = text.corpus()
    parts = {}
    for part in text.PARTS:
        sentences = [s for s in found if s.part == part]
        x = text.encode([text.mask(s.text) for s in sentences])  # (N, V, L)
        parts[part] = x, np.array([text.LIBRARIES.index(s.library) for s in sentences])
    return _Raw(**parts, classes=text.LIBRARIES, full_scale=1, standardised=False)


def _sample_path() -> Path | None:
    """The sample in the project, in the installed package, or put into data_home() by hand."""
    for folder in (lambda: _HERE.parent / "data", lambda: _HERE / "_data", data_home):
        if (folder() / SAMPLE_FILE).is_file():
            return folder() / SAMPLE_FILE
    return None


def _read_fashion_sample() -> _Raw:
    path = _sample_path()
    if path is None:
        raise FileNotFoundError(
            f"{SAMPLE_FILE} is missing from {_HERE.parent / 'data'}; restore it with "
            f"git checkout -- data/{SAMPLE_FILE}, or copy it into {data_home()}."
        )
    content = path.read_bytes()
    if content.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path} is a Git LFS pointer, not the images; run git lfs pull.")
    if hashlib.sha256(content).hexdigest() != SAMPLE_SHA256:
        raise ValueError(
            f"{path} is damaged ({len(content):,} bytes, and its SHA-256 is not the recorded one); "
            f"restore it with git checkout -- data/{SAMPLE_FILE}, or fetch it again."
        )
    parts = {}
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        for part in ("train", "test"):
            x, y = arrays[f"{part}_images"], arrays[f"{part}_labels"]
            parts[part] = x[:, None], y.astype(np.int64)  # (N, 1, 28, 28), (N,)
    return _Raw(parts["train"], parts["test"], FASHION_CLASSES)


def _read_download(name: str) -> _Raw:
    arrays = read_arrays(fetch(name, data_home()))
    parts = {
        part: (arrays[f"{part}_images"], arrays[f"{part}_labels"])
        for part in ("train", "valid", "test")
        if f"{part}_images" in arrays
    }
    return _Raw(classes=tuple(arrays["classes"].tolist()), **parts)


def _present(name: str) -> bool | None:
    if name in ("digits", "breast-cancer", "docstrings"):
        needed = text.LIBRARIES if name == "docstrings" else ("sklearn",)
        return all(find_spec(library) is not None for library in needed)
    if name == "fashion-mnist-sample":
        path = _sample_path()
        return path is not None and hashlib.sha256(path.read_bytes()).hexdigest() == SAMPLE_SHA256
    return (data_home() / f"{name}.npz").is_file() if name in SETS else None
