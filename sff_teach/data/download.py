"""Data sets from the network: downloaded once, checked by MD5, stored as one file of arrays."""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from ..util.checks import SFFError
from ..util.files import atomic_write, exclusive_lock, remove_partial_files
from .folder import SUFFIXES, read_images

TIMEOUT = 30  # seconds without a byte


@dataclass(frozen=True)
class Source:
    """The files of a data set, and how to read them."""

    files: dict[str, str]  # address → MD5
    read: Callable[[Sequence[Path]], dict[str, np.ndarray]]  # from these files to arrays


class DownloadError(OSError):
    """A data set could not be downloaded; the message says why, and what to do."""


def fetch(name: str, home: Path) -> Path:
    """The file in ``home`` with the arrays of a set of ``SETS``, downloaded if it is not there.

    Concurrent processes share one download. The arrays are ``train_images`` and
    ``test_images`` (N, C, H, W) uint8, ``train_labels`` and ``test_labels`` (N,), ``classes``, and
    in some sets ``valid_images`` and ``valid_labels``.
    """
    path = home / f"{name}.npz"
    if path.is_file():
        return path
    home.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(path, f'"{name}"', wait=-1):
        if not path.is_file():  # another process may have downloaded it meanwhile
            remove_partial_files(path)
            downloads = home / f"{name}.download"
            arrays = _download(name, downloads)
            atomic_write(path, lambda file: np.savez(file, **arrays))
            path.chmod(0o644)  # public images; a class may share the folder
            shutil.rmtree(downloads)
    return path


def _download(name: str, folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a set, read from its files in ``folder``, which are downloaded if missing."""
    import pooch  # slow to import
    import requests

    folder.mkdir(parents=True, exist_ok=True)
    for unfinished in folder.glob("tmp*"):  # of a process that was killed
        unfinished.unlink()
    source = SETS[name]
    urls = {url.rsplit("/", 1)[1]: url for url in source.files}
    sums = {file: f"md5:{source.files[url]}" for file, url in urls.items()}
    pooch.get_logger().setLevel(logging.WARNING)
    files = pooch.create(folder, "", registry=sums, urls=urls, retry_if_failed=1)
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT)
    try:
        paths = [Path(files.fetch(file, downloader=downloader)) for file in urls]
    except requests.HTTPError as error:
        reason = str(error)
    except requests.Timeout:
        reason = f"the server sent nothing for {TIMEOUT} s"
    except requests.RequestException as error:
        reason = f"no connection ({type(error).__name__}); is this machine online?"
    except ValueError:
        reason = "the downloaded file has another checksum"
    else:
        return source.read(paths)
    raise DownloadError(  # here, so that it holds no reference to the connection
        f'"{name}" could not be downloaded: {reason}. Try again later, or fetch '
        f"{' and '.join(source.files)} by hand and put it into {folder}."
    )


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file made by ``fetch``; SFFError if it is damaged."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            return dict(stored)
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise SFFError(f"{path} is damaged; remove it to download it again") from error


def images_in_tar(paths: Sequence[Path], size: int | None = None, names: dict | None = None):
    """Read an archive of …/train/CLASS/image and …/test/CLASS/image (or val/), without unpacking.

    Images are cropped to (``size``, ``size``); ``names`` maps folders to class names.
    """
    images, labels = {"train": [], "test": []}, {"train": [], "test": []}
    with tarfile.open(paths[0]) as archive:
        for member in archive:
            place = PurePosixPath(member.name)
            part = {"train": "train", "test": "test", "val": "test"}.get(place.parent.parent.name)
            if part and member.isfile() and place.suffix.lower() in SUFFIXES:
                images[part].append(io.BytesIO(archive.extractfile(member).read()))
                labels[part].append(place.parent.name)
    classes = sorted(set(labels["train"]))
    arrays = {"classes": np.array([(names or {}).get(c, c) for c in classes])}
    for part in images:
        x = read_images(images[part], size and (size, size), channels=3)
        y = np.array([classes.index(c) for c in labels[part]], dtype=np.int64)
        digests = [hashlib.md5(image.tobytes(), usedforsecurity=False).digest() for image in x]
        order = sorted(range(len(x)), key=digests.__getitem__)  # not the archive's order
        arrays |= {f"{part}_images": x[order], f"{part}_labels": y[order]}
    return arrays


def mnist_files(paths: Sequence[Path], classes: Sequence[str]):
    """Read MNIST's four files: training images, their labels, test images, their labels."""
    arrays = {"classes": np.array(classes)}
    for part, images, labels in (("train", *paths[:2]), ("test", *paths[2:])):
        x = np.frombuffer(gzip.decompress(images.read_bytes()), np.uint8, offset=16)
        y = np.frombuffer(gzip.decompress(labels.read_bytes()), np.uint8, offset=8)
        arrays[f"{part}_images"] = x.reshape(-1, 1, 28, 28)
        arrays[f"{part}_labels"] = y.astype(np.int64)
    return arrays


def medmnist(paths: Sequence[Path], classes: Sequence[str]):
    """Read a MedMNIST file of grey images."""
    arrays = {"classes": np.array(classes)}
    with np.load(paths[0], allow_pickle=False) as stored:
        for part, theirs in (("train", "train"), ("valid", "val"), ("test", "test")):
            arrays[f"{part}_images"] = stored[f"{theirs}_images"][:, None]
            arrays[f"{part}_labels"] = stored[f"{theirs}_labels"].ravel().astype(np.int64)
    return arrays


FAST_AI = "https://s3.amazonaws.com/fast-ai-"
ZALANDO = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"

FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
    "Ankle boot",
)  # fmt: skip
IMAGENETTE_CLASSES = {
    "n01440764": "tench", "n02102040": "English springer", "n02979186": "cassette player",
    "n03000684": "chain saw", "n03028079": "church", "n03394916": "French horn",
    "n03417042": "garbage truck", "n03425413": "gas pump", "n03445777": "golf ball",
    "n03888257": "parachute",
}  # fmt: skip


SETS: dict[str, Source] = {
    "fashion-mnist": Source(
        {
            ZALANDO + "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            ZALANDO + "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            ZALANDO + "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            ZALANDO + "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
        partial(mnist_files, classes=FASHION_CLASSES),
    ),
    # fast.ai's copies of CIFAR: the official archives take an hour
    "cifar10": Source(
        {FAST_AI + "sample/cifar10.tgz": "a5f8c31371b63a406b23368042812d3c"}, images_in_tar
    ),
    "cifar100": Source(
        {FAST_AI + "imageclas/cifar100.tgz": "e5e65dcb54b9d3913f7b8a9ad6607e62"}, images_in_tar
    ),
    "imagenette": Source(
        {FAST_AI + "imageclas/imagenette2-160.tgz": "e793b78cc4c9e9a4ccc0c1155377a412"},
        partial(images_in_tar, size=160, names=IMAGENETTE_CLASSES),
    ),
    "pneumonia-mnist": Source(
        {
            "https://zenodo.org/records/10519652/files/pneumoniamnist.npz": (
                "28209eda62fecd6e6a2d98b1501bb15f"
            )
        },
        partial(medmnist, classes=("normal", "pneumonia")),
    ),
}
