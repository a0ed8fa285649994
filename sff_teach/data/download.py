"""Data sets from the network: fetched once, checked, kept as one file of plain arrays.

Archives are read where they lie, never unpacked, so that no path inside one can lead outside; and
nothing in them is executed: images, raw bytes and arrays without objects are all that is read, up
to a limit.
"""

import errno
import gzip
import hashlib
import http.client
import os
import shutil
import socket
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np
from filelock import FileLock
from tqdm.auto import tqdm

from ..util.files import NO_ROOM, atomic_write, remove_partial_files
from .folder import SUFFIXES, read_image

TIMEOUT = 30  # seconds without a byte
TRIES = 3  # per address; a new try goes on where the last one broke off
PAUSE = 1.0  # seconds before a new try
CHUNK = 1 << 18
MOST_BYTES = 4 << 30  # of a download, or of what an archive unpacks to; the sets need a quarter
MOST_IN_ONE = 256 << 20  # bytes of one file in an archive
MOST_MEMBERS = 1_000_000  # files in an archive
WORKERS = min(4, os.cpu_count() or 1)  # that decode images; Pillow lets threads run side by side
GROUP = 64  # images per task of a worker
OURS = (*NO_ROOM, errno.EROFS, errno.EACCES)  # errors of this machine's disk, not of the network
UNREADABLE = (ValueError, KeyError, EOFError, OSError, tarfile.TarError, zipfile.BadZipFile,
              zlib.error)  # fmt: skip


@dataclass(frozen=True)
class File:
    """One file of a copy: its name, address and MD5 (several, if it was published anew)."""

    name: str
    url: str
    md5: tuple[str, ...]


@dataclass(frozen=True)
class Copy:
    """One way to get a set: its files, and how to read them into arrays."""

    files: tuple[File, ...]
    read: Callable[[Sequence[Path]], dict[str, np.ndarray]]


class DownloadError(OSError):
    """A set that could not be fetched; the sentence says what to do."""


def fetch(name: str, home: Path) -> Path:
    """The file of arrays of a set in ``home``, downloaded if it is not there.

    Two processes that ask at once get one download. The arrays: ``train_images`` and
    ``test_images`` (N, C, H, W) uint8, ``train_labels`` and ``test_labels`` (N,), ``classes``, and
    perhaps ``valid_images`` and ``valid_labels``. Images of copies without an order of their own
    are put in the order of a hash of their pixels, so that every copy gives the same set.

    Raises:
        DownloadError: offline, wrong checksum, full disk, …, with the remedy.
    """
    path = home / f"{name}.npz"
    if path.is_file():
        return path
    try:
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / f".{name}.lock"):
            if not path.is_file():
                _make(name, home, path)
    except NotImplementedError:  # some network disks
        raise DownloadError(
            f'"{name}" cannot be stored in {home}, whose disk knows no locks; set SFF_TEACH_DATA '
            "to a folder on a disk of this machine."
        ) from None
    except OSError as error:
        if isinstance(error, DownloadError):
            raise
        raise DownloadError(_disk_sentence(name, home, error)) from None
    return path


def _make(name: str, home: Path, path: Path) -> None:
    remove_partial_files(path)  # its size may be a gigabyte
    copies = SETS[name]
    reasons = []
    for copy in copies:
        try:
            paths = [_get(file, home) for file in copy.files]
        except _Failed as failed:
            reasons.append(str(failed))
            continue
        try:
            arrays = copy.read(paths)
        except UNREADABLE as error:  # as published, but not what we know how to read
            reasons.append(f"{copy.files[0].name} cannot be read: {_reason(error)}")
            continue
        atomic_write(path, partial(_store, arrays))
        path.chmod(0o644)  # public images, and a class may share the folder
        for done in paths:
            done.unlink()
        return
    by_hand = " and ".join(file.url for file in copies[0].files)
    raise DownloadError(
        f'"{name}" could not be downloaded ({"; ".join(reasons)}); try again later{_proxy_hint()}, '
        f"or fetch {by_hand} by hand and put it into {home}."
    )


def _store(arrays: dict[str, np.ndarray], file: BinaryIO) -> None:
    np.savez(file, **arrays)


def _proxy_hint() -> str:
    proxies = {k: v for k, v in urllib.request.getproxies().items() if k in ("http", "https")}
    return " (this machine uses a proxy: see HTTPS_PROXY)" if proxies else ""


