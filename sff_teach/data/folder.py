"""Reading class folders of image files into arrays; the rules are in the docstring of data.load."""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ..util.checks import escape_unprintable
from ..util.checks import memory as _memory

FORMATS = ("PNG", "JPEG", "BMP", "WEBP")  # no other decoder is tried, whatever the name
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
HELD_OUT = 0.2  # test share where a set brings no test images of its own
MAX_PIXELS = 89_478_485  # per image; the number above which Pillow itself suspects a bomb
_GROUP = 128  # files per task of the decoding threads
_QUIET_FILES = 2000  # up to here reading takes too short for a progress bar


def read_folder(path: str, size: tuple[int, int] | None) -> dict[str, object]:
    """classes, and per part (train, test, perhaps valid) images (N, C, H, W) uint8, labels (N,)."""
    if not path.strip():
        raise ValueError('name="folder:" has no path; write load("folder:PATH").')
    root = Path(os.path.expanduser(path))
    shown = escape_unprintable(root)
    if not os.path.isdir(root):
        what = "is not a folder" if os.path.exists(root) else "does not exist"
        raise FileNotFoundError(
            f'{escape_unprintable(root)} {what}; give "folder:PATH" a folder of class folders.'
        )

    parts = {p: root / p for p in ("train", "valid", "test") if _folders(root / p)}
    if "valid" not in parts and _folders(root / "val"):
        parts["valid"] = root / "val"
    if "train" in parts and "test" not in parts:
        raise FileNotFoundError(
            f"{shown} has train/ with class folders but no such test/; add it (renaming val/ will "
            f'do), or load "folder:{escape_unprintable(root / "train")}" to have a fifth of that set aside '
            "for testing."
        )
    if "test" in parts and "train" not in parts:
        raise FileNotFoundError(f"{shown} has test/ with class folders but no such train/; add it.")
    if "train" not in parts:
        parts = {"all": root}

    files = {part: _class_files(folder) for part, folder in parts.items()}
    classes = tuple(next(iter(files.values())))
    for part, by_class in files.items():
        if set(by_class) != set(classes):
            odd = sorted(set(by_class) ^ set(classes))
            raise ValueError(
                f"{escape_unprintable(parts[part])} and {escape_unprintable(root / 'train')} differ in their class "
                f"folders ({_some(odd)}); give both the same ones."
            )
    if "all" in files:
        files = _split_files(files["all"])

    # one list for all parts, because they share one size and one number of channels
    listed = [(f, k) for part in files.values() for k, c in enumerate(classes) for f in part[c]]
    x = _decode([f for f, _ in listed], size)
    y = np.array([k for _, k in listed], dtype=np.int64)
    result, start = {"classes": classes}, 0
    for part, by_class in files.items():
        stop = start + sum(len(members) for members in by_class.values())
        result[part] = x[start:stop], y[start:stop]
        start = stop
    return result


def _folders(path: Path) -> list[Path]:
    """Folders inside `path`, in order, without hidden ones and links back to `path` or above."""
    if not os.path.isdir(path):
        return []
    above = {path.resolve(), *path.resolve().parents}
    try:
        listed = [p for p in path.iterdir() if not p.name.startswith((".", "__"))]
    except OSError as error:
        raise ValueError(
            f"{escape_unprintable(path)} cannot be listed ({error.strerror}); change its permissions, or "
            "give another folder."
        ) from None
    inside = (p for p in listed if os.path.isdir(p))
    return sorted(p for p in inside if not (p.is_symlink() and p.resolve() in above))


def _class_files(folder: Path) -> dict[str, list[Path]]:
    """Class name -> its image files, both in order."""
    found = {}
    for class_folder in _folders(folder):
        files = []
        for where, folders, names in os.walk(class_folder):  # follows no links, so no loops
            folders[:] = sorted(d for d in folders if not d.startswith((".", "__")))
            names = sorted(n for n in names if not n.startswith("."))
            files += [Path(where, n) for n in names if n.lower().endswith(SUFFIXES)]
        if not files:
            raise ValueError(
                f"{escape_unprintable(class_folder)} holds no image; add "
                f"{', '.join(s[1:] for s in SUFFIXES)} files or remove the folder."
            )
        found[class_folder.name] = files
    if len(found) < 2:
        raise ValueError(
            f"{escape_unprintable(folder)} holds {len(found)} class folders; give at least two, each named "
            "after its class and holding its images."
        )
    return found


