"""Load a data set by its name: embedded, downloaded, or a folder of images."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from ..util.checks import (
    SFFError,
    check_count,
    check_fraction,
    check_known,
    check_number,
    check_seed,
)
from . import text
from .download import FASHION_CLASSES, SETS, fetch, read_arrays
from .files import data_home, embedded_path, read_embedded
from .folder import TEST_SHARE, find_images, read_images
from .sampling import hold_out, take_fraction
from .tensors import ImageSet, LabelledTensors, Splits, mean_std, per_channel

SAMPLE_FILE = "fashion-mnist-sample.npz"
SAMPLE_SHA256 = "700e63054256b4370861c32efc36a931e92474b5a83b6d9b120acc8f0b28b732"


def load(
    name: str,
    fraction: float = 1.0,
    seed: int = 0,
    *,
    validation: float = 0.1,
    size: int | tuple[int, int] | None = None,
) -> Splits:
    """Load a data set by name, split into train, validation and test.

    All three parts are standardised with the mean and standard deviation per channel of the chosen
    training samples alone, so that a small-data run uses no other sample.

    A folder holds train, test and optionally validation folders, under the usual names, with one
    folder of images per class; or only the class folders, and a fifth of each class becomes the
    test images. Images become RGB if any has colour, else grey. A warning counts files that are not
    read, and test images that are also training images.

    Args:
        name: "digits", "fashion-mnist-sample", "breast-cancer", "docstrings"; "fashion-mnist",
            "cifar10", "cifar100", "imagenette" (4.1 GB of memory) and "pneumonia-mnist", which are
            downloaded on first use into ``data_home()``; or "folder:PATH". See ``catalog()``.
        fraction: share of each class of the training samples, in (0, 1]; see ``take_fraction``.
        seed: chooses these; validation and test samples do not depend on it.
        validation: share of each class of the training samples that is held out, for every seed and
            fraction the same; 0 for an empty set. Sets with validation samples use those instead.
        size: for folders: height = width, or (height, width). The short side of an image is
            resized, then its centre is cropped.

    Raises:
        SFFError: an unknown name, a number out of range, a class without samples, damaged or
            inconsistent files.
        FileNotFoundError: there is no such folder.
        DownloadError: A set could not be downloaded.
    """
    check_fraction(fraction)
    check_seed(seed)
    check_number(validation, "validation", 0, 1)
    raw = _read(name, size)
    x, y = raw.train
    if raw.valid is None:
        rest, held_out = hold_out(y, validation, raw.classes)
        valid = x[held_out], y[held_out]
    else:
        rest = np.arange(len(y))
        valid = raw.valid if validation else (x[:0], y[:0])
    if name.startswith("folder:"):
        _warn_of_copies(name, x[rest], {"validation": valid[0], "test": raw.test[0]})
    rest = rest[take_fraction(y[rest], fraction, seed, classes=raw.classes).numpy()]
    train = x[rest], y[rest]
    if raw.standardised:
        mean, std = mean_std(train[0], raw.scale)
    else:
        mean, std = (0.0,) * x.shape[1], (1.0,) * x.shape[1]

    def to_tensors(part: str, x: np.ndarray, y: np.ndarray) -> LabelledTensors:
        # a new tensor has the standard memory layout
        x = torch.empty(x.shape).copy_(torch.from_numpy(x)).div_(raw.scale)
        x.sub_(per_channel(mean, x)).div_(per_channel(std, x))
        kind = ImageSet if x.dim() == 4 else LabelledTensors
        return kind(x, torch.from_numpy(y), raw.classes, f"{name}/{part}", mean, std)

    parts = {"train": train, "valid": valid, "test": raw.test}
    return Splits(*(to_tensors(part, *arrays) for part, arrays in parts.items()))


def _warn_of_copies(name: str, train: np.ndarray, others: dict[str, np.ndarray]) -> None:
    def digests(images: np.ndarray) -> list[bytes]:
        return [hashlib.sha1(image.tobytes()).digest() for image in images]

    known = set(digests(train))
    for part, images in others.items():
        copies = sum(digest in known for digest in digests(images))
        if copies:
            warnings.warn(
                f"{copies:,} of the {len(images):,} {part} images of {name} are also "
                "training images, so results on them are too good.",
                stacklevel=3,
            )


def catalog() -> list[dict[str, object]]:
    """All data sets: sizes, licence, and whether each is on this machine."""
    rows = [
        ("digits", 1438, 359, 10, "1×8×8", "UCI, shipped with scikit-learn"),
        ("fashion-mnist-sample", 10_000, 2_000, 10, "1×28×28", "MIT"),
        ("breast-cancer", 456, 113, 2, "30", "CC BY 4.0, shipped with scikit-learn"),
        ("docstrings", 5_750, 1_500, 5, text.SHAPE, "BSD-like, of the libraries"),
        ("fashion-mnist", 60_000, 10_000, 10, "1×28×28", "MIT"),
        ("cifar10", 50_000, 10_000, 10, "3×32×32", "none stated"),
        ("cifar100", 50_000, 10_000, 100, "3×32×32", "none stated"),
        ("imagenette", 9_469, 3_925, 10, "3×160×160", "of ImageNet"),
        ("pneumonia-mnist", 5_232, 624, 2, "1×28×28", "CC BY 4.0"),
        ("folder:PATH", None, None, None, "yours", "yours"),
    ]
    keys = ("name", "train", "test", "classes", "shape", "licence")
    return [dict(zip(keys, row, strict=True)) | {"present": _is_present(row[0])} for row in rows]


def _is_present(name: str) -> bool | None:
    if name.startswith("folder:"):
        return None
    if name in SETS:
        return (data_home() / f"{name}.npz").is_file()
    embedded = {"fashion-mnist-sample": SAMPLE_FILE, "docstrings": text.FILE}
    return name not in embedded or embedded_path(embedded[name]) is not None


@dataclass(frozen=True, eq=False)
class _Raw:
    """Samples (N, C, ...), uint8 in [0, scale] or a float64 table, with labels (N,) int64."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    classes: tuple[str, ...]
    valid: tuple[np.ndarray, np.ndarray] | None = None  # None: hold out some of train
    scale: int = 255
    standardised: bool = True


