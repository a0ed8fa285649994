"""What brings one layer per block nearer to backprop, and what it costs: accuracy, memory, FLOPs.

    python results/closing_the_gap.py        about 45 minutes on one core; goes on where it stopped
    python results/closing_the_gap.py page   only writes the page, of the rows that are complete

The four-layer CNN on the Fashion-MNIST sample as in fashion_rules.py, whose runs of bp and of the
plain heads are the baselines here: same images, epochs, seeds. Rates of the rows below are chosen
from the three middle ones of the baselines' five, on validation images: less tuning for SFF, not
more. Costs are counts of one step at batch 64; heads and recomputation are counted in full.
Writes closing_the_gap_tuning.jsonl, closing_the_gap.jsonl, closing_the_gap_costs.jsonl and
closing_the_gap.md.
"""

import json
import sys
from dataclasses import replace
from operator import itemgetter
from pathlib import Path

import torch

from sff_teach.claims import best_rate, pick
from sff_teach.measure import cost
from sff_teach.models import NETWORKS
from sff_teach.recipes import Recipe
from sff_teach.split import localize
from sff_teach.study import study, summarise, table

HERE = Path(__file__).parent
GRID = (0.005, 0.0125, 0.03)
EPOCHS = {200: 40, 10_000: 4}
LAYERS = {"cut": "layer"}
WIDE = {"hidden": 64, "kernel_size": 3}
ROWS = {
    "sff 4 blocks, hidden 64, 3×3": {"rule": "sff", **LAYERS, **WIDE},
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
DEFAULTS = {"kernel_size": 1, "filters": 1, "hidden": 0, "vote": "mean"}
BASELINES = {
    "bp": {"rule": "bp"},
    "bp-goodness 3×3": {"rule": "bp-goodness", **LAYERS, "kernel_size": 3},
    "sff 4 blocks, 1×1": {"rule": "sff", **LAYERS},
    "sff 4 blocks, 3×3": {"rule": "sff", **LAYERS, "kernel_size": 3},
    "sff 2 blocks, 3×3": {"rule": "sff", "cut": 2, "kernel_size": 3},
}
STEPS = {  # rows whose cost is also counted with another way to run the step
    "bp, checkpointing": ("bp-checkpoint", BASELINES["bp"]),
    "sff 4 blocks, hidden 64, 3×3, recompute": (
        "sff-recompute", ROWS["sff 4 blocks, hidden 64, 3×3"]
    ),
    "sff 4 blocks, hidden 64, recompute": ("sff-recompute", ROWS["sff 4 blocks, hidden 64"]),
    "sff 4 blocks, hidden 32, recompute": ("sff-recompute", ROWS["sff 4 blocks, hidden 32"]),
    "sff 4 blocks, 1×1, recompute": ("sff-recompute", BASELINES["sff 4 blocks, 1×1"]),
}  # fmt: skip


def runs_of(label: str, row: dict, images: int) -> list[dict]:
    """Tune, then five seeds."""
    base = Recipe(fraction=images / 10_000, epochs=EPOCHS[images], **row)
    seeds = (100,) if images == 10_000 else (100, 101)
    tuning = study(
        [replace(base, lr=lr, seed=seed) for lr in GRID for seed in seeds],
        HERE / "closing_the_gap_tuning.jsonl",
        on="valid",
        progress=False,
    )
    rate = best_rate(tuning)
    print(f"{images:6,} {label:40s} lr {rate:g}", flush=True)
    recipes = [replace(base, lr=rate, validation=0, seed=seed) for seed in range(5)]
    return study(recipes, HERE / "closing_the_gap.jsonl", progress=False)


def count_costs() -> dict[str, dict]:
    """FLOPs and peak saved bytes of a step, over bp's."""
    steps = {name: (row["rule"], row) for name, row in (BASELINES | ROWS).items()} | STEPS
    batch = torch.randn(64, 1, 28, 28), torch.randint(10, (64,))
    costs = {}
    for name, (rule, row) in steps.items():
        torch.manual_seed(0)
        options = {"cut": "layer", **{k: v for k, v in row.items() if k != "rule"}}
        network = NETWORKS["cnn4"](1, (28, 28))
        counted = cost(localize(network, 10, input_shape=(1, 28, 28), **options), rule, batch)
        costs[name] = {"flops": counted.flops, "saved": counted.saved}
    for one in costs.values():
        one["flops_ratio"] = round(one["flops"] / costs["bp"]["flops"], 4)
        one["saved_ratio"] = round(one["saved"] / costs["bp"]["saved"], 4)
    lines = [json.dumps({"row": name, **one}) for name, one in costs.items()]
    (HERE / "closing_the_gap_costs.jsonl").write_text("\n".join(lines) + "\n")
    return costs


def stored(row: dict, images: int) -> list[dict]:
    """The five runs of a row, or nothing if it is not complete."""
    wanted = {**DEFAULTS, **row}
    runs = pick(HERE, "closing_the_gap", wanted, fraction=images / 10_000)
    return list(runs.values()) if len(runs) == 5 else []


def main(run: bool = True) -> None:
    """Run, count, write the page."""
    torch.set_num_threads(1)
    costs = count_costs()
    text = [
        "# Closing the gap: one layer per block",
        "",
        "Generated by `python results/closing_the_gap.py` from `closing_the_gap.jsonl` and, for "
        "the baselines, `fashion_rules.jsonl`; do not edit. Test accuracy of the last epoch, "
        "prediction by the mean of all blocks (or the learned vote), five seeds, 95 % Student's t "
        "intervals; differences paired by seed.",
    ]
    for images in EPOCHS:
        records = []
        rows = {name: {**DEFAULTS, **row} for name, row in BASELINES.items()}
        for name, row in rows.items():
            wanted = row if row["rule"] != "bp" else {"rule": "bp"}
            for one in pick(HERE, "fashion_rules", wanted, fraction=images / 10_000).values():
                records.append({**one, "row": name})
        for label, row in ROWS.items():
            if images == 10_000 or label in AT_200:
                for one in runs_of(label, row, images) if run else stored(row, images):
                    figure = "accuracy" if row.get("vote") == "learned" else "accuracy_mean"
                    records.append({**one, "row": label, "accuracy_mean": one[figure]})
        summaries = summarise(records, "accuracy_mean", itemgetter("row"))
        text += ["", f"## {images:,} images", "", table(summaries)]
    text += ["", "## Cost of a step, over backprop's", "", "| row | FLOPs | peak saved bytes |"]
    text += ["|---|---|---|"]
    text += [f"| {n} | {c['flops_ratio']:.2f} | {c['saved_ratio']:.2f} |" for n, c in costs.items()]
    (HERE / "closing_the_gap.md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main(run=sys.argv[1:] != ["page"])
