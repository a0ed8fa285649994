"""Data sets: embedded, downloaded, or a folder of images."""

from .sets import (
    ImageSet,
    LabelledTensors,
    Splits,
    batches,
    catalog,
    data_home,
    from_arrays,
    load,
    take_fraction,
)

__all__ = [
    "ImageSet",
    "LabelledTensors",
    "Splits",
    "batches",
    "catalog",
    "data_home",
    "from_arrays",
    "load",
    "take_fraction",
]
