"""Text without a download: which library does a sentence of a docstring come from?

data/README.md describes how data/docstrings.txt.gz was made, and from which versions.
"""

import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from .files import read_embedded

FILE = "docstrings.txt.gz"
SHA256 = "d5ff4926d57e6d2eef07a570efd7fa1403bbd0d5d8c9659dc3c040e3aa623451"
LIBRARIES = ("matplotlib", "numpy", "scipy", "sklearn", "torch")
MASK = "#"  # in place of any library's name
ALPHABET = "abcdefghijklmnopqrstuvwxyz0 .,;:'\"()/-_" + MASK  # 0 is every digit
LENGTH = 120  # characters of a sentence, at most
SHAPE = f"{len(ALPHABET)}×{LENGTH}"

_NAMES = re.compile(
    r"\w*(?:matplotlib|pyplot|numpy|scipy|sklearn|scikit-learn|torch)\w*|\b(?:np|plt|mpl\w*)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Sentence:
    """A sentence without its markup."""

    text: str
    library: str
    origin: str  # the object whose docstring holds it, as "file:object"
    part: str  # "train", "valid", "test", the same for all of an object; "" if in no set


@cache
def sentences() -> tuple[Sentence, ...]:
    """All stored sentences: the corpus, and all other sentences of numpy and scikit-learn."""
    content = gzip.decompress(read_embedded(FILE, SHA256)).decode()
    rows = (line.split("\t") for line in content.splitlines())
    return tuple(Sentence(text, library, origin, part) for part, library, origin, text in rows)


def corpus() -> tuple[Sentence, ...]:
    """The data set "docstrings": 1,000 + 150 + 300 sentences per library, without near copies."""
    return tuple(s for s in sentences() if s.part)


def mask(text: str) -> str:
    """The text with ``#`` for every word that contains a library's name: numpy, np, PyTorch, …"""
    return _NAMES.sub(MASK, text)


def shingles(text: str) -> set[tuple[str, ...]]:
    """All sequences of four words of a masked sentence, without case, digits and punctuation."""
    words = re.sub(r"[^a-z0# ]", "", re.sub(r"\d", "0", mask(text).lower())).split()
    return {tuple(words[i : i + 4]) for i in range(max(1, len(words) - 3))}


def encode(texts: Sequence[str]) -> np.ndarray:
    """Texts as one-hot characters, (N, V, L) uint8: 1 if character i of text n is letter v.

    Case is ignored and every digit is 0. Characters outside ``ALPHABET`` and positions after the
    end are 0 in all V channels; a text is cut off after L = 120 characters.
    """
    plain = [re.sub(r"\d", "0", text.lower())[:LENGTH].ljust(LENGTH, "\0") for text in texts]
    codes = np.frombuffer("".join(plain).encode("utf-32-le"), np.uint32)
    alphabet = np.array([ord(c) for c in ALPHABET], dtype=np.uint32)
    return (codes.reshape(-1, 1, LENGTH) == alphabet[:, None]).astype(np.uint8)


def decode(x: Tensor | np.ndarray) -> list[str]:
    """The texts of one-hot characters (N, V, L); a place without one becomes a space."""
    x = torch.as_tensor(x)
    found = torch.where(x.amax(1) > 0, x.argmax(1), len(ALPHABET))  # (N, L)
    return ["".join((ALPHABET + " ")[v] for v in row).rstrip() for row in found.tolist()]
