"""Text without a download: which installed library does a sentence of a docstring come from?

The libraries this course needs anyway hold some ten thousand sentences of prose, written by people
and labelled by the place where they stand. Three things would spoil the task, and each is taken
care of: a library's own name is masked, near copies are removed, and the parts are divided by
object, so that no docstring has sentences in two of them. The same versions of the libraries give
the same corpus, on every machine.
"""

import hashlib
import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..util.checks import explained, short_repr

LIBRARIES = ("matplotlib", "numpy", "scipy", "sklearn", "torch")
PARTS = {"train": 1000, "valid": 150, "test": 300}  # sentences per library, at most
MASK = "#"  # in place of any library's name
ALPHABET = "abcdefghijklmnopqrstuvwxyz0 .,;:'\"()/-_" + MASK  # 0 is every digit
SHORTEST, LENGTH = 40, 120  # characters of a sentence
SHAPE = f"{len(ALPHABET)}×{LENGTH}"

_PER_OBJECT = 10  # sentences; otherwise one large class would be most of its library
_SHINGLE = 4  # words in a row
_FEWEST = 20  # sentences per library and part; below, the corpus is none
_ENOUGH = 3500  # sentences to look at per library: some are copies, most are for training

_NAMES = re.compile(
    r"\w*(?:matplotlib|pyplot|numpy|scipy|sklearn|scikit-learn|torch)\w*|\b(?:np|plt|mpl\w*)\b",
    re.IGNORECASE,
)
# Tests, copies of other projects, and the compilers inside torch, which are half of its files.
_LEFT_OUT = re.compile(
    r"(?:^|/)(?:_?tests?|testing|test_\w+|conftest|externals|_vendor|_lib|_inductor|_dynamo)(?:/|\.)"
)
# Searched for and not parsed: it takes a tenth of the time. A docstring is the first string after a
# line that ends in a colon, or what add_newdoc and the like are given for functions written in C.
_DOCSTRING = re.compile(
    r'''^(?:async[ ]def|def|class)[ ]+(?P<name>\w+)
    | :[ \t]*\n[ \t]+[rRuU]?"""(?P<doc>.*?)"""
    | ^add_\w+\((?P<added>[^"]{1,80}?|(?:[^"\n]*"[^"\n]*"){1,2}),\s*[rR]?"""(?P<text>.*?)"""''',
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
# A line that makes its paragraph something else than prose.
_NO_PROSE = re.compile(
    r"\s*(?:>>>|\.\. |-{3,}|={3,}|[-*+] |\d+[.)] |:\w+|@|\|)"  # code, directive, rule, list, table
    r"|.*\w : |\s*\w+(?:, \w+)*\s*(?:\([^)]*\))?:(?: |$)"  # parameter
)
_ROLE = re.compile(r"(?::[\w:.+-]+:)?`~?([^`<]*?)(?:\s*<[^`>]*>)?`_*")
_SENTENCE_END = re.compile(r"(?<=[.?!])\s+(?=[A-Z])")


@dataclass(frozen=True)
class Sentence:
    """A sentence, as it was written but for its markup.

    library: where it comes from. origin: the object whose docstring holds it, as "file:object".
    part: "train", "valid" or "test"; by the origin alone.
    """

    text: str
    library: str
    origin: str

    @property
    def part(self) -> str:
        """Of ten origins seven are for training, one for validation, two for the test."""
        tenth = _place(self.origin) % 10
        return "test" if tenth < 2 else "valid" if tenth == 2 else "train"


@explained()
@lru_cache(maxsize=2)
def corpus(libraries: tuple[str, ...] = LIBRARIES) -> tuple[Sentence, ...]:
    """The same number of sentences of every library in each part, without near copies.

    As many as ``PARTS`` says, or as the library with the fewest has. Takes some seconds the first
    time.

    Raises:
        ModuleNotFoundError: a library is not installed. ValueError: one has hardly any docstrings.
    """
    found = [s for library in libraries for s in islice(sentences(library), _ENOUGH)]
    kept = without_near_copies(found)
    chosen = []
    for part, most in PARTS.items():
        each = {
            name: [s for s in kept if s.part == part and s.library == name] for name in libraries
        }
        rarest = min(each, key=lambda name: len(each[name]))
        count = min(most, len(each[rarest]))
        if count < _FEWEST:
            raise ValueError(
                f"{rarest} holds only {count} sentences for the part {part}; are its Python files "
                "installed? Install it with pip, from its usual wheel."
            )
        chosen += [s for name in libraries for s in each[name][:count]]
    return tuple(chosen)


@explained()
def sentences(library: str) -> Iterator[Sentence]:
    """All sentences of prose in the docstrings of an installed library, copies included.

    Prose: paragraphs without code, lists, tables, fields and parameters. Kept are sentences of
    40 to 120 characters that begin with a capital, end with a stop, and are nine tenths letters.
    The library is read, not imported. The order follows a hash of the files' names.

    Raises:
        ModuleNotFoundError: the library is not installed.
    """
    if not isinstance(library, str) or not library.isidentifier():  # a dot would import things
        raise ValueError(
            f"library={short_repr(library)} is no name of a package; give one such as numpy."
        )
    spec = find_spec(library)
    if spec is None or not spec.submodule_search_locations:
        package = "scikit-learn" if library == "sklearn" else library
        raise ModuleNotFoundError(
            f"{short_repr(library)} is not installed here, and the corpus needs its docstrings; install "
            f"it with pip install {package[:60]}."
        )
    root = Path(spec.submodule_search_locations[0])
    names = (path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    for name in sorted((n for n in names if not _LEFT_OUT.search(n)), key=_place):
        source = (root / name).read_text(encoding="utf-8", errors="replace")
        for of, texts in _docstrings(source).items():
            origin = f"{library}/{name}:{of}"
            found = dict.fromkeys(s for text in texts for s in _prose(text))
            yield from (Sentence(s, library, origin) for s in list(found)[:_PER_OBJECT])


def _docstrings(source: str) -> dict[str, list[str]]:
    """The docstrings of a file, by the function or class at the top level that they belong to."""
    found, name = {}, None
    for match in _DOCSTRING.finditer(source):
        if match["name"]:
            name = match["name"]
        elif match["text"] is not None:
            name = " ".join(re.findall(r"[\w.]+", match["added"])[:2])  # without the attribute
            found.setdefault(name, []).append(match["text"])
        elif name:
            found.setdefault(name, []).append(match["doc"])
    return found


def _prose(docstring: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        lines = paragraph.splitlines()
        indented = len({len(line) - len(line.lstrip()) for line in lines}) > 1
        if indented or any(_NO_PROSE.match(line) for line in lines):
            continue
        plain = re.sub(r"[`*|]|\[\d+\]_", "", _ROLE.sub(r"\1", paragraph))
        for sentence in _SENTENCE_END.split(" ".join(plain.split())):
            if _is_prose(sentence):
                yield sentence


def _is_prose(sentence: str) -> bool:
    letters = sum(c.isalpha() or c == " " for c in sentence)
    return bool(
        SHORTEST <= len(sentence) <= LENGTH
        and re.fullmatch(r"[A-Z][\w\s,;:.'()/\"-]*\.", sentence)
        and len(re.findall(r"[a-z]+", sentence)) >= 6
        and letters >= 0.9 * len(sentence)
    )


@explained()
def without_near_copies(found: Iterable[Sentence]) -> list[Sentence]:
    """Leave out every sentence of which more than half was said before, masked names alike.

    Measured in shingles, four words in a row: libraries copy whole paragraphs from method to method
    and from one another. The sentences come back in the order of a hash of their origins, and
    in this order the first copy stays, whichever library holds it.
    """
    seen, kept = set(), []
    for sentence in sorted(found, key=lambda s: _place(s.origin)):
        said = shingles(sentence.text)
        if sum(s in seen for s in said) <= len(said) / 2:
            kept.append(sentence)
            seen |= said
    return kept


@explained()
def shingles(text: str) -> set[tuple[str, ...]]:
    """Every four words in a row of a masked sentence, without case, digits and punctuation."""
    words = re.sub(r"[^a-z0# ]", "", re.sub(r"\d", "0", mask(text).lower())).split()
    return {tuple(words[i : i + _SHINGLE]) for i in range(max(1, len(words) - _SHINGLE + 1))}


@explained()
def mask(text: str) -> str:
    """The text with ``#`` for every word that holds a library's name: numpy, np, PyTorch, …"""
    return _NAMES.sub(MASK, text)


@explained()
def encode(texts: Sequence[str]) -> np.ndarray:
    """Texts as one-hot characters, (N, V, L) uint8: x[n, v, i] = 1 if character i of n is v.

    Without case, and with 0 for every digit. What is not in ``ALPHABET`` and what follows the end
    of a text is 0 in all V channels; what goes beyond L = 120 is cut off.
    """
    plain = [re.sub(r"\d", "0", text.lower())[:LENGTH].ljust(LENGTH, "\0") for text in texts]
    codes = np.frombuffer("".join(plain).encode("utf-32-le"), np.uint32)
    alphabet = np.array([ord(c) for c in ALPHABET], dtype=np.uint32)
    return (codes.reshape(-1, 1, LENGTH) == alphabet[:, None]).astype(np.uint8)


@explained()
def decode(x: Tensor | np.ndarray) -> list[str]:
    """The texts of one-hot characters (N, V, L); a place without a character becomes a space."""
    x = torch.as_tensor(x)
    if x.dim() != 3 or x.shape[1] != len(ALPHABET):
        raise ValueError(
            f"x has shape {tuple(x.shape)}, not (N, {len(ALPHABET)}, L); give what encode returns, "
            "or the x of a set of docstrings."
        )
    found = torch.where(x.amax(1) > 0, x.argmax(1), len(ALPHABET))  # (N, L)
    return ["".join((ALPHABET + " ")[v] for v in row).rstrip() for row in found.tolist()]


def _place(name: str) -> int:
    """A number that looks random and is the same everywhere."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
