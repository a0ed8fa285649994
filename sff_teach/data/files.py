"""Where data sets are stored: the embedded files, and the folder for downloads."""

import hashlib
import os
from pathlib import Path

import platformdirs

from ..util.checks import SFFError

PACKAGE = Path(__file__).resolve().parents[1]


def data_home() -> Path:
    """The folder for downloads: SFF_TEACH_DATA, or `sff-teach` in the user's cache folder."""
    chosen = os.environ.get("SFF_TEACH_DATA")
    if chosen:
        return Path(chosen).expanduser()
    return platformdirs.user_cache_path("sff-teach", appauthor=False)


def embedded_path(name: str) -> Path | None:
    """The file in data/ of a checkout, in the installed package, or in data_home()."""
    folders = (PACKAGE.parent / "data", PACKAGE / "_data", data_home())
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def read_embedded(name: str, sha256: str) -> bytes:
    """The content of an embedded file.

    Args:
        name: of the file in data/.
        sha256: of its content.
    """
    path = embedded_path(name)
    remedy = f"restore it with `git checkout -- data/{name}`, or copy it into {data_home()}"
    if path is None:
        raise FileNotFoundError(f"{name} is missing; {remedy}.")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise SFFError(f"{path} is damaged: its SHA-256 is not the recorded one; {remedy}.")
    return content
