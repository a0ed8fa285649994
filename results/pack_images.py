"""Pack a folder of images, or a data set, into one file that travels to another machine.

    python results/pack_images.py FOLDER gpu_data/cifar10.npz      train/ and test/ with a folder
                                                                   of images per class
    python results/pack_images.py fashion-mnist gpu_data/fashion.npz     a name that ``load`` knows

The images stay encoded, one behind the other in one array of bytes: files of a folder as they are,
images of a data set as PNG. 60,000 JPEGs of 32×32 pixels take less than 40 MB. ``gpu_data/`` is
ignored by git. ``unpack`` decodes all images of the file, or of such a folder, into memory;
``results/gpu.py`` uses it.
"""

import argparse
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sff_teach.data import ImageSet, Splits, from_arrays, load

PARTS = ("train", "test")
ORDERS = ((0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1), (2, 1, 0))  # of red, green and blue


def from_folder(folder: Path) -> tuple[dict, tuple[str, ...]]:
    """Part → encoded images and their labels; and the names of the classes."""
    classes = tuple(sorted(path.name for path in (folder / "train").iterdir() if path.is_dir()))
    parts = {}
    for part in PARTS:
        files = [
            (p, k) for k, c in enumerate(classes) for p in sorted((folder / part / c).iterdir())
        ]
        parts[part] = [path.read_bytes() for path, _ in files], [label for _, label in files]
    return parts, classes


def from_set(name: str) -> tuple[dict, tuple[str, ...]]:
    """The same for a data set."""
    splits = load(name, validation=0)
    parts = {}
    for part in PARTS:
        data = getattr(splits, part).as_rgb()
        pixels = (255 * data.values()).round().clamp(0, 255).to(torch.uint8)
        parts[part] = [as_png(image.numpy()) for image in pixels], data.y.tolist()
    return parts, splits.train.classes


def as_png(pixels: np.ndarray) -> bytes:
    """(3, H, W) bytes as an encoded image."""
    file = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(file, "png")
    return file.getvalue()


def decode(data: bytes) -> torch.Tensor:
    """An encoded image as (3, H, W) numbers from 0 to 1."""
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)


def pack(source: str, out: Path) -> None:
    """Write the file."""
    folder = Path(source)
    parts, classes = from_folder(folder) if folder.is_dir() else from_set(source)
    arrays = {"classes": np.array(classes)}
    for part, (images, labels) in parts.items():
        arrays[f"{part}_bytes"] = np.frombuffer(b"".join(images), dtype=np.uint8)
        arrays[f"{part}_ends"] = np.cumsum([len(image) for image in images])
        arrays[f"{part}_labels"] = np.array(labels)
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out, **arrays)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


def from_file(path: Path) -> tuple[dict, tuple[str, ...]]:
    """What ``pack`` wrote: part → encoded images and their labels; and the names of the classes."""
    arrays = np.load(path, allow_pickle=False)
    parts = {}
    for part in PARTS:
        data, ends = arrays[f"{part}_bytes"], arrays[f"{part}_ends"]
        starts = np.concatenate([[0], ends[:-1]])
        images = [data[start:end].tobytes() for start, end in zip(starts, ends)]
        parts[part] = images, arrays[f"{part}_labels"]
    return parts, tuple(arrays["classes"].tolist())


def unpack(path: Path, limit: int | None = None) -> Splits:
    """Training and test images, standardised; no validation part.

    Args:
        path: a file of ``pack``, or a folder that it could pack.
        limit: of images per part, spread evenly over them; None for all.
    """
    parts, classes = from_folder(path) if path.is_dir() else from_file(path)
    sets = {}
    for part, (encoded, labels) in parts.items():
        count = len(encoded) if limit is None else min(limit, len(encoded))
        chosen = np.linspace(0, len(encoded) - 1, count).astype(int)
        with ThreadPoolExecutor() as threads:  # decoding runs outside Python's lock
            images = list(threads.map(decode, [encoded[i] for i in chosen]))
        sets[part] = torch.stack(images), np.asarray(labels)[chosen]
    kind = "JPEG copy" if parts["train"][0][0].startswith(b"\xff\xd8") else "lossless"
    train = from_arrays(*sets["train"], classes, name=f"{path.stem}, {kind}")
    test = from_arrays(*sets["test"], classes, mean=train.mean, std=train.std)
    return Splits(train, test.subset(torch.arange(0)), test)


def times_ten(splits: Splits) -> Splits:
    """K classes become 10·K: which class, which of five colour orders, upright or upside down.

    A stand-in for CIFAR-100, made from CIFAR-10. Every image is used once, in one of the ten ways,
    which is drawn. Flips and crops do not change the new label.

    Args:
        splits: images (N, 3, H, W); there is no validation part afterwards.
    """
    names = [f"{name}, way {way}" for name in splits.train.classes for way in range(10)]
    train = from_arrays(*_one_of_ten_ways(splits.train), names)
    test = from_arrays(*_one_of_ten_ways(splits.test), names, mean=train.mean, std=train.std)
    return Splits(train, test.subset(torch.arange(0)), test)


def _one_of_ten_ways(data: ImageSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Images, each turned in one of the ten ways, and their labels in [0, 10·K)."""
    way = torch.randint(10, (len(data),), generator=torch.Generator().manual_seed(0))
    order = torch.tensor(ORDERS)[way % 5]  # (N, 3)
    x = data.values().take_along_dim(order[:, :, None, None], dim=1)
    x = torch.where((way >= 5)[:, None, None, None], x.flip(2), x)
    return x, 10 * data.y + way


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="a folder with train/ and test/, or the name of a data set")
    parser.add_argument("out", type=Path, help="the file to write")
    options = parser.parse_args()
    pack(options.source, options.out)
