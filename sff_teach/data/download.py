"""Data sets from the network: fetched once, checked by MD5, kept as one file of plain arrays.

Archives are read where they lie, never unpacked, and nothing in them is executed.
"""

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
from pathlib import Path, PurePosixPath

import numpy as np

from ..util.checks import SFFError
from ..util.files import atomic_write, exclusive_lock, make_folder, remove_partial_files
from .folder import SUFFIXES, read_images

TIMEOUT = 30  # seconds without a byte
RETRIES = 1  # of each copy


@dataclass(frozen=True)
class Copy:
    """One public copy of a data set.

    Attributes:
        files: The MD5 of each file, by its address.
        read: Turns the files, in that order, into the arrays that ``fetch`` stores.
    """

    files: dict[str, str]
    read: Callable[[Sequence[Path]], dict[str, np.ndarray]]


class DownloadError(OSError):
    """A data set that could not be fetched; the message says why, and what to do."""


def fetch(name: str, home: Path) -> Path:
    """The file with a data set's arrays, downloaded if it is not there.

    Two processes that ask at once get one download. The arrays are ``train_images`` and
    ``test_images`` (N, C, H, W) uint8, ``train_labels`` and ``test_labels`` (N,), ``classes``, and
    in some sets ``valid_images`` and ``valid_labels``. Images of copies without an order of their
    own are sorted by a hash of their pixels, so that every copy gives the same set.

    Args:
        name: A key of ``SETS``.
        home: The folder that holds the file.

    Raises:
        DownloadError: No copy could be fetched.
    """
    path = home / f"{name}.npz"
    if path.is_file():
        return path
    make_folder(home)
    with exclusive_lock(path, f'"{name}"', wait=-1):
        if not path.is_file():  # else another process has fetched it meanwhile
            remove_partial_files(path)
            downloads = home / f"{name}.download"
            arrays = _download(name, downloads)
            atomic_write(path, lambda file: np.savez(file, **arrays))
            path.chmod(0o644)  # public images; a class may share the folder
            shutil.rmtree(downloads)
    return path


def _download(name: str, folder: Path) -> dict[str, np.ndarray]:
    """The arrays of the first copy that can be had; its files are put into ``folder``."""
    import requests  # both of them take a while to import

    make_folder(folder)
    for unfinished in folder.glob("tmp*"):  # of a process that was killed
        unfinished.unlink()
    reasons = []
    for copy in SETS[name]:
        try:
            paths = [_download_file(url, md5, folder) for url, md5 in copy.files.items()]
        except (requests.RequestException, ValueError) as error:
            reasons.append(_reason(error))
            continue
        return copy.read(paths)
    by_hand = " and ".join(SETS[name][0].files)
    raise DownloadError(
        f'"{name}" could not be downloaded: {"; ".join(reasons)}. Try again later, or fetch '
        f"{by_hand} by hand and put it into {folder}."
    )


def _download_file(url: str, md5: str, folder: Path) -> Path:
    """The file in ``folder``, put there by hand or downloaded, with the right checksum."""
    import pooch
    from tqdm.auto import tqdm

    pooch.get_logger().setLevel(logging.WARNING)
    name = url.rsplit("/", 1)[1]
    options = {"unit": "B", "unit_scale": True, "leave": False, "delay": 1}
    with tqdm(total=1, desc=name, **options) as bar:  # pooch sets the total
        downloader = pooch.HTTPDownloader(bar, chunk_size=1 << 16, timeout=TIMEOUT)
        files = pooch.create(
            folder, "", registry={name: f"md5:{md5}"}, urls={name: url}, retry_if_failed=RETRIES
        )
        return Path(files.fetch(name, downloader=downloader))


def _reason(error: Exception) -> str:
    import requests

    if not isinstance(error, requests.RequestException):
        return "the file that came has another checksum"
    host = requests.utils.urlparse(error.request.url).hostname if error.request else "the server"
    if isinstance(error, requests.HTTPError):
        return f"{host} answers {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return f"{host} sent nothing for {TIMEOUT} s"
    if isinstance(error, requests.exceptions.ProxyError):
        return f"the proxy for {host} cannot be reached (see HTTPS_PROXY)"
    if isinstance(error, requests.exceptions.SSLError):
        return f"the certificate of {host} is not trusted here"
    return f"no connection to {host}; is this machine online?"


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file made by ``fetch``.

    Raises:
        SFFError: The file is damaged.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            return dict(stored)
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise SFFError(f"{path} is damaged; remove it, and it is fetched again.") from error


# ---------------------------------------------------------------- reading the copies