def _split_files(files: dict[str, list[Path]]) -> dict[str, dict[str, list[Path]]]:
    """A fifth of every class for testing, chosen by a hash of the file name, so that adding files
    later moves few of the others across."""
    train, test = {}, {}
    for name, members in files.items():
        if len(members) < 2:
            raise ValueError(
                f'class "{escape_unprintable(name)}" has 1 image; give at least 2, so that training and '
                "testing have one each."
            )
        ranked = sorted(members, key=lambda f: hashlib.sha256(os.fsencode(f.name)).digest())
        held = set(ranked[: max(1, math.floor(HELD_OUT * len(ranked) + 0.5))])
        train[name] = [f for f in members if f not in held]
        test[name] = [f for f in members if f in held]
    return {"train": train, "test": test}


def _decode(files: list[Path], size: tuple[int, int] | None) -> np.ndarray:
    """Read image files as (N, C, H, W) uint8, C = 3 if any of them has colour, else 1."""
    from tqdm.auto import tqdm

    first = None if size else read_image(files[0], size)
    height, width = size or first.shape[:2]
    needed, limit = len(files) * 3 * height * width * 5, _memory() // 2  # uint8 and float32
    if needed > limit:
        raise ValueError(
            f"{len(files):,} images of {height}×{width} pixels need {needed / 2**30:.1f} GiB of "
            f"memory; give a smaller size=, like size=64."
        )

    def read(group: list[Path]) -> list[np.ndarray]:
        return [read_image(f, size, (height, width), files[0]) for f in group]

    images: list[np.ndarray] = []
    groups = [files[i : i + _GROUP] for i in range(0, len(files), _GROUP)]
    pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1))
    options = {"disable": True} if len(files) <= _QUIET_FILES else {}
    try:
        with tqdm(total=len(files), desc="reading images", leave=False, **options) as bar:
            for done in pool.map(read, groups):
                images += done
                bar.update(len(done))
    finally:
        pool.shutdown(cancel_futures=True)  # on an error or Ctrl-C, at once

    channels = 3 if any(image.ndim == 3 for image in images) else 1
    x = np.empty((len(images), channels, height, width), dtype=np.uint8)
    for row, image in zip(x, images, strict=True):
        row[...] = image.transpose(2, 0, 1) if image.ndim == 3 else image
    return x


def read_image(
    path: Path,
    size: tuple[int, int] | None,
    shape: tuple[int, int] | None = None,
    like: Path | None = None,
    content: bytes | None = None,
) -> np.ndarray:
    """One image as uint8, (H, W) if grey and (H, W, 3) if colour; `shape` is what it has to be.

    `content`: of the file, if it is not on the disk; `path` is its name then.
    """
    from PIL import Image, ImageOps

    try:
        if content is None and os.path.lexists(path) and not os.path.isfile(path):
            raise OSError(0, "not a file")  # opening a pipe would wait for ever
        source = path if content is None else io.BytesIO(content)
        with Image.open(source, formats=FORMATS) as image:
            pixels = image.width * image.height
            if pixels > MAX_PIXELS:
                raise Image.DecompressionBombError
            if size is not None:
                image.draft(None, (max(size), max(size)))  # JPEGs: decode no larger than needed
            if image.getexif().get(0x0112, 1) != 1:
                image = ImageOps.exif_transpose(image)
            if size is None and shape is not None and (image.height, image.width) != shape:
                raise _OtherSize(f"{image.height}×{image.width}")
            if image.mode.startswith("I"):  # 16-bit grey, which convert would clip
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            image = image.convert("L" if image.mode in ("1", "L", "LA", "La", "F") else "RGB")
            if size is not None:
                image = ImageOps.fit(image, size[::-1], Image.Resampling.BILINEAR)
            return np.asarray(image)
    except _OtherSize as other:
        raise ValueError(
            f"{escape_unprintable(path)} has {other} pixels but {escape_unprintable(like)} has "
            f"{shape[0]}×{shape[1]}; give size=, like size={min(shape)}, to bring all images to "
            "one size."
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(
            f"{escape_unprintable(path)} has more than {MAX_PIXELS:,} pixels; make it smaller or remove it."
        ) from None
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error …
        reason = getattr(error, "strerror", None) or "damaged or not an image"
        raise ValueError(
            f"{escape_unprintable(path)} cannot be read ({reason}); replace or remove it."
        ) from None


class _OtherSize(Exception):
    """An image whose size differs from the first one's."""


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(escape_unprintable, names[:5])) + (", …" if len(names) > 5 else "")
