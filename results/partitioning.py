"""Channel groups in place of SFF's head: the block's own channels are dealt out to the classes.

    python results/partitioning.py        about three minutes on one core; goes on where it stopped

The four-layer CNN, every layer its own block, 10,000 images of the Fashion-MNIST sample, the same
loss, epochs and rates to choose from as "sff 4 blocks 1×1" in fashion_rules.py, with which it is
compared. Writes partitioning.jsonl; `make claims` shows the comparison.
"""

from dataclasses import replace
from pathlib import Path

import torch

from sff_teach.heads import ChannelGroups
from sff_teach.study import Recipe, best_rate, build, cached_run, load_for, measure_run

STORE = Path(__file__).with_suffix(".jsonl")
GRID = (0.002, 0.005, 0.0125, 0.03, 0.07)


def measured(recipe: Recipe, on: str) -> dict:
    """One run with channel groups for heads."""

    def make() -> dict:
        model = build(recipe, load_for(recipe).train)
        for block in model.blocks:
            block.head = ChannelGroups(block.head.channels, model.num_classes)
        return measure_run(recipe, on, model=model, progress=False)

    return cached_run(
        STORE, {"row": "groups", "on": on, "seed": recipe.seed, "lr": recipe.lr}, make
    )


def main() -> None:
    """Tune, then five seeds."""
    torch.set_num_threads(1)
    base = Recipe(epochs=4, channels_last=False)  # the sample, four layers, 1×1
    rate = best_rate([measured(replace(base, lr=lr, seed=100), "valid") for lr in GRID])
    for seed in range(5):
        run = measured(replace(base, lr=rate, seed=seed, validation=0), "test")
        print(f"seed {seed}, lr {rate:g}: {run['accuracy']:.1%}", flush=True)


if __name__ == "__main__":
    main()
