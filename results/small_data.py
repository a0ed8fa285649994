"""Is SFF better than backprop on little data? Two networks, 20 to 500 images, four rules, 15 seeds.

    python results/small_data.py                   Fashion sample; some three hours on one core
    python results/small_data.py --cifar FOLDER    and CIFAR-10 in a folder with train/ and test/;
                                                   some three hours more

Goes on where it stopped. What settles the claim was fixed before the runs: the difference SFF - bp
in accuracy on the test images, predicted by the mean of all blocks, paired by seed, with a 95 %
interval by Student's t and Holm's correction over all rows of one set. *Supported* in a row: the
difference is above 0 with a corrected p below 0.05; *contradicted*: below 0; else *undecided*.

Every class gives the same number of images. The 15 seeds train on disjoint subsets. Learning rate
and epochs are chosen for each row by the mean validation accuracy of four other subsets, with as
many validation images as training images; a rate at the edge of the grid widens the grid. The test
images choose nothing. Writes small_data.jsonl and small_data.md.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from claims import holm, paired_p_value

from sff_teach import cnn, fit, load, localize
from sff_teach.study import CONTROLS, cached_run, interval, read_runs
from sff_teach.study.runs import machine
from sff_teach.training import evaluate_votes

HERE = Path(__file__).parent
STORE = HERE / "small_data.jsonl"
SEEDS, TUNING_SEEDS = range(15), range(4)
MOST = 50  # training images per class of the largest size; the seeds' subsets lie side by side
EPOCHS = {20: (60, 180), 30: (60, 180), 60: (30, 90), 90: (30, 90), 200: (20, 60), 500: (10, 30)}
RATES = (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08)
NETWORKS = {
    "three layers": {"widths": (8, 16, 16), "pool_after": (1, 2)},  # assignment 4's
    "four layers": {"widths": (16, 32, 64, 64), "pool_after": (1, 2, 4)},  # notebook 09's
}


class Images:
    """A set's training images, by class, and its test images."""

    def __init__(self, name: str, source: str):
        splits = load(source, validation=0)
        self.name = name
        self.train = splits.train
        self.test = splits.test
        order = torch.Generator().manual_seed(0)
        self.by_class = []
        for k in range(10):
            positions = (self.train.y == k).nonzero().flatten()
            self.by_class.append(positions[torch.randperm(len(positions), generator=order)])

    def _take(self, begin: int, per_class: int):
        index = torch.cat([positions[begin : begin + per_class] for positions in self.by_class])
        return self.train.subset(index)

    def training(self, seed: int, images: int):
        """The subset of one seed; those of other seeds share no image with it."""
        return self._take(seed * MOST, images // 10)

    def tuning(self, seed: int, images: int):
        """Training and validation images, equally many, none of which any seed trains on."""
        begin = len(SEEDS) * MOST
        room = min(len(positions) for positions in self.by_class) - begin
        per_class = images // 10
        start = begin + seed * (room - 2 * per_class) // (len(TUNING_SEEDS) - 1)
        return self._take(start, per_class), self._take(start + per_class, per_class)


def trained(data, images: int, network: str, rule: str, lr: float, epochs: int, seed: int):
    """A network of the study, trained."""
    torch.manual_seed(seed)
    model = localize(
        cnn(data.channels, **NETWORKS[network]),
        10,
        cut=2,
        kernel_size=3,
        input_shape=(data.channels, *data.size),
    )
    fit(model, data, rule=rule, lr=lr, epochs=epochs, batch_size=16, seed=seed, progress=False)
    return model


def run(source: Images, on: str, seed: int, **row) -> dict:
    """One stored run: trained on the seed's subset, measured on ``on``."""

    def make() -> dict:
        if on == "test":
            data, measured = source.training(seed, row["images"]), source.test
        else:
            data, measured = source.tuning(seed, row["images"])
        model = trained(data, seed=seed + (1000 if on == "valid" else 0), **row)
        mean, last = (e.accuracy for e in evaluate_votes(model, measured, ("mean", "last")))
        parameters = sum(p.numel() for p in model.parameters())
        return {"accuracy": mean, "accuracy_last": last, "parameters": parameters} | MACHINE

    return cached_run(STORE, {"set": source.name, "on": on, "seed": seed, **row}, make)


def chosen(source: Images, **row) -> dict:
    """Rate and epochs with the best mean validation accuracy; no best rate lies at an edge."""
    rates = list(RATES)
    while True:
        score = {}
        for lr in rates:
            for epochs in EPOCHS[row["images"]]:
                runs = [run(source, "valid", s, **row, lr=lr, epochs=epochs) for s in TUNING_SEEDS]
                score[lr, epochs] = sum(r["accuracy"] for r in runs) / len(runs)
        lr, epochs = max(score, key=score.get)
        if lr == rates[-1] and lr < 1:
            rates.append(2 * lr)
        elif lr == rates[0] and lr > 1e-4:
            rates.insert(0, lr / 2)
        else:
            return {"lr": lr, "epochs": epochs}


def rows() -> Iterator[dict]:
    """What is compared, in order of interest."""
    for network in NETWORKS:
        for images in (90, 30, 200, 20, 60, 500):
            for rule in CONTROLS:
                yield {"network": network, "images": images, "rule": rule}


def by_seed(runs: list[dict]) -> dict[tuple, dict[int, dict]]:
    """(network, images, rule) → seed → run, of the rows that have all their seeds."""
    rows: dict[tuple, dict[int, dict]] = {}
    for r in runs:
        rows.setdefault((r["network"], r["images"], r["rule"]), {})[r["seed"]] = r
    order = sorted(rows, key=lambda k: ([*NETWORKS].index(k[0]), k[1], CONTROLS.index(k[2])))
    return {key: rows[key] for key in order if len(rows[key]) == len(SEEDS)}


def points(
    rows: dict, row: tuple[str, int], rule: str, base: str, figure: str = "accuracy"
) -> tuple[float, float, float] | None:
    """Points by which a rule is ahead of another with their interval; None before both are run."""
    a, b = rows.get((*row, rule)), rows.get((*row, base))
    if a is None or b is None:
        return None
    return interval([100 * (a[s][figure] - b[s][figure]) for s in SEEDS])


def text(effect: tuple[float, float, float] | None) -> str:
    """An effect with its interval as a cell of a table."""
    return "{:+.1f} ({:+.1f} … {:+.1f})".format(*effect) if effect else "–"


def against_backprop(rows: dict) -> list[str]:
    """Lines of the table of all rules minus backprop, with SFF's verdicts."""
    effects = {k: points(rows, k[:2], k[2], "bp") for k in rows if k[2] != "bp"}
    sff = {k: e for k, e in effects.items() if e and k[2] == "sff"}
    verdicts = {}
    for key, p in zip(sff, holm([paired_p_value(len(SEEDS), *e) for e in sff.values()])):
        sign = "supported" if sff[key][0] > 0 else "contradicted"
        verdict = sign if p < 0.05 else "undecided"
        verdicts[key] = f"p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}, **{verdict}**"
    lines = [
        "| network | images | rule | accuracy % | minus bp (95 % interval) | last block minus bp "
        "| rate, epochs | SFF better than bp? |",
        "|---|--:|---|--:|---|--:|---|---|",
    ]
    for key, runs in rows.items():
        mean = 100 * sum(r["accuracy"] for r in runs.values()) / len(runs)
        last = points(rows, key[:2], key[2], "bp", "accuracy_last") if effects.get(key) else None
        cells = [
            *map(str, key), f"{mean:.1f}", text(effects.get(key)),
            f"{last[0]:+.1f}" if last else "–", f"{runs[0]['lr']:g}, {runs[0]['epochs']}",
            verdicts.get(key, ""),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def what_carries_it(rows: dict) -> list[str]:
    """Lines of the table that splits SFF minus backprop into its three steps."""
    steps = [("bp-goodness", "bp"), ("deepsup", "bp-goodness"), ("sff", "deepsup")]
    lines = [
        "| network | images | the head | + a loss for each block | + the cut |",
        "|---|--:|---|---|---|",
    ]
    for row in dict.fromkeys(key[:2] for key in rows):
        cells = [*map(str, row), *(text(points(rows, row, *step)) for step in steps)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def page() -> str:
    """The Markdown page of the stored runs."""
    runs = [r for r in read_runs(STORE) if r["on"] == "test"]
    lines = [
        "# Small data: SFF and its controls from 20 to 500 images",
        "",
        "Generated by `python results/small_data.py` from `small_data.jsonl`; do not edit.",
        f"{len(SEEDS)} seeds on disjoint training subsets, every class with the same number of",
        "images; two blocks with 3×3 heads; AdamW, one-cycle, batch 16; rate and epochs chosen per",
        "row on as many validation images as training images. Differences in points of test",
        "accuracy, paired by seed, with 95 % intervals by Student's t; p by Holm over the rows of",
        "one set. The vote that counts, fixed beforehand, is the mean of all blocks; the last",
        "block's is shown beside it. [Notebook 09](../notebooks/09_small_data.ipynb) draws them.",
    ]
    for name in dict.fromkeys(r["set"] for r in runs):
        rows = by_seed([r for r in runs if r["set"] == name])
        lines += ["", f"## {name}", "", *against_backprop(rows)]
        lines += [
            "",
            "What carries the difference: from bp to bp-goodness only the head changes, from there "
            "to deepsup each block gets a loss, from there to sff the gradient is cut.",
            "",
            *what_carries_it(rows),
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is not stored, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cifar", type=Path, help="folder with train/ and test/, classes below")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sets = [Images("Fashion-MNIST sample", "fashion-mnist-sample")]
    if options.cifar:
        sets.append(Images("CIFAR-10 (JPEG copy)", f"folder:{options.cifar}"))
    for source in sets:
        for row in rows():
            settings = chosen(source, **row)
            runs = [run(source, "test", seed, **row, **settings) for seed in SEEDS]
            mean = sum(r["accuracy"] for r in runs) / len(runs)
            print(f"{source.name}, {row}, {settings}: {mean:.1%}", flush=True)
            (HERE / "small_data.md").write_text(page(), encoding="utf-8")
    (HERE / "small_data.md").write_text(page(), encoding="utf-8")


MACHINE = {"machine": machine()}

if __name__ == "__main__":
    main()
