"""What brings one layer per block nearer to backprop, and what it costs: accuracy, memory, FLOPs.

    python results/closing_the_gap.py        about 75 minutes on one core; goes on where it stopped
    python results/closing_the_gap.py page   only writes the page, of the rows that are complete

With SFF_CIFAR10=FOLDER (see cifar_rules.py) CIFAR-10 is measured too, some 50 minutes more.

The four-layer CNN on the Fashion-MNIST sample as in fashion_rules.py, the five-layer CNN on 5,000
CIFAR-10 images as in cifar_rules.py. Those studies' runs of bp and of the plain heads are the
baselines here: same images, epochs, seeds. Rates of the rows below are chosen on validation images
from the three middle ones of the baselines' five (Fashion) or from the same three (CIFAR): never
more tuning for SFF. Prediction is by the mean of all blocks; for hidden heads on CIFAR the last
block's vote is shown as well, because validation images preferred it for the 1×1 ones. Costs are
counts of one step at batch 64; heads and recomputation are counted in full. Writes
closing_the_gap_tuning.jsonl, closing_the_gap.jsonl, closing_the_gap_frontier.jsonl and
closing_the_gap.md.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path

import torch

from sff_teach.analysis.cost import training_cost
from sff_teach.cut.localize import localize
from sff_teach.models import NETWORKS
from sff_teach.study import Recipe, Summary, best_rate, runs_matching, study, summarise, table

HERE = Path(__file__).parent
DEFAULTS = {"kernel_size": 1, "filters": 1, "hidden": 0, "vote": "mean"}
LAYERS = {"cut": "layer"}


@dataclass(frozen=True)
class Setting:
    """What one comparison shares: data, network, budget, and which rows are measured.

    Attributes:
        title: heads its table. images: for training. base: fields of every recipe.
        baselines, rows: name → fields of a recipe; the baselines' runs come from ``study``.
        grid: learning rates tried. tuning_seeds: with which seeds.
    """

    title: str
    images: int
    base: Mapping
    study: str
    baselines: Mapping[str, Mapping]
    rows: Mapping[str, Mapping]
    grid: tuple[float, ...]
    tuning_seeds: tuple[int, ...] = (100,)

    @property
    def all_rows(self) -> dict[str, Mapping]:
        """Baselines, then the measured rows."""
        return {**self.baselines, **self.rows}


FASHION_BASELINES = {
    "bp": {"rule": "bp"},
    "bp-goodness 3×3": {"rule": "bp-goodness", **LAYERS, "kernel_size": 3},
    "sff 4 blocks, 1×1": {"rule": "sff", **LAYERS},
    "sff 4 blocks, 3×3": {"rule": "sff", **LAYERS, "kernel_size": 3},
    "sff 2 blocks, 3×3": {"rule": "sff", "cut": 2, "kernel_size": 3},
}
FASHION_ROWS = {
    "sff 4 blocks, hidden 64, 3×3": {"rule": "sff", **LAYERS, "hidden": 64, "kernel_size": 3},
    "sff 4 blocks, hidden 64": {"rule": "sff", **LAYERS, "hidden": 64},
    "sff 4 blocks, hidden 32": {"rule": "sff", **LAYERS, "hidden": 32},
    "sff 2 blocks, hidden 32": {"rule": "sff", "cut": 2, "hidden": 32},
    "bp-goodness, hidden 64": {"rule": "bp-goodness", **LAYERS, "hidden": 64},
    "sff 4 blocks, hidden 64, learned vote": {
        "rule": "sff", **LAYERS, "hidden": 64, "vote": "learned",
    },
    "sff-overlap 4 blocks, 3×3": {"rule": "sff-overlap", **LAYERS, "kernel_size": 3},
    "deepsup 4 blocks, hidden 64": {"rule": "deepsup", **LAYERS, "hidden": 64},
    "sff-lookahead 4 blocks, 3×3": {"rule": "sff-lookahead", **LAYERS, "kernel_size": 3},
    "sff 4 blocks, 3×3, 4 filters": {"rule": "sff", **LAYERS, "kernel_size": 3, "filters": 4},
}  # fmt: skip
AT_200 = ("sff 2 blocks, hidden 32", "sff 4 blocks, hidden 64", "bp-goodness, hidden 64")
FASHION = Setting(
    title="10,000 images",
    images=10_000,
    base={"fraction": 1.0, "epochs": 4},
    study="fashion_rules",
    baselines=FASHION_BASELINES,
    rows=FASHION_ROWS,
    grid=(0.005, 0.0125, 0.03),
)
FASHION_200 = replace(
    FASHION,
    title="200 images",
    images=200,
    base={"fraction": 0.02, "epochs": 40},
    rows={name: FASHION_ROWS[name] for name in AT_200}
    | {
        "sff 2 blocks, hidden 64, 3×3": {
            "rule": "sff", "cut": 2, "hidden": 64, "kernel_size": 3,
        },
        "deepsup 2 blocks, hidden 32": {"rule": "deepsup", "cut": 2, "hidden": 32},
    },
    tuning_seeds=(100, 101),
)  # fmt: skip
CIFAR = Setting(
    title="5,000 images of CIFAR-10 (JPEG copy), five layers",
    images=5000,
    base={
        "data": "folder:cifar10-jpeg", "fraction": 0.1, "network": "cnn5", "epochs": 8,
        "augment": "flip-crop",
    },
    study="cifar_rules",
    baselines={
        "bp": {"rule": "bp"},
        "bp-goodness 3×3": {"rule": "bp-goodness", "cut": 1, "kernel_size": 3},
        "sff 5 blocks, 1×1": {"rule": "sff", "cut": 5},
        "sff 5 blocks, 3×3": {"rule": "sff", "cut": 5, "kernel_size": 3},
        "sff 2 blocks, 3×3": {"rule": "sff", "cut": 2, "kernel_size": 3},
    },
    rows={
        "sff 5 blocks, hidden 128": {"rule": "sff", "cut": 5, "hidden": 128},
        "sff 5 blocks, hidden 64": {"rule": "sff", "cut": 5, "hidden": 64},
        "sff 5 blocks, hidden 128, 3×3": {
            "rule": "sff", "cut": 5, "hidden": 128, "kernel_size": 3,
        },
        "sff 5 blocks, hidden 128, last block": {
            "rule": "sff", "cut": 5, "hidden": 128, "vote": "last",
        },
        "sff 5 blocks, hidden 128, 3×3, last block": {
            "rule": "sff", "cut": 5, "hidden": 128, "kernel_size": 3, "vote": "last",
        },
        "bp-goodness, hidden 128": {"rule": "bp-goodness", "cut": 1, "hidden": 128},
        "deepsup 5 blocks, hidden 128": {"rule": "deepsup", "cut": 5, "hidden": 128},
    },
    grid=(0.0015, 0.003, 0.006),
)  # fmt: skip
SETTINGS = (FASHION_200, FASHION, CIFAR)


def here(setting: Setting) -> Setting:
    """The setting with this machine's folder of CIFAR-10."""
    if setting is CIFAR and (folder := os.environ.get("SFF_CIFAR10")):
        return replace(setting, base={**setting.base, "data": f"folder:{folder}"})
    return setting


