"""Explorers for the notebooks: interactive controls with a figure, static without a kernel."""

from .cost import cost_explorer, run_cost
from .fraction import fraction_explorer, run_fraction
from .goodness import goodness_explorer, goodness_split
from .inspector import inspector
from .layers import layers_explorer, run_layers, starting_results
from .reach import reach_explorer, run_reach
from .schedule import run_schedule, schedule_explorer

__all__ = [
    "cost_explorer", "fraction_explorer", "goodness_explorer", "goodness_split", "inspector",
    "layers_explorer", "reach_explorer", "run_cost", "run_fraction", "run_layers", "run_reach",
    "run_schedule", "schedule_explorer", "starting_results",
]  # fmt: skip
