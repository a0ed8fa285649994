"""Studies: recipes, stored runs, and their summary."""

from ..util.stats import interval
from .recipes import (
    RECIPES,
    Recipe,
    expected,
    get_recipe,
)
from .runs import (
    CONTROLS,
    append_run,
    build,
    cached_run,
    compare,
    load_for,
    measure_run,
    read_runs,
    run,
    study,
)
from .summary import (
    FASHION,
    Effect,
    Summary,
    best_rate,
    difference,
    row_name,
    runs_by_row,
    runs_matching,
    summarise,
    table,
    tables_by_vote,
)

__all__ = [
    "CONTROLS",
    "FASHION",
    "RECIPES",
    "Effect",
    "Recipe",
    "Summary",
    "append_run",
    "best_rate",
    "build",
    "cached_run",
    "compare",
    "difference",
    "expected",
    "get_recipe",
    "interval",
    "load_for",
    "measure_run",
    "read_runs",
    "row_name",
    "run",
    "runs_by_row",
    "runs_matching",
    "study",
    "summarise",
    "table",
    "tables_by_vote",
]