def measure(setting: Setting) -> None:
    """Per row: tune, then five seeds."""
    for label, row in setting.rows.items():
        if row.get("vote") == "last":  # the same runs as the row with the mean, read otherwise
            continue
        base = Recipe(**setting.base, **row, channels_last=False)
        tuning = study(
            [replace(base, lr=lr, seed=s) for lr in setting.grid for s in setting.tuning_seeds],
            HERE / "closing_the_gap_tuning.jsonl",
            on="valid",
            progress=False,
        )
        rate = best_rate(tuning)
        print(f"{setting.images:6,} {label:40s} lr {rate:g}", flush=True)
        recipes = [replace(base, lr=rate, validation=0, seed=seed) for seed in range(5)]
        study(recipes, HERE / "closing_the_gap.jsonl", progress=False)


def summaries(setting: Setting) -> list[Summary]:
    """One per row of which five runs are stored."""
    records = []
    for label, row in setting.all_rows.items():
        plain = {} if row["rule"] == "bp" else DEFAULTS
        where = setting.study if label in setting.baselines else "closing_the_gap"
        vote = row.get("vote", "mean")
        row = {**row, "vote": "mean"} if vote == "last" else row
        runs = runs_matching(HERE, where, {**setting.base, **plain, **row}).values()
        figure = "accuracy" if vote == "learned" else f"accuracy_{vote}"
        if len(runs) == 5:
            records += [{**run, "row": label, "accuracy_mean": run[figure]} for run in runs]
    return summarise(records, "accuracy_mean", itemgetter("row"))


