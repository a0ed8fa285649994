"""Fine-tuning by backprop and pre-training on another set, five seeds.

    python results/transfer.py        some 15 minutes on one core; goes on where it stopped

The four-layer CNN; SFF in two blocks with 3×3 heads. Two tasks:

fine-tuning    1,000 images of the Fashion-MNIST sample, 14 epochs in all: by one rule throughout,
               or seven epochs by one and seven by another, each with its own one-cycle schedule.
               "then bp" joins the bodies to an ordinary network: heads and the normalisation
               between blocks go. "then deepsup" is backprop through the network as it was.
pre-training   2,000 Fashion images, six epochs, by SFF or by bp; then 100 of scikit-learn's digits,
               enlarged to 28×28, 20 epochs. "frozen": only new heads learn (BatchNorm's statistics
               follow the new images all the same). What is forgotten: accuracy on Fashion of a
               linear probe of the last layer, before and after.

The rate of a row's last phase is chosen on validation images from GRID with one seed; first phases
use the rate that fashion_rules.py chose at 1,000 images. Writes transfer.jsonl and transfer.md.
"""

import copy
from functools import lru_cache
from pathlib import Path

import torch
from torch.nn import functional as F

from sff_teach.analysis.probes import block_features, linear_probe, pooled
from sff_teach.data import ImageSet, Splits, load
from sff_teach.study import (
    Recipe,
    best_rate,
    build,
    cached_run,
    interval,
    machine,
    read_runs,
    runs_by_row,
    stored_recipe,
)
from sff_teach.training.evaluation import evaluate
from sff_teach.training.fit import fit

HERE = Path(__file__).parent
STORE = HERE / "transfer.jsonl"
GRID = (0.002, 0.005, 0.0125, 0.03)
BP = {"rule": "bp"}
SFF = {"rule": "sff", "cut": 2, "kernel_size": 3, "hidden": 0}
ROWS = {  # task → row → (first rule or None, last rule)
    "fine-tuning": {
        "bp": (None, "bp"),
        "sff": (None, "sff"),
        "sff, then bp": ("sff", "bp"),
        "bp, then bp": ("bp", "bp"),
        "bp, new head, then bp": ("bp", "bp"),
        "sff, then sff": ("sff", "sff"),
        "deepsup": (None, "deepsup"),
        "sff, then deepsup": ("sff", "deepsup"),
    },
    "pre-training": {
        "bp": (None, "bp"),
        "sff": (None, "sff"),
        "sff, then sff": ("sff", "sff"),
        "sff, then bp": ("sff", "bp"),
        "bp, then bp": ("bp", "bp"),
        "sff, then frozen": ("sff", "frozen"),
        "bp, then frozen": ("bp", "frozen"),
    },
}
EPOCHS = {"fine-tuning": (7, 14), "pre-training": (6, 20)}  # of the first phase; of the rest


def first_rate(rule: str) -> float:
    """What fashion_rules.py chose at 1,000 images."""
    row = BP if rule == "bp" else SFF
    found = []
    for record in read_runs(HERE / "fashion_rules_tuning.jsonl"):
        recipe = stored_recipe(record)
        if recipe.fraction == 0.1 and all(getattr(recipe, k) == v for k, v in row.items()):
            found.append(record)
    return best_rate(found)


@lru_cache(maxsize=4)
def data(name: str, seed: int, valid: bool) -> Splits:
    """The images of a task or phase; digits enlarged to 28×28."""
    fraction = {"fashion 1,000": 0.1, "fashion 2,000": 0.2, "digits": 0.07}[name]
    source = "digits" if name == "digits" else "fashion-mnist-sample"
    splits = load(source, fraction, seed, validation=0.2 if valid else 0)
    if source != "digits":
        return splits

    def enlarge(part: ImageSet) -> ImageSet:
        x = F.interpolate(part.x, size=28, mode="bilinear") if len(part) else part.x
        return ImageSet(x, part.y, part.classes, part.name, part.mean, part.std)

    return Splits(*map(enlarge, splits))


def fresh(seed: int):
    """An untrained network, cut in two."""
    return build(Recipe(**SFF, seed=seed), load("fashion-mnist-sample", 0.02).train)


def train(model, part: ImageSet, rule: str, epochs: int, lr: float, seed: int):
    """Train by a rule on what is there: ``frozen`` trains new heads on the bodies as they are."""
    if rule == "frozen":
        for block in model.blocks:
            block.body.requires_grad_(False)
        rule = "sff"
    return fit(model, part, rule=rule, epochs=epochs, lr=lr, seed=seed, progress=False)


