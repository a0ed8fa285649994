"""Folders of images as people have them: every file may be something else than its name says."""

import io
import os
import shutil
import struct
import zlib
from functools import cache
from pathlib import Path

from hypothesis import strategies as st
from PIL import Image

from sff_teach import ImageSet, load

from .hostile import call, explore, new_folder

ROOT = new_folder()


@cache
def encoded(kind: str, mode: str, size: tuple[int, int], frames: int = 1, value: int = 90) -> bytes:
    """A picture of one value in a file format."""
    file = io.BytesIO()
    images = [Image.new("L", size, value + 20 * i).convert(mode) for i in range(frames)]
    more = {"save_all": True, "append_images": images[1:]} if frames > 1 else {}
    images[0].save(file, kind, **more)
    return file.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def bomb(width: int, height: int, zeros: int) -> bytes:
    """A PNG that says it is large; its pixels are as many zeros as asked for, packed."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(zeros), 9))
        + chunk(b"IEND", b"")
    )


@cache
def large() -> bytes:
    """20,000 × 20,000 pixels, whole: 400 MB of zeros in 50 kB."""
    packer = zlib.compressobj(9)
    row = bytes(20_001)
    data = b"".join(packer.compress(row) for _ in range(20_000)) + packer.flush()
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", data[:1000])
        + chunk(b"IEND", b"")
    )


PNG = encoded("PNG", "L", (6, 5))
FILES = {  # what a file may hold
    "grey": PNG,
    "colour": encoded("PNG", "RGB", (6, 5)),
    "CMYK": encoded("JPEG", "CMYK", (6, 5)),
    "one pixel": encoded("PNG", "L", (1, 1)),
    "long": encoded("PNG", "L", (300, 1)),
    "other size": encoded("PNG", "L", (7, 7)),
    "animated GIF": encoded("GIF", "L", (6, 5), 3),
    "animated PNG": encoded("PNG", "L", (6, 5), 3),
    "animated WebP": encoded("WEBP", "RGB", (6, 5), 3),
    "TIFF": encoded("TIFF", "L", (6, 5)),
    "float": encoded("TIFF", "F", (6, 5)),
    "transparent": encoded("PNG", "LA", (6, 5)),
    "palette": encoded("PNG", "P", (6, 5)),
    "one bit": encoded("PNG", "1", (6, 5)),
    "cut": PNG[: len(PNG) // 2],
    "cut late": encoded("JPEG", "L", (60, 50))[:-30],
    "no bytes": b"",
    "text": b"not an image\n",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='6' height='5'/>",
    "wrong checksum": PNG[:-6] + b"\0\0" + PNG[-4:],
    "header alone": PNG[:8],
    "no pixels": bomb(0, 0, 0),
    "20,000 × 20,000": large(),
    "says it is huge": bomb(2**31 - 1, 2**31 - 1, 10),
    "bomb": bomb(9_000, 9_000, 10),  # below the limit of pixels, but nothing in it
    "text bomb": b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", struct.pack(">IIBBBBB", 6, 5, 8, 0, 0, 0, 0))
    + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80 << 20), 9))
    + PNG[33:],
    "broken EXIF": encoded("JPEG", "L", (6, 5))[:2]
    + b"\xff\xe1\x00\x20Exif\0\0II*\0"
    + b"\xff" * 22
    + encoded("JPEG", "L", (6, 5))[2:],
}
SUFFIXES = [".png", ".jpg", ".JPEG", ".bmp", ".webp", ".gif", ".txt", ""]
NAMES = [
    "a",
    "ä ö",
    "🐝",
    "a b",
    "-rf",
    "a\nb",
    "x" * 200,
    ".hidden",
    "$(x)",
    "%s",
    "a.b.c",
    "'\"",
    "con",
]
LINKS = [
    "to itself",
    "to the class",
    "to the root",
    "out of the folder",
    "to nothing",
    "to a device",
    "to a fifo",
    "in a loop",
]

file_kinds = st.one_of(
    st.sampled_from(list(FILES)), st.sampled_from([*LINKS, "a folder", "unreadable"])
)
entries = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(SUFFIXES), file_kinds), max_size=3
)
tops = st.lists(
    st.sampled_from(
        [
            "empty class",
            "loop",
            "out",
            "file",
            "unreadable class",
            "odd class",
            "hidden",
            "valid",
            "val",
        ]
    ),
    max_size=2,
)


def put(path: Path, kind: str, root: Path) -> None:
    """Make a file, or what stands in its place."""
    if path.exists() or path.is_symlink():
        return
    outside = ROOT / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "x.png").write_bytes(PNG)
    targets = {
        "to itself": path.name,
        "to the class": path.parent,
        "to the root": root,
        "to nothing": "nowhere",
        "to a device": "/dev/zero",
        "out of the folder": outside / "x.png",
        "in a loop": path.parent / ".." / path.parent.name,
    }
    try:
        if kind in targets:
            path.symlink_to(targets[kind])
        elif kind == "to a fifo":
            os.mkfifo(path)
        elif kind == "a folder":
            path.mkdir()
        elif kind == "unreadable":
            path.write_bytes(PNG)
            path.chmod(0)
        else:
            path.write_bytes(FILES[kind])
    except (OSError, AttributeError, NotImplementedError):
        pass  # a system that has no such thing


def top(root: Path, kind: str) -> None:
    """Something besides the class folders."""
    try:
        if kind == "file":
            (root / "train" / "notes.txt").write_text("x")
        elif kind == "loop":
            (root / "train" / "round").symlink_to(root / "train")
        elif kind == "out":
            (root / "train" / "elsewhere").symlink_to(ROOT)
        else:
            names = {
                "empty class": "train/cow",
                "unreadable class": "train/dog",
                "odd class": "train/🐝 \n",
                "hidden": "train/.git",
            }
            folder = root / names.get(kind, kind)
            folder.mkdir()
            if kind == "unreadable class":
                folder.chmod(0)
    except OSError:
        pass


def load_folder(train, test, tops, size, validation):
    """``load`` of a folder with two classes of two good images each in both parts, and all that."""
    root = ROOT / "case"
    if root.exists():
        for path in root.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o700)
        shutil.rmtree(root)
    for part, more in (("train", train), ("test", test)):
        for name in ("ant", "bee"):
            (root / part / name).mkdir(parents=True)
            for i in range(2):
                (root / part / name / f"{i}.png").write_bytes(PNG)
        for name, suffix, kind in more:
            put(root / part / "ant" / (name + suffix), kind, root)
    for kind in tops:
        top(root, kind)
    splits = load(f"folder:{root}", size=size, validation=validation)
    assert all(isinstance(part, ImageSet) for part in splits)
    return splits


test_folders = explore(
    "folders",
    [
        call(
            load_folder,
            train=((), entries),
            test=((), entries),
            tops=((), tops),
            size=(None, st.sampled_from([None, 4, (3, 9)])),
            validation=(0.5, st.sampled_from([0, 0.5])),
        ),
        call(
            load_folder,
            train=((), entries),
            test=((), st.just(())),
            tops=((), st.just(())),
            size=(4, st.sampled_from([1, 64])),
            validation=(0, st.just(0)),
            named="load_folder, resized",
        ),
    ],
)
