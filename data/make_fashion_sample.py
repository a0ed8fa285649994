"""Make data/fashion-mnist-sample.npz from the four files of the full Fashion-MNIST.

    python data/make_fashion_sample.py [--source FOLDER] [--out FILE]

Debian and Ubuntu bring the full set as the package dataset-fashion-mnist; elsewhere give the
folder with the four idx files, gzipped or not. Nothing is drawn at random: each class gives its
first 1,000 training and 200 test images, in the official order. They are written in rounds, the
r-th image of every class in round r, so any multiple of ten images from the front holds every
class equally often. Running this twice gives the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np

SOURCE = Path("/usr/share/datasets/fashion-mnist")
OUT = Path(__file__).resolve().parent / "fashion-mnist-sample.npz"
PER_CLASS = {"train": 1000, "test": 200}
FILES = {  # (split, kind) -> (name, SHA-256 of the unpacked file)
    ("train", "images"): (
        "train-images-idx3-ubyte",
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    ),
    ("train", "labels"): (
        "train-labels-idx1-ubyte",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ),
    ("test", "images"): (
        "t10k-images-idx3-ubyte",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    ),
    ("test", "labels"): (
        "t10k-labels-idx1-ubyte",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}


def read_idx(folder: Path, split: str, kind: str) -> np.ndarray:
    """One idx file as uint8: images (N, 28, 28) or labels (N,)."""
    name, expected = FILES[split, kind]
    packed, plain = folder / f"{name}.gz", folder / name
    if packed.exists():
        content = gzip.decompress(packed.read_bytes())
    elif plain.exists():
        content = plain.read_bytes()
    else:
        raise SystemExit(f"{packed} is missing; give the folder of the full set with --source.")
    if hashlib.sha256(content).hexdigest() != expected:
        raise SystemExit(f"{name} in {folder} is not the official file; fetch it again.")
    rank = content[3]  # two zero bytes, the type (8 is uint8), the rank, then one int32 per axis
    shape = np.frombuffer(content, ">i4", count=rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def choose(labels: np.ndarray, per_class: int) -> np.ndarray:
    """Positions of the first `per_class` images of every class, in rounds of one per class."""
    first = [np.flatnonzero(labels == k)[:per_class] for k in np.unique(labels)]
    return np.sort(np.stack(first, axis=1), axis=1).ravel()  # within a round: official order


def make(source: Path) -> dict[str, np.ndarray]:
    """The arrays of the sample; `*_index` says which image of the official set each one is."""
    arrays = {}
    for split, per_class in PER_CLASS.items():
        labels = read_idx(source, split, "labels")
        index = choose(labels, per_class)
        arrays[f"{split}_images"] = read_idx(source, split, "images")[index]
        arrays[f"{split}_labels"] = labels[index]
        arrays[f"{split}_index"] = index.astype("<i4")
    return arrays


def pack(arrays: dict[str, np.ndarray]) -> bytes:
    """An .npz like NumPy's, with no date, system or level left to the machine that writes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, member.getvalue(), compresslevel=9)
    return buffer.getvalue()


def content_digest(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of the pixels and labels alone, the same whatever the compression library."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, default=SOURCE, help="folder of the full set")
    parser.add_argument("--out", type=Path, default=OUT, help="file to write")
    options = parser.parse_args()
    arrays = make(options.source)
    packed = pack(arrays)
    options.out.write_bytes(packed)
    print(f"{options.out.name}: {len(packed):,} bytes")
    print(f"SHA-256 of the file:     {hashlib.sha256(packed).hexdigest()}")
    print(f"SHA-256 of the contents: {content_digest(arrays)}")


if __name__ == "__main__":
    main()
