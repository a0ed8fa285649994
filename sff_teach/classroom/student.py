"""Random numbers and images that belong to one student."""

import hashlib

from ..data import ImageSet, take_fraction
from ..util.checks import SFFError, short_repr


def seed(student_id: str) -> int:
    """A whole number in [0, 2³²) that belongs to this student: the same on every machine.

    Args:
        student_id: Capitals, and spaces at the ends, do not count.
    """
    if not isinstance(student_id, str):
        raise TypeError(f"STUDENT_ID must be a string, not {short_repr(student_id)}.")
    name = student_id.strip().casefold()
    if not name:
        raise SFFError("STUDENT_ID is empty; write your student id between the quotes")
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


def subset(data: ImageSet, student_id: str, fraction: float) -> ImageSet:
    """This student's own share of a data set, the same fraction of every class.

    Args:
        data: One part of a data set.
        student_id: Whose share it is.
        fraction: In (0, 1].
    """
    return data.subset(take_fraction(data.y, fraction, seed(student_id), classes=data.classes))
