"""sff_teach: the Scalable Forward-Forward algorithm, small enough to read."""

import importlib
import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if hasattr(__spec__.loader, "archive"):  # imported from the kit's zip file: unpack it first
    from zipfile import ZipFile

    _kit = __spec__.loader.archive
    _folder = os.path.join(os.path.dirname(os.path.abspath(_kit)), "sff-teach")
    ZipFile(_kit).extractall(_folder)
    sys.path[sys.path.index(_kit)] = _folder
    __path__[:] = [os.path.join(_folder, "sff_teach")]
    __file__ = os.path.join(_folder, "sff_teach", "__init__.py")

from .util import __version__

if TYPE_CHECKING:
    from .core import SFF, GoodnessHead, LinearHead, LocalBlock, hand_over
    from .cut.localize import localize
    from .data import ImageSet, LabelledTensors, Splits, from_arrays, load
    from .forward_forward import FFNetwork
    from .models import cnn, cnn1d, mlp
    from .rules import StepResult, block_optimizers, sff_backward, sff_step
    from .training.config import TrainConfig
    from .training.evaluation import Evaluation, evaluate
    from .training.fit import fit
    from .training.history import History

__all__ = [
    "SFF", "Evaluation", "FFNetwork", "GoodnessHead", "History", "ImageSet", "LabelledTensors",
    "LinearHead", "LocalBlock", "Splits", "StepResult", "TrainConfig", "__version__",
    "block_optimizers", "cnn", "cnn1d", "evaluate", "fit", "from_arrays", "hand_over", "load",
    "localize", "mlp", "sff_backward", "sff_step",
]  # fmt: skip

_MODULES = (  # that define these names
    "core", "cut.localize", "data", "forward_forward", "models", "rules", "training.config",
    "training.evaluation", "training.fit", "training.history",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``sff-teach --help`` loads no torch."""
    if name in __all__:
        for module_name in _MODULES:
            module = importlib.import_module(f"{__name__}.{module_name}")
            if name in vars(module):
                globals()[name] = getattr(module, name)
                return globals()[name]
    if not name.startswith("_") and find_spec(f"{__name__}.{name}"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
