"""For exercises and assignments: checks, and a seed and a data subset per student."""

from .exercises import Prediction, check_equal, checked, predict
from .student import seed, subset

__all__ = ["Prediction", "check_equal", "checked", "predict", "seed", "subset"]
