"""Explorers for the notebooks: each a function that computes, one that draws, a thin widget.

``layers_explorer``: layers, blocks and heads of an SFF CNN. ``fraction_explorer``: how many images.
``goodness_explorer``: a threshold. With no front end what remains is the figure shown first.
"""

from ._fraction import (
    FractionExplorer,
    FractionResult,
    draw_fraction,
    fraction_explorer,
    run_fraction,
    stored_curves,
)
from ._goodness import GoodnessExplorer, draw_goodness_split, goodness_explorer, goodness_split
from ._layers import (
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
    "FractionExplorer",
    "FractionResult",
    "GoodnessExplorer",
    "LayersExplorer",
    "LayersResult",
    "describe_layers",
    "draw_fraction",
    "draw_goodness_split",
    "draw_layers",
    "draw_layers_network",
    "fraction_explorer",
    "goodness_explorer",
    "goodness_split",
    "layers_explorer",
    "plan_layers",
    "run_fraction",
    "run_layers",
    "starting_results",
    "stored_curves",
]
