"""Studies: recipes, stored runs, and their summary."""

from ..util.stats import interval
from .recipes import RECIPES, NamedRecipe, Recipe, expected, get_recipe, stored_recipe
from .runs import CONTROLS, build, load_for, machine, measure_run, run, study
from .store import append_run, cached_run, read_runs
from .summary import FASHION, Summary, best_rate, runs_by_row, runs_matching, summarise, table

__all__ = [
    "CONTROLS", "FASHION", "RECIPES", "NamedRecipe", "Recipe", "Summary",
    "append_run", "best_rate", "build", "cached_run", "expected",
    "get_recipe", "interval", "load_for", "machine", "measure_run", "read_runs",
    "run", "runs_by_row", "runs_matching", "stored_recipe", "study", "summarise", "table",
]  # fmt: skip
