"""For classes: random numbers and images that belong to one student.

Results then differ from student to student, while tests that ask for what every right answer shares
give the same marks to all.
"""

from __future__ import annotations

import hashlib

from ..data.sets import ImageSet, take_fraction
from ..util.checks import explained, short_repr


def seed(student_id: str) -> int:
    """A whole number in [0, 2³²) that belongs to this student: the same on every machine.

    The first four bytes of the SHA-256 of the id. Capitals and spaces at the ends don't count.

    Raises:
        TypeError: the id is not a string. ValueError: it is empty.
    """
    if not isinstance(student_id, str):
        raise TypeError(
            f"STUDENT_ID must be a string, not {short_repr(student_id)}; write it in quotes, like "
            '"ada17".'
        )
    name = student_id.strip().casefold()
    if not name:
        raise ValueError(
            'STUDENT_ID is empty; write your student id between the quotes, like "ada17".'
        )
    return int.from_bytes(hashlib.sha256(name.encode(errors="surrogatepass")).digest()[:4], "big")


@explained()
def subset(data: ImageSet, student_id: str, fraction: float) -> ImageSet:
    """This student's own share of a data set, the same fraction of every class.

    The images are those of ``data.take_fraction`` with the student's ``seed``; they stay
    standardised as they were.
    """
    return data.subset(take_fraction(data.y, fraction, seed(student_id), classes=data.classes))
