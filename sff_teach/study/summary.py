"""From stored runs to tables: mean, interval, paired differences, and a verdict."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from statistics import mean, median
from typing import Any

from ..util.stats import interval
from .recipes import Recipe, stored_recipe
from .store import read_runs

FASHION = {200: 0.02, 1000: 0.1, 10_000: 1.0}  # the sample's studies: images → fraction


@dataclass(frozen=True)
class Summary:
    """A rule at one data size, accuracies as fractions, intervals of 95 %."""

    rule: str
    images: int
    n: int  # runs
    mean: float
    low: float
    high: float
    difference: float | None  # rule minus bp, over the seeds that both have; None without bp
    difference_low: float | None
    difference_high: float | None
    parameters: int
    seconds: float  # median

    @property
    def verdict(self) -> str:
        """The conclusion from the interval of the difference, in words."""
        if self.difference is None or math.isnan(self.difference_low):
            return "–"  # nothing to compare with, or one seed
        if self.difference_low > 0:
            return "better than bp"
        if self.difference_high < 0:
            return "worse than bp"
        return "no difference shown"


def summarise(
    records: Iterable[dict],
    metric: str = "accuracy",
    name: Callable[[dict], str] = itemgetter("rule"),
) -> list[Summary]:
    """Group records by data size and rule, in their order.

    Args:
        records: of ``study``, each rule with the same seeds.
        metric: which number of a record to average.
        name: the name of a record's group; differences are to the group "bp".
    """
    groups: dict[tuple[int, str], dict[int, dict]] = {}
    for record in records:
        groups.setdefault((record["images"], name(record)), {})[record["seed"]] = record
    summaries = []
    for (images, rule), runs in groups.items():
        baseline = groups.get((images, "bp"), {}) if rule != "bp" else {}
        differences = [runs[s][metric] - baseline[s][metric] for s in runs if s in baseline]
        summaries.append(
            Summary(
                rule,
                images,
                len(runs),
                *interval([run[metric] for run in runs.values()]),
                *(interval(differences) if differences else (None, None, None)),
                parameters=next(iter(runs.values()))["parameters"],
                seconds=median(run["seconds"] for run in runs.values()),
            )
        )
    return summaries


def table(summaries: Iterable[Summary]) -> str:
    """The summaries as a Markdown table, accuracies in percent."""
    columns = (
        "images", "rule", "n", "accuracy %", "95 % interval", "minus bp", "95 % interval",
        "parameters", "seconds", "verdict",
    )  # fmt: skip
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for s in summaries:
        minus = ("–", "–")
        if s.difference is not None:
            low, high = 100 * s.difference_low, 100 * s.difference_high
            minus = (f"{100 * s.difference:+.1f}", f"{low:+.1f} … {high:+.1f}")
        cells = (
            f"{s.images:,}", s.rule, s.n, f"{100 * s.mean:.1f}",
            f"{100 * s.low:.1f} … {100 * s.high:.1f}", *minus,
            f"{s.parameters:,}", f"{s.seconds:.1f}", s.verdict,
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def has_settings(recipe: Recipe, settings: Mapping) -> bool:
    """Whether the recipe has these values.

    Args:
        recipe: of a run.
        settings: fields of ``Recipe`` and their values.
    """
    return all(getattr(recipe, key) == value for key, value in settings.items())


def best_rate(tuning: Iterable[dict]) -> float:
    """The learning rate with the best mean accuracy in runs on validation images."""
    by_rate: dict[float, list[float]] = {}
    for run in tuning:
        rate = run["recipe"]["lr"] if "recipe" in run else run["lr"]
        by_rate.setdefault(rate, []).append(run["accuracy"])
    return max(by_rate, key=lambda rate: mean(by_rate[rate]))


def runs_matching(folder: Path, name: str, row: Mapping, **filters: Any) -> dict[int, dict]:
    """Seed → the run of a study with these recipe settings, at the tuned learning rate.

    Args:
        folder: of the results.
        name: of the study.
        row: fields of ``Recipe`` and their values.
        filters: more of them.
    """
    wanted = {**row, **filters}

    def matching(path: Path) -> list[dict]:
        return [run for run in read_runs(path) if has_settings(stored_recipe(run), wanted)]

    runs = matching(folder / f"{name}.jsonl")
    if len({run["recipe"]["lr"] for run in runs}) > 1:  # an earlier grid of rates is stored too
        rate = best_rate(matching(folder / f"{name}_tuning.jsonl"))
        runs = [run for run in runs if run["recipe"]["lr"] == rate]
    return {run["seed"]: run for run in runs}


def runs_by_row(path: Path, **filters: Any) -> dict[str, dict[int, dict]]:
    """Row → seed → the test record, for a study that names its rows.

    Args:
        path: its JSON-lines file.
        filters: fields of the records and their values.
    """
    rows: dict[str, dict[int, dict]] = {}
    for run in read_runs(path):
        if run["on"] == "test" and all(run[key] == value for key, value in filters.items()):
            rows.setdefault(run["row"], {})[run["seed"]] = run
    return rows
