"""Data sets: embedded, downloaded, or a folder of images."""

from .files import data_home
from .sampling import take_fraction
from .sets import catalog, load
from .tensors import (
    AUGMENTATIONS,
    ImageSet,
    LabelledTensors,
    Splits,
    augment_flip_crop,
    batches,
    from_arrays,
)

__all__ = [
    "AUGMENTATIONS", "ImageSet", "LabelledTensors", "Splits", "augment_flip_crop", "batches",
    "catalog", "data_home", "from_arrays", "load", "take_fraction",
]  # fmt: skip