def _disk_sentence(name: str, home: Path, error: OSError) -> str:
    if error.errno in NO_ROOM:
        return (
            f'the disk of {home} is full while storing "{name}"; free some space, or set '
            "SFF_TEACH_DATA to another folder. What was fetched is kept and goes on from there."
        )
    return (
        f'"{name}" cannot be stored in {home} ({error.strerror or error}); set SFF_TEACH_DATA to a '
        "folder you may write to."
    )


# ---------------------------------------------------------------- one file


class _Failed(Exception):
    """Why an address did not give the file."""


def _get(file: File, home: Path) -> Path:
    """The checked file in ``home``: put there by hand, or fetched."""
    path, part = home / file.name, home / f"{file.name}.part"
    by_hand = ""
    if path.is_file():
        if _md5(path) in file.md5:
            return path
        by_hand = f"{path} is another file than expected, by its checksum; "
    host = file.url.split("/")[2]
    reason = ""
    for number in range(TRIES):
        time.sleep(PAUSE if number else 0)
        try:
            _continue(file.url, part)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if getattr(error, "errno", None) in OURS:
                raise
            reason = _reason(error)
            if isinstance(error, urllib.error.HTTPError) and error.code in (403, 404, 410):
                break
            continue
        if _md5(part) in file.md5:
            os.replace(part, path)
            return path
        part.unlink(missing_ok=True)
        reason = "another file than expected: wrong checksum"
    raise _Failed(f"{by_hand}{host}: {reason}")


def _continue(url: str, part: Path) -> None:
    """Fetch what is missing of the partial file; raise if it is not all there afterwards."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "sff-teach"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing left to fetch; the checksum will tell
            return
        raise
    with answer:
        whole = answer.status != 206  # the server starts at the beginning again
        missing = answer.headers.get("Content-Length")
        missing = int(missing) if missing is not None else None
        start = 0 if whole else have
        total = None if missing is None else start + missing
        if total is not None and total > MOST_BYTES:
            raise OSError(f"wants to send {total:,} bytes, far more than any set has")
        if missing is not None and shutil.disk_usage(part.parent).free < missing:
            raise OSError(errno.ENOSPC, "No space left on device")
        with (
            open(part, "wb" if whole else "ab") as out,
            tqdm(total=total, initial=start, unit="B", unit_scale=True, unit_divisor=1024,
                 desc=part.name.removesuffix(".part"), leave=False, delay=1) as bar,
        ):  # fmt: skip
            while chunk := answer.read(CHUNK):
                out.write(chunk)
                bar.update(len(chunk))
                if out.tell() > MOST_BYTES:
                    break  # the checksum will tell
    if total is not None and part.stat().st_size < total:
        raise OSError(f"broke off after {part.stat().st_size:,} of {total:,} bytes")


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"answers {error.code} {error.reason}"
    cause = getattr(error, "reason", error)
    if isinstance(cause, TimeoutError):
        return f"no answer for {TIMEOUT:g} s"
    if isinstance(cause, socket.gaierror):
        return "not found; is this machine online?"
    if isinstance(error, http.client.IncompleteRead):
        return "broke off"
    return str(cause).strip() or type(cause).__name__


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


# ---------------------------------------------------------------- reading


def _images_in_tar(size: int | None = None, names: dict[str, str] | None = None):
    """A reader of an archive of …/train/…/CLASS/image and …/test/… (or val/)."""

    def decode(group: list[tuple[PurePosixPath, bytes]]) -> list[np.ndarray]:
        shape = (size, size) if size else None
        return [read_image(Path(place), shape, content=content) for place, content in group]

    def read(paths: Sequence[Path]) -> dict[str, np.ndarray]:
        images, labels = {"train": [], "test": []}, {"train": [], "test": []}
        bar = tqdm(desc="reading images", unit="image", leave=False, delay=1)
        with bar, tarfile.open(paths[0]) as archive, ThreadPoolExecutor(WORKERS) as pool:
            for group, decoded in _side_by_side(pool, decode, _groups(_image_files(archive))):
                for (place, _), image in zip(group, decoded, strict=True):
                    image = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
                    part = _part(place)
                    images[part].append(np.ascontiguousarray(image.transpose(2, 0, 1)))
                    labels[part].append(place.parent.name)
                bar.update(len(group))
        classes = sorted(set(labels["train"]))
        if not classes or set(labels["test"]) != set(classes):
            raise ValueError("its train and test folders do not have the same classes")
        arrays = {"classes": np.array([(names or {}).get(c, c) for c in classes])}
        for part in images:
            y = np.array([classes.index(c) for c in labels[part]])
            arrays |= _in_order(part, images[part], y)
        return arrays

    return read


def _part(place: PurePosixPath) -> str | None:
    """ "train" or "test", by the folder; None elsewhere."""
    parts = {"train": "train", "test": "test", "val": "test"}
    return next((parts[p] for p in place.parts if p in parts), None)


def _image_files(archive: tarfile.TarFile) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Name and content of the images for training and testing; links and devices are no files."""
    for member in _files(archive):
        place = PurePosixPath(member.name)
        if _part(place) is not None and place.name.lower().endswith(SUFFIXES):
            yield place, archive.extractfile(member).read()