def images_in_tar(paths: Sequence[Path], size: int | None = None, names: dict | None = None):
    """Read an archive of …/train/CLASS/image and …/test/CLASS/image (or val/).

    Args:
        paths: The archive.
        size: Height and width to crop the images to.
        names: Names of the classes, by their folders.
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
        arrays |= _by_hash(part, x, np.array([classes.index(c) for c in labels[part]]))
    return arrays


def cifar_binary(
    paths: Sequence[Path], train: Sequence[str], test: Sequence[str], names: str, label_bytes: int
):
    """Read CIFAR's binary archive: a record is the labels, of which the last counts, and pixels.

    Args:
        paths: The archive.
        train: Names of its files with training records.
        test: Names of its files with test records.
        names: Name of its file of class names.
        label_bytes: Labels per record.
    """
    with tarfile.open(paths[0]) as archive:
        members = {PurePosixPath(member.name).name: member for member in archive}

        def content(name: str) -> bytes:
            return archive.extractfile(members[name]).read()

        arrays = {"classes": np.array(content(names).decode().split())}
        for part, files in (("train", train), ("test", test)):
            records = np.frombuffer(b"".join(map(content, files)), dtype=np.uint8)
            records = records.reshape(-1, label_bytes + 3072)
            x = records[:, label_bytes:].reshape(-1, 3, 32, 32)
            arrays |= _by_hash(part, x, records[:, label_bytes - 1])
    return arrays


def _by_hash(part: str, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    digests = [hashlib.md5(image.tobytes(), usedforsecurity=False).digest() for image in x]
    order = sorted(range(len(x)), key=digests.__getitem__)
    return {f"{part}_images": x[order], f"{part}_labels": y[order].astype(np.int64)}


def mnist_files(paths: Sequence[Path], classes: Sequence[str]):
    """Read MNIST's four files.

    Args:
        paths: Training images, their labels, test images, their labels.
        classes: Names of the classes, in the order of the labels.
    """
    arrays = {"classes": np.array(classes)}
    for part, images, labels in (("train", *paths[:2]), ("test", *paths[2:])):
        x = np.frombuffer(gzip.decompress(images.read_bytes()), np.uint8, offset=16)
        y = np.frombuffer(gzip.decompress(labels.read_bytes()), np.uint8, offset=8)
        arrays[f"{part}_images"] = x.reshape(-1, 1, 28, 28)
        arrays[f"{part}_labels"] = y.astype(np.int64)
    return arrays


def medmnist(paths: Sequence[Path], classes: Sequence[str]):
    """Read a MedMNIST file of grey images.

    Args:
        paths: The file.
        classes: Names of the classes, in the order of the labels.
    """
    arrays = {"classes": np.array(classes)}
    with np.load(paths[0], allow_pickle=False) as stored:
        for part, theirs in (("train", "train"), ("valid", "val"), ("test", "test")):
            arrays[f"{part}_images"] = stored[f"{theirs}_images"][:, None]
            arrays[f"{part}_labels"] = stored[f"{theirs}_labels"].ravel().astype(np.int64)
    return arrays


# ---------------------------------------------------------------- the sets

FAST_AI = "https://s3.amazonaws.com/fast-ai-"
TORONTO = "https://www.cs.toronto.edu/~kriz/"
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


def _imagenette(md5: str) -> Copy:
    return Copy(
        {FAST_AI + "imageclas/imagenette2-160.tgz": md5},
        lambda paths: images_in_tar(paths, 160, IMAGENETTE_CLASSES),
    )


# The quick copy of fast.ai first; the official archives of CIFAR take an hour.
SETS: dict[str, tuple[Copy, ...]] = {
    "fashion-mnist": (
        Copy(
            {
                ZALANDO + "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                ZALANDO + "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
                ZALANDO + "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
                ZALANDO + "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
            },
            lambda paths: mnist_files(paths, FASHION_CLASSES),
        ),
    ),
    "cifar10": (
        Copy({FAST_AI + "sample/cifar10.tgz": "a5f8c31371b63a406b23368042812d3c"}, images_in_tar),
        Copy(
            {TORONTO + "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
            lambda paths: cifar_binary(
                paths,
                [f"data_batch_{i}.bin" for i in range(1, 6)],
                ["test_batch.bin"],
                "batches.meta.txt",
                1,
            ),
        ),
    ),
    "cifar100": (
        Copy(
            {FAST_AI + "imageclas/cifar100.tgz": "e5e65dcb54b9d3913f7b8a9ad6607e62"}, images_in_tar
        ),
        Copy(
            {TORONTO + "cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8"},
            lambda paths: cifar_binary(
                paths, ["train.bin"], ["test.bin"], "fine_label_names.txt", 2
            ),
        ),
    ),
    # published twice, with the same images
    "imagenette": (
        _imagenette("e793b78cc4c9e9a4ccc0c1155377a412"),
        _imagenette("c475f8f7617a200ba35b9facc48443c3"),
    ),
    "pneumonia-mnist": (
        Copy(
            {
                "https://zenodo.org/records/10519652/files/pneumoniamnist.npz": (
                    "28209eda62fecd6e6a2d98b1501bb15f"
                )
            },
            lambda paths: medmnist(paths, ("normal", "pneumonia")),
        ),
    ),
}
