"""For exercises and assignments: comparisons, and numbers that belong to one student."""

from .exercises import (
    check_equal,
)
from .student import (
    seed,
    subset,
)

__all__ = [
    "check_equal",
    "seed",
    "subset",
]
