"""From stored runs to tables: mean, interval, paired differences, and what they allow to say."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from statistics import mean

import numpy as np

from ..util.checks import explained
from ..util.stats import interval
from .recipes import Recipe
from .runs import read_runs

FASHION = {200: 0.02, 1000: 0.1, 10_000: 1.0}  # images → fraction


@dataclass(frozen=True)
class Summary:
    """A rule at one data size: mean of ``accuracy``, its 95 % interval, and against ``bp``.

    ``difference`` is rule minus bp, paired by seed, with its own 95 % interval; None without bp.
    """

    rule: str
    images: int
    n: int
    mean: float
    low: float
    high: float
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    parameters: int
    seconds: float

    @property
    def verdict(self) -> str:
        """In words, what the interval of the difference allows to say."""
        if self.difference is None or math.isnan(self.difference_low):
            return "–"  # nothing to compare with, or one seed
        if self.difference_low > 0:
            return "better than bp"
        if self.difference_high < 0:
            return "worse than bp"
        return "no difference shown"


@explained()
def summarise(
    records: Iterable[dict],
    figure: str = "accuracy",
    name: Callable[[dict], str] = itemgetter("rule"),
) -> list[Summary]:
    """Group records by data size and rule, in the order met.

    Args:
        records: of ``study``, each rule with the same seeds.
        figure: which number to average.
        name: what to call a record's group, where a rule comes in several variants; the baseline
            of the differences is the group called "bp".
    """
    groups: dict[tuple[int, str], dict[int, dict]] = {}
    for record in records:
        groups.setdefault((record["images"], name(record)), {})[record["seed"]] = record
    summaries = []
    for (images, rule), by_seed in groups.items():
        baseline = groups.get((images, "bp"), {})
        paired = [s for s in by_seed if s in baseline] if rule != "bp" else []
        differences = [by_seed[s][figure] - baseline[s][figure] for s in paired]
        summaries.append(
            Summary(
                rule,
                images,
                len(by_seed),
                *interval([r[figure] for r in by_seed.values()]),
                *(interval(differences) if differences else (None, None, None)),
                parameters=next(iter(by_seed.values()))["parameters"],
                seconds=float(np.median([r["seconds"] for r in by_seed.values()])),
            )
        )
    return summaries


@explained()
def table(summaries: Iterable[Summary]) -> str:
    """The summaries as a Markdown table, accuracies in percent."""
    columns = (
        "images", "rule", "n", "accuracy %", "95 % interval", "minus bp", "95 % interval",
        "parameters", "seconds", "verdict",
    )  # fmt: skip
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for s in summaries:
        minus = (
            f"{100 * s.difference:+.1f} "
            f"| {100 * s.difference_low:+.1f} … {100 * s.difference_high:+.1f}"
            if s.difference is not None
            else "– | –"
        )
        lines.append(
            f"| {s.images:,} | {s.rule} | {s.n} | {100 * s.mean:.1f} "
            f"| {100 * s.low:.1f} … {100 * s.high:.1f} | {minus} | {s.parameters:,} "
            f"| {s.seconds:.1f} | {s.verdict} |"
        )
    return "\n".join(lines)


@explained()
def row_name(rows: Mapping[str, Mapping]) -> Callable[[dict], str]:
    """For ``summarise``: the name of the first row whose settings a record's recipe has.

    Args:
        rows: name → what distinguishes the row, as fields of ``Recipe``.
    """

    @explained()
    def name(record: dict) -> str:
        recipe = Recipe(**record["recipe"])  # older records lack newer fields
        for n, row in rows.items():
            if all(getattr(recipe, k) == v for k, v in row.items()):
                return n
        raise ValueError(f"no row of rows has the settings of {recipe}; add one that has.")

    return name


@explained()
def tables_by_vote(records: Sequence[dict], rows: Mapping[str, Mapping]) -> list[str]:
    """Lines of Markdown: ``table`` for the vote of all blocks, then for the last block's."""
    lines = []
    for vote, who in (("mean", "mean of all blocks"), ("last", "last block")):
        summaries = summarise(records, f"accuracy_{vote}", row_name(rows))
        lines += ["", f"## Prediction by the {who}", "", table(summaries)]
    return lines


@dataclass(frozen=True)
class Effect:
    """One measured difference or ratio, under one condition.

    Attributes:
        condition: in words. n: seeds, or paired rounds; 1 for a count, which has no spread.
        mean, low, high: the value and its 95 % interval.
        unit: "points" or "×".
        decides: False for what is shown beside the claim, such as a control.
    """

    condition: str
    n: int
    mean: float
    low: float
    high: float
    unit: str = "points"
    decides: bool = True

    def __str__(self) -> str:
        if self.unit == "×":
            spread = "exact" if self.n == 1 else f"{self.low:.2f} … {self.high:.2f}"
            return f"{self.condition}: {self.mean:.2f} × ({spread})"
        return f"{self.condition}: {self.mean:+.1f} ({self.low:+.1f} … {self.high:+.1f})"


@explained()
def best_rate(tuning: Iterable[dict]) -> float:
    """The learning rate with the best mean validation accuracy."""
    by_rate: dict[float, list[float]] = {}
    for run in tuning:
        rate = run["recipe"]["lr"] if "recipe" in run else run["lr"]
        by_rate.setdefault(rate, []).append(run["accuracy"])
    return max(by_rate, key=lambda rate: mean(by_rate[rate]))


@explained()
def runs_matching(folder: Path, name: str, row: Mapping, **also) -> dict[int, dict]:
    """Seed → the run of a study with these recipe settings, at the rate that tuning chose.

    Args:
        folder: of the results. name: of the study. row, also: fields of ``Recipe``.
    """
    wanted = {**row, **also}

    def matching(path: str) -> list[dict]:
        found = []
        for run in read_runs(folder / path):
            recipe = Recipe(**run["recipe"])
            if all(getattr(recipe, key) == value for key, value in wanted.items()):
                found.append(run)
        return found

    runs = matching(f"{name}.jsonl")
    if len({run["recipe"]["lr"] for run in runs}) > 1:  # an earlier grid's runs are kept as well
        rate = best_rate(matching(f"{name}_tuning.jsonl"))
        runs = [run for run in runs if run["recipe"]["lr"] == rate]
    return {run["seed"]: run for run in runs}


@explained()
def runs_by_row(path: Path, **also) -> dict[str, dict[int, dict]]:
    """Row → seed → the test record of a study that names its rows."""
    rows: dict[str, dict[int, dict]] = {}
    for run in read_runs(path):
        if run["on"] == "test" and all(run[key] == value for key, value in also.items()):
            rows.setdefault(run["row"], {})[run["seed"]] = run
    return rows


@explained()
def difference(
    condition: str,
    runs: Mapping[int, dict],
    base: Mapping[int, dict],
    figure: str = "accuracy_mean",
    base_figure: str | None = None,
    decides: bool = True,
) -> list[Effect]:
    """``runs`` minus ``base`` in points, paired by seed; nothing with fewer than two pairs."""
    pairs = [100 * (runs[s][figure] - base[s][base_figure or figure]) for s in runs if s in base]
    if len(pairs) < 2:
        return []
    return [Effect(condition, len(pairs), *interval(pairs), decides=decides)]
