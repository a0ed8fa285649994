"""From any model to ordered blocks, and the table that describes them."""

from .graph import cut_points, trace
from .localize import split_stages
from .table import BlockTable, describe

__all__ = ["BlockTable", "cut_points", "describe", "split_stages", "trace"]
