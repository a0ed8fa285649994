"""A hundred classes: the controls on 5,000 images, with plain and accurate heads, five seeds.

    SFF_CIFAR10=FOLDER python results/hundred_classes.py      some fifty minutes on one core; goes
                                                              on where it stopped

FOLDER as in laptop_cifar10.py. A stand-in for CIFAR-100, made of CIFAR-10 by ``times_ten`` in
pack_images.py: which of ten classes, which of five colour orders, upright or upside down. It is
another task than CIFAR-100, about which the figures say nothing; they compare the rules at K = 100.
The five-layer CNN, flip and crop, AdamW one-cycle, batch 64, 8 epochs. The five seeds train on
disjoint sets of 5,000 images. The rate of each row is chosen on other images, 5,000 to train and
5,000 to measure; a rate at the edge of the grid widens it.

Fixed before the runs: plain heads vote by the mean of all blocks, accurate heads by depth. *SFF
keeps up at K = 100* in a row: the difference SFF - bp, paired by seed, with Holm's correction over
the two rows, lies above -1 point (*supported*), below it (*contradicted*), or else is *undecided*.
Test accuracy is taken once, after the last epoch. Writes hundred_classes.jsonl and .md.
"""

from pathlib import Path
from statistics import mean

import torch
from cifar_folder import cifar_folder
from claims import NON_INFERIOR, difference
from pack_images import times_ten

from sff_teach.data import Splits, load
from sff_teach.study import Recipe, best_rate, cached_run, measure_run
from sff_teach.util.stats import interval

HERE = Path(__file__).parent
STORE = HERE / "hundred_classes.jsonl"
GRID = (0.003, 0.006, 0.012)
SEEDS, TUNING_SEED, IMAGES = range(5), 5, 5000
PLAIN = {"cut": 2, "kernel_size": 3}
ACCURATE = {"cut": "layer", "head": "accurate", "vote": "depth"}
ROWS = {
    "bp": {"rule": "bp"},
    "bp-goodness, 3×3 head": {"rule": "bp-goodness", **PLAIN},
    "deepsup, two blocks, 3×3 heads": {"rule": "deepsup", **PLAIN},
    "sff, two blocks, 3×3 heads": {"rule": "sff", **PLAIN},
    "bp-goodness, accurate head": {"rule": "bp-goodness", **ACCURATE},
    "deepsup, layer by layer, accurate heads": {"rule": "deepsup", **ACCURATE},
    "sff, layer by layer, accurate heads": {"rule": "sff", **ACCURATE},
}


class HundredClasses:
    """The images with their hundred labels, and who gets which of them."""

    def __init__(self, folder: str):
        made = times_ten(load(f"folder:{folder}", validation=0))
        self.train, self.test = made.train, made.test
        self.order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(0))

    def part(self, number: int):
        """5,000 training images; those of another number share none with them."""
        return self.train.subset(self.order[number * IMAGES : (number + 1) * IMAGES])

    def splits(self, seed: int) -> Splits:
        """What a seed trains on; validation images for the tuning seed only."""
        valid = self.part(seed + 1) if seed == TUNING_SEED else self.train.subset(self.order[:0])
        return Splits(self.part(seed), valid, self.test)


def run(row: str, lr: float, seed: int, images: HundredClasses) -> dict:
    """One run, or the stored one."""
    on = "valid" if seed == TUNING_SEED else "test"
    recipe = Recipe(
        data="cifar10 × 10 ways", network="cnn5", epochs=8, augment="flip-crop", lr=lr, seed=seed,
        **ROWS[row],
    )  # fmt: skip
    found = cached_run(
        STORE,
        {"row": row, "lr": lr, "seed": seed, "on": on},
        lambda: measure_run(recipe, on, images.splits(seed), progress=False),
    )
    print(f"{row}, rate {lr:g}, seed {seed}: {100 * found['accuracy']:.1f} %", flush=True)
    return found


def tuned(row: str, images: HundredClasses) -> float:
    """The rate with the best validation accuracy, never at the edge of what was tried."""
    rates = list(GRID)
    while True:
        best = best_rate([run(row, lr, TUNING_SEED, images) for lr in sorted(rates)])
        if min(rates) < best < max(rates):
            return best
        rates.append(best / 2 if best == min(rates) else best * 2)


def line(row: str, runs: dict[int, dict], bp: dict[int, dict], verdict: str) -> str:
    """One row of the table."""
    accuracy, low, high = interval([100 * run["accuracy"] for run in runs.values()])
    minus = "– | –"
    for effect in difference(row, runs, bp, "accuracy") if row != "bp" else []:
        minus = f"{effect.mean:+.1f} | {effect.low:+.1f} … {effect.high:+.1f}"
    last = 100 * mean(run["accuracy_last"] for run in runs.values())
    first = next(iter(runs.values()))
    return (
        f"| {row} | {len(runs)} | {accuracy:.1f} | {low:.1f} … {high:.1f} | {minus} | {last:.1f} | "
        f"{first['parameters']:,} | {first['lr']:g} | {verdict} |"
    )


def write(found: dict[str, dict[int, dict]]) -> None:
    """The page."""
    bp = found["bp"]
    rows = [row for row in found if row.startswith("sff")]
    effects = [difference(row, found[row], bp, "accuracy")[0] for row in rows]
    outcomes = NON_INFERIOR.outcomes(effects)
    verdicts = {row: f"**{outcome}**" for row, outcome in zip(rows, outcomes)}
    machine = next(iter(bp.values()))["machine"]
    text = [
        "# A hundred classes: the controls on 5,000 images",
        "",
        "Generated by `python results/hundred_classes.py` from `hundred_classes.jsonl`; do not "
        f"edit. {machine['device']}, one thread, torch {machine['torch']}.",
        "The classes are made of CIFAR-10's (JPEG copy): class × five colour orders × upright or "
        "upside down; this is a stand-in for CIFAR-100, which it does not replace. Five-layer CNN, "
        "8 epochs, flip and crop; five seeds on disjoint sets of 5,000 images, 50 per class; rates "
        "chosen on other images. Test accuracy of the last epoch on 10,000 images (chance is "
        "1 %), Student's t intervals, differences in points, paired by seed. Parameters count the "
        "heads. Plain heads vote by the mean of all blocks, accurate ones by depth; both were "
        "fixed before the runs.",
        "",
        "| row | n | accuracy % | 95 % interval | minus bp | 95 % interval | last block % | "
        "parameters | rate | not more than a point below bp? |",
        "|---|--:|--:|---|--:|---|--:|--:|--:|---|",
        *(line(row, runs, bp, verdicts.get(row, "")) for row, runs in found.items()),
    ]
    (HERE / "hundred_classes.md").write_text("\n".join(text) + "\n", encoding="utf-8")


def main() -> None:
    """Tune each row, run seed by seed, write the page."""
    folder = cifar_folder()
    torch.set_num_threads(1)
    images = HundredClasses(folder)
    rates = {row: tuned(row, images) for row in ROWS}
    found: dict[str, dict[int, dict]] = {row: {} for row in ROWS}
    for seed in SEEDS:
        for row, lr in rates.items():
            found[row][seed] = run(row, lr, seed, images)
    write(found)


if __name__ == "__main__":
    main()