def _files(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The files of an archive, as long as it is not larger than any set."""
    total = 0
    for number, member in enumerate(archive):
        total += member.size
        if member.size > MOST_IN_ONE or total > MOST_BYTES or number >= MOST_MEMBERS:
            raise ValueError("it unpacks to far more than any set has")
        if member.isfile():
            yield member


def _groups(items: Iterable, size: int | None = None) -> Iterator[list]:
    """Lists of ``size`` items each, the last one perhaps shorter."""
    group = []
    for item in items:
        group.append(item)
        if len(group) == (size or GROUP):
            yield group
            group = []
    if group:
        yield group


def _side_by_side(pool: ThreadPoolExecutor, work: Callable, items: Iterable) -> Iterator[tuple]:
    """(item, work(item)) in order, with a few items under way, so that few are in memory."""
    under_way = deque()
    try:
        for item in items:
            under_way.append((item, pool.submit(work, item)))
            if len(under_way) > 2 * WORKERS:
                item, future = under_way.popleft()
                yield item, future.result()
        while under_way:
            item, future = under_way.popleft()
            yield item, future.result()
    finally:
        pool.shutdown(cancel_futures=True)  # on an error or Ctrl-C, at once


def _in_order(part: str, images: Sequence[np.ndarray], y: np.ndarray) -> dict[str, np.ndarray]:
    """By a hash of the pixels: the same order, wherever the images came from.

    A list of images is emptied, so that they are in memory only once.
    """
    if len({image.shape for image in images}) != 1:
        raise ValueError("its images have different sizes")
    digests = [hashlib.md5(image, usedforsecurity=False).digest() for image in images]
    order = sorted(range(len(images)), key=digests.__getitem__)
    x = np.empty((len(images), *images[0].shape), dtype=np.uint8)
    for row, i in zip(x, order, strict=True):
        row[...] = images[i]
        if isinstance(images, list):
            images[i] = None
    return {f"{part}_images": x, f"{part}_labels": y[order].astype(np.int64)}


def _cifar_binary(train: Sequence[str], test: Sequence[str], meta: str, labels: int):
    """A reader of CIFAR's binary archive: a record is ``labels`` bytes, the last one the class,
    and 3,072 pixels."""

    def read(paths: Sequence[Path]) -> dict[str, np.ndarray]:
        with tarfile.open(paths[0]) as archive:
            inside = {PurePosixPath(member.name).name: member for member in _files(archive)}

            def content(name: str) -> bytes:
                return archive.extractfile(inside[name]).read()

            arrays = {"classes": np.array(content(meta).decode().split())}
            for part, names in (("train", train), ("test", test)):
                raw = np.frombuffer(b"".join(map(content, names)), dtype=np.uint8)
                raw = raw.reshape(-1, labels + 3072)
                x = raw[:, labels:].reshape(-1, 3, 32, 32)
                arrays |= _in_order(part, x, raw[:, labels - 1])
        return arrays

    return read


def _idx(classes: Sequence[str]):
    """A reader of MNIST's four files: training images, labels, test images, labels."""

    def read(paths: Sequence[Path]) -> dict[str, np.ndarray]:
        images, labels = 16, 8  # bytes before the data
        arrays = {"classes": np.array(classes)}
        for part, (x, y) in (("train", paths[:2]), ("test", paths[2:])):
            x = np.frombuffer(_unzipped(x), np.uint8, offset=images)
            y = np.frombuffer(_unzipped(y), np.uint8, offset=labels)
            arrays[f"{part}_images"] = x.reshape(-1, 1, 28, 28)
            arrays[f"{part}_labels"] = y.astype(np.int64)
        return arrays

    return read


def _unzipped(path: Path) -> bytes:
    with gzip.open(path) as file:
        content = file.read(MOST_IN_ONE + 1)
    if len(content) > MOST_IN_ONE:
        raise ValueError("it unpacks to far more than any set has")
    return content


def _medmnist(classes: Sequence[str]):
    """A reader of a MedMNIST file."""

    def read(paths: Sequence[Path]) -> dict[str, np.ndarray]:
        arrays = {"classes": np.array(classes)}
        with zipfile.ZipFile(paths[0]) as archive:
            if sum(member.file_size for member in archive.infolist()) > MOST_BYTES:
                raise ValueError("it unpacks to far more than any set has")
        with np.load(paths[0], allow_pickle=False) as stored:
            for part, theirs in (("train", "train"), ("valid", "val"), ("test", "test")):
                x = stored[f"{theirs}_images"]
                arrays[f"{part}_images"] = x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2)
                arrays[f"{part}_labels"] = stored[f"{theirs}_labels"].ravel().astype(np.int64)
        return arrays

    return read


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file made by ``fetch``.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            return dict(stored)
    except PermissionError:
        raise ValueError(
            f"{path} is not yours to read; ask its owner for permission, or set SFF_TEACH_DATA to "
            "a folder of your own."
        ) from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        raise ValueError(f"{path} is damaged; remove it, and it is fetched again.") from None