def _read(name: str, size: int | tuple[int, int] | None) -> _Raw:
    if not isinstance(name, str):
        raise TypeError(f'name must be a string, not {type(name).__name__}: "folder:PATH".')
    if name.startswith("folder:"):
        size = (size, size) if isinstance(size, int) else size
        for side in size or ():
            check_count(side, "size")
        return _read_folder(name.removeprefix("folder:"), size)
    if size is not None:
        raise SFFError(f'size only works with "folder:PATH", not with "{name}".')
    if name not in _READERS:
        if os.path.isdir(name):
            raise SFFError(f'"{name}" is a folder; write "folder:{name}".')
        check_known(name, [*_READERS, "folder:PATH"], "data set")
    return _READERS[name]()


def _read_folder(path: str, size: tuple[int, int] | None) -> _Raw:
    classes, found = find_images(path)
    # one list for all parts, because they share one size and one number of channels
    x = read_images([file for files, _ in found.values() for file in files], size)
    ends = np.cumsum([len(y) for _, y in found.values()])
    parts = zip(found, np.split(x, ends[:-1]), found.values())
    return _Raw(classes=classes, **{part: (images, y) for part, images, (_, y) in parts})


def _hold_out_test(x: np.ndarray, y: np.ndarray, classes: tuple[str, ...], scale: int) -> _Raw:
    y = y.astype(np.int64)
    rest, held_out = hold_out(y, TEST_SHARE, classes)
    return _Raw((x[rest], y[rest]), (x[held_out], y[held_out]), classes, scale=scale)


def _read_digits() -> _Raw:
    # The file of sklearn.datasets.load_digits, whose import takes longer than that of torch.
    folder = Path(find_spec("sklearn").origin).parent / "datasets" / "data"
    table = np.loadtxt(folder / "digits.csv.gz", delimiter=",", dtype=np.uint8)  # (1797, 65)
    x = table[:, :-1].reshape(-1, 1, 8, 8)  # 0 … 16
    return _hold_out_test(x, table[:, -1], tuple("0123456789"), scale=16)


def _read_breast_cancer() -> _Raw:
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer()  # (569, 30), (569,)
    return _hold_out_test(table.data, table.target, tuple(map(str, table.target_names)), scale=1)


def _read_docstrings() -> _Raw:
    parts = {}
    for part in ("train", "valid", "test"):
        found = [s for s in text.corpus() if s.part == part]
        x = text.encode([text.mask(s.text) for s in found])  # (N, V, L)
        parts[part] = x, np.array([text.LIBRARIES.index(s.library) for s in found])
    return _Raw(**parts, classes=text.LIBRARIES, scale=1, standardised=False)


def _read_fashion_sample() -> _Raw:
    content = io.BytesIO(read_embedded(SAMPLE_FILE, SAMPLE_SHA256))
    with np.load(content, allow_pickle=False) as arrays:
        parts = {
            part: (arrays[f"{part}_images"][:, None], arrays[f"{part}_labels"].astype(np.int64))
            for part in ("train", "test")
        }  # (N, 1, 28, 28), (N,)
    return _Raw(**parts, classes=FASHION_CLASSES)


def _read_download(name: str) -> _Raw:
    arrays = read_arrays(fetch(name, data_home()))
    parts = {
        part: (arrays[f"{part}_images"], arrays[f"{part}_labels"])
        for part in ("train", "valid", "test")
        if f"{part}_images" in arrays
    }
    return _Raw(classes=tuple(arrays["classes"].tolist()), **parts)


_READERS: dict[str, Callable[[], _Raw]] = {
    "digits": _read_digits,
    "fashion-mnist-sample": _read_fashion_sample,
    "breast-cancer": _read_breast_cancer,
    "docstrings": _read_docstrings,
    **{name: partial(_read_download, name) for name in SETS},
}
