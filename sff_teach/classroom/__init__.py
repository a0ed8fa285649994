"""For exercises and assignments: comparisons, and numbers that belong to one student."""

from .exercises import Prediction, check_equal, checked, predict
from .student import seed, subset

__all__ = ["Prediction", "check_equal", "checked", "predict", "seed", "subset"]
