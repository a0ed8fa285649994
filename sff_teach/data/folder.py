"""Folders of images, by the conventions of torchvision's ImageFolder: a folder per class."""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ..util.checks import SFFError
from ..util.progress import Bar

# torchvision.datasets has this list too, but importing that takes longer than importing torch.
SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp",
)  # fmt: skip
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM", "GIF")  # others may run programs
TEST_SHARE = 0.2  # of a set without test images

_PART = re.compile(
    r"(?:seg_)?(?:(?P<train>train|training)|(?P<valid>valid|val|validation|dev)|(?P<test>test|testing))"
    r"(?:[_ -]?(?:set|data|images|imgs))?",
    re.IGNORECASE,
)
_SYSTEM_FILES = ("thumbs.db", "desktop.ini")  # of file managers


def find_images(path: str) -> tuple[tuple[str, ...], dict[str, tuple[list[Path], np.ndarray]]]:
    """The classes of a folder in alphabetical order, and the files and labels of every part.

    It holds a folder for each part, or only class folders. Of these, a fifth of each class becomes
    the test images, chosen by a hash of the file name, so that adding files moves few others.
    """
    root = Path(path).expanduser()
    if not path.strip() or not root.is_dir():
        raise FileNotFoundError(f'{path or "folder:"} is not a folder; write load("folder:PATH").')
    by_part = {part: _class_files(f) for part, f in _find_parts(_unwrap(root)).items()}
    classes = tuple(sorted(next(iter(by_part.values()))))
    for files in by_part.values():
        different = sorted(set(files) ^ set(classes))
        if different:
            raise SFFError(f"The parts of {root} differ in their classes: {', '.join(different)}.")
    if "all" in by_part:
        by_part = _split_by_name(by_part["all"])
    parts = {}
    for part, files in by_part.items():
        labels = np.repeat(np.arange(len(classes)), [len(files[c]) for c in classes])
        parts[part] = [f for c in classes for f in files[c]], labels
    return classes, parts


def _find_parts(root: Path) -> dict[str, Path]:
    """The folders of the parts; {"all": root} if the root's folders are the classes."""
    parts, unlabelled, others = {}, [], []
    for folder in _subfolders(root):
        inside, named = _unwrap(folder), _PART.fullmatch(folder.name)
        part = named and named.lastgroup
        if not part:
            others.append(folder)
        elif not _subfolders(inside):
            unlabelled.append(folder)
        elif part in parts:
            raise SFFError(f"{parts[part]} and {inside} are both the {part} part.")
        else:
            parts[part] = inside
    if unlabelled and (parts or not others):
        raise SFFError(
            f"{unlabelled[0]} holds no class folders, so its images have no labels; sort them into "
            "one folder for each class"
        )
    if not parts:
        return {"all": root}
    if not {"train", "test"} <= set(parts):
        raise SFFError(
            f"{root} has {' and '.join(parts)}; give train and test, or one of them alone"
        )
    return parts


def _subfolders(path: Path) -> list[Path]:
    """The folders inside, without hidden ones and links to parent folders."""
    above = {path.resolve(), *path.resolve().parents}
    inside = [p for p in path.iterdir() if not p.name.startswith((".", "__")) and p.is_dir()]
    return sorted(p for p in inside if p.resolve() not in above)


def _unwrap(path: Path) -> Path:
    """The folder itself, or the only one inside it, as in zip files, if that holds folders."""
    inside = _subfolders(path)
    while len(inside) == 1 and _subfolders(inside[0]):
        path = inside[0]
        inside = _subfolders(path)
    return path