def steps(setting: Setting) -> list[tuple[str, str, str]]:
    """What is counted: (name, row whose accuracy it has, rule that runs the step).

    Checkpointing and recomputing change a step's cost, not its result.
    """
    named = [(name, name, row["rule"]) for name, row in setting.all_rows.items()]
    named += [("bp, checkpointing", "bp", "bp-checkpoint"), ("bp, recompute", "bp", "bp-recompute")]
    return named + [
        (f"{name}, recompute", name, "sff-recompute")
        for name, row in setting.all_rows.items()
        if row["rule"] == "sff" and (row["cut"] in ("layer", 5))
    ]


def frontier(setting: Setting) -> list[dict]:
    """Accuracy against bp (where measured), FLOPs and peak saved bytes over bp's, per step."""
    network_name = setting.base.get("network", "cnn4")
    shape = (3, 32, 32) if network_name == "cnn5" else (1, 28, 28)
    batch = torch.randn(64, *shape), torch.randint(10, (64,))
    measured = {s.rule: s for s in summaries(setting)}
    points: list[dict] = []
    for name, row_name, rule in steps(setting):
        row = setting.all_rows[row_name]
        torch.manual_seed(0)
        options = {"cut": "layer", **{k: v for k, v in row.items() if k != "rule"}}
        network = NETWORKS[network_name](shape[0], shape[1:])
        counted = training_cost(localize(network, 10, input_shape=shape, **options), rule, batch)
        bp = points[0] if points else {"flops": counted.flops, "saved": counted.saved}
        s = measured.get(row_name)
        minus = (s.difference, s.difference_low, s.difference_high) if s else (None,) * 3
        if rule in ("bp-checkpoint", "bp-recompute"):
            minus = (0.0, 0.0, 0.0)  # the same update as bp's
        points.append(
            {
                "setting": setting.title,
                "row": name,
                "measured_as": row_name if s else None,
                "accuracy": round(s.mean, 4) if s else None,
                "minus_bp": [None if m is None else round(m, 4) for m in minus],
                "flops": counted.flops,
                "saved": counted.saved,
                "flops_ratio": round(counted.flops / bp["flops"], 4),
                "saved_ratio": round(counted.saved / bp["saved"], 4),
            }
        )
    return points


def write() -> None:
    """The page and the frontier, of the rows that are complete."""
    text = [
        "# Closing the gap: one layer per block",
        "",
        "Generated by `python results/closing_the_gap.py` from `closing_the_gap.jsonl` and, for "
        "the baselines, `fashion_rules.jsonl` and `cifar_rules.jsonl`; do not edit. Test accuracy "
        "of the last epoch, prediction by the mean of all blocks unless a row says otherwise, five "
        "seeds, 95 % Student's t intervals; differences paired by seed.",
    ]
    for setting in SETTINGS:
        text += ["", f"## {setting.title}", "", table(summaries(setting))]
    points = []
    for setting in (FASHION, CIFAR):
        new = frontier(setting)
        points += new
        size = "28×28" if setting is FASHION else "32×32, five layers"
        text += ["", f"## Cost of a step, over backprop's ({size})", ""]
        text += ["| row | FLOPs | peak saved bytes |", "|---|---|---|"]
        text += [f"| {p['row']} | {p['flops_ratio']:.2f} | {p['saved_ratio']:.2f} |" for p in new]
    (HERE / "closing_the_gap.md").write_text("\n".join(text) + "\n")
    lines = [json.dumps(point, ensure_ascii=False) for point in points]
    (HERE / "closing_the_gap_frontier.jsonl").write_text("\n".join(lines) + "\n")


def main() -> None:
    """Run what is missing, count, write the page."""
    torch.set_num_threads(1)
    if sys.argv[1:] != ["page"]:
        for setting in map(here, SETTINGS):
            if setting.study != "cifar_rules" or os.environ.get("SFF_CIFAR10"):
                measure(setting)
    write()


if __name__ == "__main__":
    main()
