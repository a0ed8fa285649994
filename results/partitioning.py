"""Channel groups in place of SFF's head: the block's own channels are dealt out to the classes.

    python results/partitioning.py        about three minutes on one core; goes on where it stopped

The four-layer CNN, every layer its own block, 10,000 images of the Fashion-MNIST sample, the same
loss, epochs and rates to choose from as "sff 4 blocks 1×1" in fashion_rules.py, with which it is
compared. Writes partitioning.jsonl; `make claims` shows the comparison.
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from sff_teach.study import Recipe, best_rate, build, cached_run, load_for, measure_run

STORE = Path(__file__).with_suffix(".jsonl")
GRID = (0.002, 0.005, 0.0125, 0.03, 0.07)


class ChannelGroups(nn.Module):
    """Class goodness without a head: each class owns a group of the block's channels.

    ``g_k = mean of h² over the channels of group k and all positions``; groups are neighbouring
    channels of nearly equal number. It has no parameters. SFF does not use it; it is a comparison.

    Source: channel-wise competitive learning, Papachristodoulou et al. (AAAI 2024).

    Args:
        channels: C of the block output, at least ``num_classes``.
        num_classes: K.
    """

    channel_dim = 1

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.channels = channels
        self.num_classes = num_classes

    def forward(self, h: Tensor) -> Tensor:
        """(B, C, H, W) → (B, K) class goodness."""
        groups = h.tensor_split(self.num_classes, dim=1)
        return torch.stack([group.flatten(1).square().mean(1) for group in groups], dim=1)


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