def _class_files(folder: Path) -> dict[str, list[Path]]:
    """The image files of every class, in order; class names are NFC-normalised."""
    classes, skipped = {}, Counter()
    for class_folder in _subfolders(folder):
        files = classes.setdefault(unicodedata.normalize("NFC", class_folder.name), [])
        for where, folders, names in os.walk(class_folder):  # follows no links, so no loops
            folders[:] = sorted(d for d in folders if not d.startswith((".", "__")))
            for name in sorted(names):
                file = Path(where, name)
                suffix = file.suffix.lower()
                if suffix in SUFFIXES and not name.startswith(".") and file.is_file():
                    files.append(file)
                elif not name.startswith(".") and name.lower() not in _SYSTEM_FILES:
                    skipped[suffix] += 1
    if skipped:
        listed = ", ".join(f"{n:,} {s or 'without suffix'}" for s, n in skipped.most_common())
        warnings.warn(f"Files in {folder} that are not read: {listed}.", stacklevel=5)
    if len(classes) < 2:
        raise SFFError(f"{folder} holds {len(classes)} class folders; at least two are needed.")
    for name, files in classes.items():
        if not files:
            raise SFFError(f"{folder / name} holds no image ({', '.join(SUFFIXES)}).")
    return classes


def _split_by_name(classes: dict[str, list[Path]]) -> dict[str, dict[str, list[Path]]]:
    train, test = {}, {}
    for name, files in classes.items():
        if len(files) < 2:
            raise SFFError(f'Class "{name}" has one image, but training and test need one each.')
        ranked = sorted(files, key=lambda f: hashlib.sha256(os.fsencode(f.name)).digest())
        held_out = set(ranked[: max(1, math.floor(TEST_SHARE * len(ranked) + 0.5))])
        train[name] = [f for f in files if f not in held_out]
        test[name] = [f for f in files if f in held_out]
    return {"train": train, "test": test}


def read_images(
    files: Sequence[Path | io.BytesIO],
    size: tuple[int, int] | None = None,
    channels: int | None = None,
) -> np.ndarray:
    """Decode image files in several threads: (N, C, H, W) uint8.

    ``size`` is their new height and width; ``channels`` None means 3 if any image has colour.
    """
    from tqdm.contrib.concurrent import thread_map  # slow to import

    read = partial(read_image, size=size)
    images = thread_map(read, files, desc="reading images", leave=False, delay=1, tqdm_class=Bar)
    height, width = images[0].shape[:2]
    for file, image in zip(files, images):
        if image.shape[:2] != (height, width):
            raise SFFError(f"{file} and {files[0]} differ in size; give size={min(height, width)}")
    low, high = _value_range(images)
    channels = channels or (3 if any(image.ndim == 3 for image in images) else 1)
    x = np.empty((len(images), channels, height, width), dtype=np.uint8)
    for row, image in zip(x, images):
        if image.dtype != np.uint8:
            image = ((image - low) * (255 / (high - low))).round().clip(0, 255)
        row[...] = np.atleast_3d(image).transpose(2, 0, 1)
    return x


def _value_range(images: Sequence[np.ndarray]) -> tuple[float, float]:
    """The values of black and white in images of more than 8 bits: the range of the bits in use.

    A 12-bit scanner writes values up to 4,095 into 16-bit files. The range is that of all images,
    so that they stay comparable.
    """
    deep = [image for image in images if image.dtype != np.uint8]
    low = min([0.0, *(float(image.min()) for image in deep)])
    high = max([0.0, *(float(image.max()) for image in deep)])
    return low, 1.0 if high <= 1 else 2.0 ** max(8, math.ceil(math.log2(high + 1))) - 1


def read_image(file: Path | io.BytesIO, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode one image, upright; transparent parts become white.

    (H, W, 3) uint8 of a colour image; (H, W) of a grey one, uint8, or float32 with the values of
    the file if it has more than 8 bits. For a size the short side is resized, the centre cropped.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(file, formats=FORMATS) as image:
            if size is not None:
                image.draft(None, (max(size), max(size)))  # JPEG: decode no larger than needed
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith(("I", "F")):
                image = Image.fromarray(np.asarray(image).astype(np.float32))
            else:
                grey = image.mode in ("1", "L", "LA", "La")
                if image.has_transparency_data:
                    white = Image.new("RGBA", image.size, "white")
                    image = Image.alpha_composite(white, image.convert("RGBA"))
                image = image.convert("L" if grey else "RGB")
            if size is not None:
                image = ImageOps.fit(image, size[::-1], Image.Resampling.BILINEAR)
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        name = file if isinstance(file, Path) else getattr(file, "name", "the image")
        raise SFFError(f"{name} cannot be read as an image ({error}).") from error