def known_of_fashion(model) -> float:
    """Accuracy of a linear probe of the last layer: what the features still say about Fashion."""
    parts = load("fashion-mnist-sample", 0.1)  # train, valid, test
    last = [(pooled(block_features(model, part.x)[-1]), part.y) for part in parts]
    return linear_probe(*last).accuracy


def renewed(model, seed: int):
    """The same bodies in two blocks with new heads, whichever rule trained them."""
    new = fresh(seed + 1000)
    new.original.load_state_dict(model.original.state_dict())
    return new


@lru_cache(maxsize=2)
def _first(task: str, rule: str, seed: int, valid: bool):
    part = data("fashion 1,000" if task == "fine-tuning" else "fashion 2,000", seed, valid).train
    model = fresh(seed)
    history = train(model, part, rule, EPOCHS[task][0], first_rate(rule), seed)
    return model, history.rows


def measured(task: str, row: str, seed: int, lr: float, on: str) -> dict:
    """One run of one row."""

    def make() -> dict:
        valid = on == "valid"
        first, last = ROWS[task][row]
        target = data("fashion 1,000" if task == "fine-tuning" else "digits", seed, valid)
        probed = task == "pre-training" and first is not None and on == "test"
        before, rows = None, []
        if first is None:
            model = fresh(seed)
        else:
            model, rows = _first(task, first, seed, valid)
            model = copy.deepcopy(model)
            before = known_of_fashion(model) if probed else None
            if "new head" in row or last not in (first, "deepsup"):  # others keep their heads
                model = renewed(model, seed)
        epochs = EPOCHS[task][1]
        if task == "fine-tuning" and first is not None:
            epochs -= EPOCHS[task][0]
        history = train(model, target.train, last, epochs, lr, seed)
        after = known_of_fashion(model) if probed else None
        return {
            "accuracy": evaluate(model, getattr(target, on)).accuracy,
            "source_before": before,
            "source_after": after,
            "images": len(target.train),
            "epochs": rows + history.rows,
            "machine": machine(),
        }

    return cached_run(STORE, {"task": task, "row": row, "on": on, "seed": seed, "lr": lr}, make)


def page() -> str:
    """transfer.md."""
    text = [
        "# Fine-tuning and pre-training",
        "",
        "Generated by `python results/transfer.py` from `transfer.jsonl`; do not edit. Test "
        "accuracy of the last epoch, five seeds, mean and 95 % Student's t interval; differences "
        "to backprop from scratch and to SFF from scratch, paired by seed.",
    ]
    for task in ROWS:
        rows = runs_by_row(STORE, task=task)
        text += [
            "",
            f"## {task}",
            "",
            "| row | accuracy % | minus bp | minus sff |",
            "|---" * 4 + "|",
        ]
        for label, runs in rows.items():
            m, low, high = interval([100 * r["accuracy"] for r in runs.values()])
            cells = [f"{m:.1f} ({low:.1f} … {high:.1f})"]
            for base in ("bp", "sff"):
                pairs = [100 * (r["accuracy"] - rows[base][s]["accuracy"]) for s, r in runs.items()]
                m, low, high = interval(pairs)
                cells.append("–" if base == label else f"{m:+.1f} ({low:+.1f} … {high:+.1f})")
            text.append(f"| {label} | " + " | ".join(cells) + " |")
        kept = {label: runs for label, runs in rows.items() if "frozen" not in label}
        if task == "pre-training":
            text += [
                "",
                "### What the last layer still knows of Fashion (linear probe)",
                "",
                "| row | before % | after % |",
            ]
            text += ["|---|---|---|"]
            for label, runs in kept.items():
                if all(r["source_after"] is not None for r in runs.values()):
                    before = interval([100 * r["source_before"] for r in runs.values()])[0]
                    after = interval([100 * r["source_after"] for r in runs.values()])[0]
                    text.append(f"| {label} | {before:.1f} | {after:.1f} |")
    return "\n".join(text) + "\n"


def main() -> None:
    """Tune the last phase, then five seeds."""
    torch.set_num_threads(1)
    for task, rows in ROWS.items():
        for row in rows:
            lr = best_rate([measured(task, row, 100, lr, "valid") for lr in GRID])
            runs = [measured(task, row, seed, lr, "test") for seed in range(5)]
            mean = interval([r["accuracy"] for r in runs])[0]
            print(f"{task} {row:20s} lr {lr:g}: {mean:.1%}", flush=True)
    (HERE / "transfer.md").write_text(page())


if __name__ == "__main__":
    main()
