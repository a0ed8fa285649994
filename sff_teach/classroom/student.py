"""A seed and a data subset for each student."""

import hashlib

from ..data import ImageSet, take_fraction
from ..util.checks import SFFError, short_repr


def seed(student_id: str) -> int:
    """A student's seed in [0, 2³²), the same on every machine.

    Args:
        student_id: without regard to case and surrounding spaces.
    """
    if not isinstance(student_id, str):
        raise TypeError(f"STUDENT_ID must be a string, not {short_repr(student_id)}.")
    name = student_id.strip().casefold()
    if not name:
        raise SFFError("STUDENT_ID is empty; write your student id between the quotes")
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


def subset(data: ImageSet, student_id: str, fraction: float) -> ImageSet:
    """A student's subset of a data set, the same fraction of every class.

    Args:
        data: one part of a data set.
        student_id: of the student.
        fraction: in (0, 1].
    """
    return data.subset(take_fraction(data.y, fraction, seed(student_id), classes=data.classes))
