"""sff_teach: the Scalable Forward-Forward algorithm, small enough to read."""

__version__ = "0.1.0"

from .core import SFF, GoodnessHead, LinearHead, LocalBlock, hand_over
from .data import DataSet, ImageSet, Splits, from_arrays, load
from .forward_forward import FFNetwork
from .models import cnn, cnn1d, mlp
from .split import localize
from .train import Evaluation, History, evaluate, fit

__all__ = [
    "SFF",
    "DataSet",
    "Evaluation",
    "FFNetwork",
    "GoodnessHead",
    "History",
    "ImageSet",
    "LinearHead",
    "LocalBlock",
    "Splits",
    "cnn",
    "cnn1d",
    "evaluate",
    "fit",
    "from_arrays",
    "hand_over",
    "load",
    "localize",
    "mlp",
]