# ---------------------------------------------------------------- what there is

_FAST_AI = "https://s3.amazonaws.com/fast-ai-"
_TORONTO = "https://www.cs.toronto.edu/~kriz/"
_ZALANDO = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_FASHION = (
    ("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
    ("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
    ("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
    ("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
)
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
    "Ankle boot",
)  # fmt: skip
_IMAGENETTE = {
    "n01440764": "tench", "n02102040": "English springer", "n02979186": "cassette player",
    "n03000684": "chain saw", "n03028079": "church", "n03394916": "French horn",
    "n03417042": "garbage truck", "n03425413": "gas pump", "n03445777": "golf ball",
    "n03888257": "parachute",
}  # fmt: skip


def _one(url: str, read: Callable, *md5: str) -> Copy:
    return Copy((File(url.rsplit("/", 1)[1], url, md5),), read)


SETS: dict[str, tuple[Copy, ...]] = {
    "fashion-mnist": (
        Copy(tuple(File(n, _ZALANDO + n, (md5,)) for n, md5 in _FASHION), _idx(FASHION_CLASSES)),
    ),
    "cifar10": (
        _one(_FAST_AI + "sample/cifar10.tgz", _images_in_tar(), "a5f8c31371b63a406b23368042812d3c"),
        _one(
            _TORONTO + "cifar-10-binary.tar.gz",
            _cifar_binary(
                [f"data_batch_{i}.bin" for i in range(1, 6)], ["test_batch.bin"],
                "batches.meta.txt", 1,
            ),
            "c32a1d4ab5d03f1284b67883e8d87530",
        ),
    ),
    "cifar100": (
        _one(
            _FAST_AI + "imageclas/cifar100.tgz", _images_in_tar(),
            "e5e65dcb54b9d3913f7b8a9ad6607e62",
        ),
        _one(
            _TORONTO + "cifar-100-binary.tar.gz",
            _cifar_binary(["train.bin"], ["test.bin"], "fine_label_names.txt", 2),
            "03b5dce01913d631647c71ecec9e9cb8",
        ),
    ),
    "imagenette": (
        _one(
            _FAST_AI + "imageclas/imagenette2-160.tgz", _images_in_tar(160, _IMAGENETTE),
            "e793b78cc4c9e9a4ccc0c1155377a412", "c475f8f7617a200ba35b9facc48443c3",
        ),
    ),
    "pneumonia-mnist": (
        _one(
            "https://zenodo.org/records/10519652/files/pneumoniamnist.npz",
            _medmnist(("normal", "pneumonia")),
            "28209eda62fecd6e6a2d98b1501bb15f",
        ),
    ),
}  # fmt: skip
