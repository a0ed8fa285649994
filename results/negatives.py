"""What SFF's loss over all classes is worth: two rules that compare with one wrong label instead.

    python results/negatives.py        about twelve minutes on one core; goes on where it stopped

The four-layer CNN on the Fashion-MNIST sample, every layer its own block, with the epochs and the
grid of rates of fashion_rules.py, whose row "sff 4 blocks 1×1" is what these are compared with.

"sampled": the same heads, but each loss sees the true class and one wrong class, drawn anew.
"spread": Forward-Forward with the label as a wave over the whole image (Scodellaro et al., arXiv
2312.14924), which a convolution can see everywhere. The wave's amplitude is chosen together with
the rate. Differs from theirs: this CNN pools, and it is trained for a few epochs.

Writes negatives.jsonl; `make claims` shows the comparison.
"""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from sff_teach.forward_forward import wrong_labels
from sff_teach.rules import RULES, ScalableForwardForward
from sff_teach.study import Recipe, build, cached_run, load_for, measure_run

STORE = Path(__file__).with_suffix(".jsonl")
EPOCHS = {1000: 15, 10_000: 4}
GRID = (0.002, 0.005, 0.0125, 0.03, 0.07)
AMPLITUDES = {"sampled": (0.0,), "spread": (1.0, 3.0)}


class SampledWrongClass(ScalableForwardForward):
    """SFF whose losses compare the true class with a single wrong one."""

    def loss(self, g: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy of (B, 2) goodness: the true class and one drawn wrong class."""
        wrong = wrong_labels(y, g.shape[1], self.generator)
        pair = g.gather(1, torch.stack([y, wrong], dim=1))  # (B, 2)
        return F.cross_entropy(pair, torch.zeros_like(y))


def waves(num_classes: int, side: int) -> Tensor:
    """(K, side, side): a plane wave per class, of its own direction, frequency and phase."""
    place = torch.arange(side) / side
    planes = []
    for k in range(num_classes):
        angle, cycles = math.pi * k / num_classes, 4 + k % 3
        along = place[:, None] * math.sin(angle) + place[None, :] * math.cos(angle)
        planes.append(torch.cos(2 * math.pi * (cycles * along + k / num_classes)))
    return torch.stack(planes)


def spread_label(x: Tensor, y: Tensor, planes: Tensor, amplitude: float) -> Tensor:
    """(B, C, H, W) plus the wave of each image's label."""
    return x + amplitude * planes[y][:, None]


def measured(kind: str, amplitude: float, recipe: Recipe, on: str) -> dict:
    """One run, or the stored one."""
    images = int(recipe.fraction * 10_000)
    key = {
        "row": f"{kind}, {images:,} images", "amplitude": amplitude, "on": on,
        "seed": recipe.seed, "lr": recipe.lr,
    }  # fmt: skip

    def make() -> dict:
        model = build(recipe, load_for(recipe).train)
        if kind == "spread":
            planes = waves(model.num_classes, 28)
            model.embed = partial(spread_label, planes=planes, amplitude=amplitude)
        with patch.dict(RULES, sff=SampledWrongClass):
            return measure_run(recipe, on, model=model, progress=False)

    return cached_run(STORE, key, make)


def main() -> None:
    """Choose rate and amplitude on validation images, then five seeds on the test images."""
    torch.set_num_threads(1)
    for kind, rule in (("sampled", "sff"), ("spread", "ff")):
        for images, epochs in EPOCHS.items():
            base = Recipe(rule=rule, fraction=images / 10_000, epochs=epochs, channels_last=False)
            tried = [
                measured(kind, amplitude, replace(base, lr=lr, seed=100), "valid")
                for amplitude in AMPLITUDES[kind]
                for lr in GRID
            ]
            best = max(tried, key=lambda run: run["accuracy"])
            for seed in range(5):
                chosen = replace(base, lr=best["lr"], seed=seed, validation=0)
                run = measured(kind, best["amplitude"], chosen, "test")
                print(
                    f"{run['row']}, seed {seed}, lr {run['lr']:g}, amplitude "
                    f"{run['amplitude']:g}: {run['accuracy']:.1%}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
