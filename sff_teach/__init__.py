"""sff_teach: the Scalable Forward-Forward algorithm, small enough to read."""

from .core import SFF, GoodnessHead, LinearHead, LocalBlock, hand_over
from .cut.localize import localize
from .data.sets import ImageSet, LabelledTensors, Splits, from_arrays, load
from .forward_forward import FFNetwork
from .models import cnn, cnn1d, mlp
from .training.config import TrainConfig
from .training.fit import Evaluation, evaluate, fit
from .training.history import History
from .util import __version__

__all__ = [
    "SFF",
    "Evaluation",
    "FFNetwork",
    "GoodnessHead",
    "History",
    "ImageSet",
    "LabelledTensors",
    "LinearHead",
    "LocalBlock",
    "Splits",
    "TrainConfig",
    "__version__",
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
