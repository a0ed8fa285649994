"""Explorers for the notebooks: controls whose settings are computed and drawn.

``layers_explorer``: layers, blocks and heads of an SFF CNN. ``fraction_explorer``: how many images.
``goodness_explorer``: a threshold. ``cost_explorer``: FLOPs and bytes of a step. ``inspector``: one
image, block by block. ``reach_explorer``: which loss moves which layer. ``schedule_explorer``: who
works when in a pipeline. Without a front end a figure remains.
"""

from .cost import cost_explorer, draw_cost, run_cost
from .fraction import draw_fraction, fraction_explorer, run_fraction, stored_curves
from .goodness import (
    draw_goodness_grid,
    draw_goodness_split,
    goodness_explorer,
    goodness_split,
)
from .inspector import draw_inspector, inspector, run_inspector
from .layers import draw_layers, layers_explorer, run_layers, starting_results
from .reach import reach_explorer, run_reach
from .schedule import run_schedule, schedule_explorer

__all__ = [
    "cost_explorer",
    "draw_cost",
    "draw_fraction",
    "draw_goodness_grid",
    "draw_goodness_split",
    "draw_inspector",
    "draw_layers",
    "fraction_explorer",
    "goodness_explorer",
    "goodness_split",
    "inspector",
    "layers_explorer",
    "reach_explorer",
    "run_cost",
    "run_fraction",
    "run_inspector",
    "run_layers",
    "run_reach",
    "run_schedule",
    "schedule_explorer",
    "starting_results",
    "stored_curves",
]
