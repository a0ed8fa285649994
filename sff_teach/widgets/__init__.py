"""Explorers for the notebooks: each a function that computes, one that draws, a thin widget.

``layers_explorer``: layers, blocks and heads of an SFF CNN. ``fraction_explorer``: how many images.
``goodness_explorer``: a threshold. ``cost_explorer``: FLOPs and bytes of a step. ``inspector``: one
image, block by block. With no front end what remains is the figure shown first.
"""

from .cost import CostExplorer, CostResult, cost_explorer, draw_cost, run_cost
from .fraction import (
    FractionExplorer,
    FractionResult,
    draw_fraction,
    fraction_explorer,
    run_fraction,
    stored_curves,
)
from .goodness import (
    GoodnessExplorer,
    draw_goodness_grid,
    draw_goodness_split,
    goodness_explorer,
    goodness_split,
)
from .inspector import (
    Inspector,
    InspectorResult,
    draw_inspector,
    inspector,
    read_upload,
    run_inspector,
)
from .layers import (
    LayersExplorer,
    LayersResult,
    describe_layers,
    draw_layers,
    draw_layers_network,
    layers_explorer,
    plan_layers,
    run_layers,
    starting_results,
)

__all__ = [
    "CostExplorer",
    "CostResult",
    "FractionExplorer",
    "FractionResult",
    "GoodnessExplorer",
    "Inspector",
    "InspectorResult",
    "LayersExplorer",
    "LayersResult",
    "cost_explorer",
    "describe_layers",
    "draw_cost",
    "draw_fraction",
    "draw_goodness_grid",
    "draw_goodness_split",
    "draw_inspector",
    "draw_layers",
    "draw_layers_network",
    "fraction_explorer",
    "goodness_explorer",
    "goodness_split",
    "inspector",
    "layers_explorer",
    "plan_layers",
    "read_upload",
    "run_cost",
    "run_fraction",
    "run_inspector",
    "run_layers",
    "starting_results",
    "stored_curves",
]
