"""Make data/docstrings.txt.gz out of the docstrings of five installed libraries.

    python data/make_docstrings.py [--out FILE]

The libraries are read, not imported. Three things would spoil the task "which library is this
sentence from?": a library's own name (masked when the corpus is encoded), near copies (left out
here), and sentences of one docstring in two parts (the parts are divided by object). Another
version of a library gives another corpus; data/README.md names the versions of the stored one.

A line of the file is part, library, origin and sentence, separated by tabs. Sentences without a
part belong to no set: they are the other sentences of numpy and scikit-learn, copies included,
which notebook 13 needs to show what near copies do.
"""

import argparse
import gzip
import hashlib
import inspect
import re
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from sff_teach.data.text import LIBRARIES, Sentence, shingles

OUT = Path(__file__).resolve().parent / "docstrings.txt.gz"
PARTS = {"train": 1000, "valid": 150, "test": 300}  # sentences per library
SHORTEST, LONGEST = 40, 120  # characters of a sentence
PER_OBJECT = 10  # sentences; otherwise one large class would be most of its library
SEARCHED = 3500  # sentences to look at per library: some are copies, most are for training
ALL_OF = ("numpy", "sklearn")  # also stored with their copies

# Tests, copies of other projects, and the compilers inside torch, which are half of its files.
LEFT_OUT = re.compile(
    r"(?:^|/)(?:_?tests?|testing|test_\w+|conftest|externals|_vendor|_lib|_inductor|_dynamo)(?:/|\.)"
)
# Searched for and not parsed: it takes a tenth of the time. A docstring is the first string after a
# line that ends in a colon, or what add_newdoc and the like are given for functions written in C.
DOCSTRING = re.compile(
    r'''^(?:async[ ]def|def|class)[ ]+(?P<name>\w+)
    | :[ \t]*\n[ \t]+[rRuU]?"""(?P<doc>.*?)"""
    | ^add_\w+\((?P<added>[^"]{1,80}?|(?:[^"\n]*"[^"\n]*"){1,2}),\s*[rR]?"""(?P<text>.*?)"""''',
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
# A line that makes its paragraph something else than prose.
NO_PROSE = re.compile(
    r"\s*(?:>>>|\.\. |-{3,}|={3,}|[-*+] |\d+[.)] |:\w+|@|\|)"  # code, directive, rule, list, table
    r"|.*\w : |\s*\w+(?:, \w+)*\s*(?:\([^)]*\))?:(?: |$)"  # parameter
)
ROLE = re.compile(r"(?::[\w:.+-]+:)?`~?([^`<]*?)(?:\s*<[^`>]*>)?`_*")
SENTENCE_END = re.compile(r"(?<=[.?!])\s+(?=[A-Z])")


def place(name: str) -> int:
    """A number that looks random and is the same everywhere."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def part_of(origin: str) -> str:
    """Of ten objects seven are for training, one for validation and two for the test."""
    tenth = place(origin) % 10
    return "test" if tenth < 2 else "valid" if tenth == 2 else "train"


def make() -> list[Sentence]:
    """The same number of sentences of every library in each part, then the ones without a part."""
    found = {library: list(sentences(library)) for library in LIBRARIES}
    kept = without_near_copies([s for own in found.values() for s in own[:SEARCHED]])
    chosen = []
    for part, count in PARTS.items():
        for library in LIBRARIES:
            own = [s for s in kept if s.part == part and s.library == library]
            if len(own) < count:
                raise SystemExit(f"{library} has only {len(own)} sentences for {part}")
            chosen += own[:count]
    used = set(chosen)
    others = [s for library in ALL_OF for s in found[library] if s not in used]
    return chosen + [Sentence(s.text, s.library, s.origin, "") for s in others]


def sentences(library: str) -> Iterator[Sentence]:
    """All sentences of prose in the docstrings of an installed library, copies included.

    The order follows a hash of the files' names.
    """
    root = Path(find_spec(library).submodule_search_locations[0])
    names = (path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    for name in sorted((n for n in names if not LEFT_OUT.search(n)), key=place):
        source = (root / name).read_text(encoding="utf-8", errors="replace")
        for of, texts in docstrings(source).items():
            origin = f"{library}/{name}:{of}"
            found = dict.fromkeys(s for text in texts for s in prose(text))
            for text in islice(found, PER_OBJECT):
                yield Sentence(text, library, origin, part_of(origin))


def docstrings(source: str) -> dict[str, list[str]]:
    """The docstrings of a file, by the function or class at the top level that they belong to."""
    found, name = {}, None
    for match in DOCSTRING.finditer(source):
        if match["name"]:
            name = match["name"]
        elif match["text"] is not None:
            name = " ".join(re.findall(r"[\w.]+", match["added"])[:2])  # without the attribute
            found.setdefault(name, []).append(match["text"])
        elif name:
            found.setdefault(name, []).append(match["doc"])
    return found


def prose(docstring: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        lines = paragraph.splitlines()
        indented = len({len(line) - len(line.lstrip()) for line in lines}) > 1
        if indented or any(NO_PROSE.match(line) for line in lines):
            continue
        plain = re.sub(r"[`*|]|\[\d+\]_", "", ROLE.sub(r"\1", paragraph))
        for sentence in SENTENCE_END.split(" ".join(plain.split())):
            if is_prose(sentence):
                yield sentence


def is_prose(sentence: str) -> bool:
    letters = sum(c.isalpha() or c == " " for c in sentence)
    return bool(
        SHORTEST <= len(sentence) <= LONGEST
        and re.fullmatch(r"[A-Z][\w\s,;:.'()/\"-]*\.", sentence)
        and len(re.findall(r"[a-z]+", sentence)) >= 6
        and letters >= 0.9 * len(sentence)
    )


def without_near_copies(found: list[Sentence]) -> list[Sentence]:
    """Leave out every sentence of which more than half was said before, masked names alike.

    Libraries copy whole paragraphs from method to method and from one another. The sentences come
    back in the order of a hash of their origins, and in this order the first copy stays.
    """
    seen, kept = set(), []
    for sentence in sorted(found, key=lambda s: place(s.origin)):
        own = shingles(sentence.text)
        if len(own & seen) <= len(own) / 2:
            kept.append(sentence)
            seen |= own
    return kept


def pack(found: list[Sentence]) -> bytes:
    """The file: the same bytes for the same sentences."""
    lines = (f"{s.part}\t{s.library}\t{s.origin}\t{s.text}\n" for s in found)
    return gzip.compress("".join(lines).encode(), mtime=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    content = pack(make())
    out.write_bytes(content)
    names = [name.replace("sklearn", "scikit-learn") for name in LIBRARIES]
    print(", ".join(f"{name} {version(name)}" for name in names))
    print(f"{out}: {len(content):,} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
