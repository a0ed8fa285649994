"""Beyond images: the controls on a medical table and on sentences.

    python results/beyond_images.py        some ten minutes on one core; goes on where it stopped

breast cancer  scikit-learn's table, 569 rows (patients) × 30 columns, a perceptron 64-64-64, batch
               32. Five folds: every row is in the test part once. With all other rows, 30 epochs;
               with 40 of them, 100 epochs. The rate is chosen within each fold, on two splits of
               what that fold trains on; the fold's number is the seed.
docstrings     which of five libraries a sentence comes from (sff_teach.text), four convolutions
               32-64-64-64 of width 5 over one-hot characters, 5 epochs, batch 64. Five seeds
               (weights and order); the rate is chosen on validation sentences with one other seed.
               The corpus is of the versions installed here; each run stores them and a hash of it.

AdamW one-cycle; every rule tries the rates of GRID; ties in accuracy are settled by the loss. Test
accuracy is taken once, after the last epoch, by the mean of all blocks. Besides, linear models that
know nothing of networks: logistic regression on the columns, and on character n-grams. Writes
beyond_images.jsonl and beyond_images.md.
"""

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.pipeline import make_pipeline

from sff_teach import cnn1d, from_arrays, load, localize, mlp
from sff_teach.data import LabelledTensors, text
from sff_teach.study import cached_run, interval, machine, runs_by_row
from sff_teach.training.evaluation import evaluate_votes
from sff_teach.training.fit import fit

HERE = Path(__file__).parent
STORE = HERE / "beyond_images.jsonl"
FOLDS, INNER = 5, 2
TABLE_ROWS = {rule: {"rule": rule} for rule in ("bp", "bp-goodness")} | {
    f"{rule} 3 blocks": {"rule": rule} for rule in ("deepsup", "sff")
}
TEXT_ROWS = {
    "bp": {"rule": "bp"},
    "sff 4 blocks": {"rule": "sff"},
    "bp-goodness": {"rule": "bp-goodness"},
    "deepsup 4 blocks": {"rule": "deepsup"},
}
TASKS = {  # task → rows, options of fit, seeds or folds
    "breast cancer, all rows": (TABLE_ROWS, {"epochs": 30, "batch_size": 32}, FOLDS),
    "breast cancer, 40 rows": (TABLE_ROWS, {"epochs": 100, "batch_size": 32}, FOLDS),
    "docstrings": (TEXT_ROWS, {"epochs": 5, "batch_size": 64}, 5),
}
TABLE_RATES = (0.00025, 0.001, 0.004, 0.016, 0.064)
GRID = {  # task → peak rates that every row tries
    "breast cancer, all rows": TABLE_RATES,
    "breast cancer, 40 rows": TABLE_RATES,
    "docstrings": (0.001, 0.004, 0.016, 0.064),
}
LINEAR = "linear model"  # not a network; beside the table
CHAIN = (
    "bp",
    "bp-goodness",
    "deepsup 3 blocks",
    "deepsup 4 blocks",
    "sff 3 blocks",
    "sff 4 blocks",
)


@lru_cache(maxsize=1)
def patients() -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """All rows of the breast-cancer table as they were: (569, 30), (569,), the two classes."""
    parts = list(load("breast-cancer", validation=0))
    x = torch.cat([part.values() for part in parts]).numpy()
    return x, torch.cat([part.y for part in parts]).numpy(), parts[0].classes


def pair(x, y, chosen, held, classes) -> tuple[LabelledTensors, LabelledTensors]:
    """Two sets, both standardised with the first one's mean and deviation."""
    train = from_arrays(x[chosen], y[chosen], classes)
    test = from_arrays(x[held], y[held], classes, mean=train.mean, std=train.std)
    return train, test


def fold(number: int, few: bool) -> tuple[np.ndarray, np.ndarray]:
    """The rows to train on and the rows to test on."""
    x, y, _ = patients()
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    chosen, held = list(folds.split(x, y))[number]
    if few:
        chosen, _ = train_test_split(chosen, train_size=40, stratify=y[chosen], random_state=number)
    return chosen, held


@lru_cache(maxsize=1)
def sentences() -> tuple[LabelledTensors, LabelledTensors, LabelledTensors]:
    """The docstrings."""
    return tuple(load("docstrings"))


def sets(task: str, seed: int, on: str) -> Iterator[tuple[LabelledTensors, LabelledTensors]]:
    """What to train on and what to measure on; for tuning in a fold, two such pairs."""
    if not task.startswith("breast"):
        train, valid, test = sentences()
        yield train, test if on == "test" else valid
        return
    x, y, classes = patients()
    chosen, held = fold(seed, "40" in task)
    if on == "test":
        yield pair(x, y, chosen, held, classes)
        return
    inner = StratifiedKFold(4, shuffle=True, random_state=seed)
    for a, b in list(inner.split(chosen, y[chosen]))[:INNER]:
        yield pair(x, y, chosen[a], chosen[b], classes)


def network(task: str, row: dict, data: LabelledTensors, seed: int):
    """The untrained network, cut as the row says: one layer per block if it says nothing."""
    torch.manual_seed(seed)
    shape = tuple(data.x.shape[1:])
    body = cnn1d(shape[0], (32, 64, 64, 64)) if task == "docstrings" else mlp(shape[0], (64,) * 3)
    options = {"cut": "layer"} | {key: v for key, v in row.items() if key != "rule"}
    return localize(body, data.num_classes, input_shape=shape, **options)


def versions(task: str) -> dict:
    """What a corpus of installed libraries depends on."""
    if task != "docstrings":
        return {}
    names = {"sklearn": "scikit-learn"}
    libraries = {name: version(names.get(name, name)) for name in text.LIBRARIES}
    written = "\n".join(s.text for s in text.corpus())
    return {"corpus": hashlib.sha256(written.encode()).hexdigest()[:16], "libraries": libraries}


def measured(task: str, name: str, seed: int, lr: float, on: str) -> dict:
    """One run of one row; on "valid" the mean over the pairs of ``sets``."""

    def make() -> dict:
        rows, options, _ = TASKS[task]
        results = []
        for train, held in sets(task, seed, on):
            model = network(task, rows[name], train, seed)
            rule = rows[name]["rule"]
            history = fit(model, train, rule=rule, lr=lr, seed=seed, progress=False, **options)
            by_mean, by_last = evaluate_votes(model, held, ("mean", "last"))
            truth, said = held.y.numpy(), predictions(model, held.x)
            labels = range(held.num_classes)
            results.append(
                {
                    "accuracy": by_mean.accuracy,
                    "accuracy_last": by_last.accuracy,
                    "loss": by_mean.loss,
                    "block_accuracy": by_mean.block_accuracy,
                    "train_accuracy": history.last["train_accuracy"],
                    "confusion": confusion_matrix(truth, said, labels=labels).tolist(),
                    "samples": len(train),
                    "parameters": history.parameters,
                    "seconds": history.seconds,
                }
            )
        if len(results) == 1:
            return results[0] | versions(task) | {"machine": machine()}
        return {key: mean(r[key] for r in results) for key in ("accuracy", "loss")}

    return cached_run(STORE, {"task": task, "row": name, "on": on, "seed": seed, "lr": lr}, make)


def predictions(model, x: torch.Tensor) -> np.ndarray:
    """The classes that all blocks together choose."""
    return torch.cat([model.predict(part) for part in x.split(500)]).cpu().numpy()


def linear(task: str, seed: int) -> dict:
    """Logistic regression: how far one gets without any network."""

    def make() -> dict:
        ((train, held),) = sets(task, seed, "test")
        a, b = train.x, held.x
        model = LogisticRegression(max_iter=2000)
        if task == "docstrings":
            a, b = text.decode(a), text.decode(b)
            grams = TfidfVectorizer(
                analyzer="char_wb", ngram_range=(1, 4), min_df=2, sublinear_tf=True
            )
            model = make_pipeline(grams, LogisticRegression(C=10, max_iter=2000))
        said = model.fit(a, train.y.numpy()).predict(b)
        table = confusion_matrix(held.y.numpy(), said, labels=range(held.num_classes))
        accuracy = float((said == held.y.numpy()).mean())
        return {"accuracy": accuracy, "confusion": table.tolist()} | versions(task)

    return cached_run(STORE, {"task": task, "row": LINEAR, "on": "test", "seed": seed}, make)


def tuned(task: str, name: str, seed: int) -> float:
    """The rate with the best validation accuracy; of equals, the one with the least loss."""
    runs = [measured(task, name, seed, lr, "valid") for lr in GRID[task]]
    return max(runs, key=lambda run: (run["accuracy"], -run["loss"]))["lr"]


def found(values: list[float], signed: bool = False) -> str:
    """Mean and 95 % interval in percent or points."""
    m, low, high = interval([100 * v for v in values])
    if np.isnan(low):
        return f"{m:+.1f}" if signed else f"{m:.1f}"
    return f"{m:+.1f} ({low:+.1f} … {high:+.1f})" if signed else f"{m:.1f} ({low:.1f} … {high:.1f})"


def page() -> str:
    """beyond_images.md."""
    records = {task: runs_by_row(STORE, task=task) for task in TASKS}
    last = records["docstrings"]["sff 4 blocks"][0]
    libraries = ", ".join(f"{name} {v}" for name, v in last["libraries"].items())
    out = [
        "# Beyond images: a medical table, sentences",
        "",
        "Generated by `python results/beyond_images.py` from `beyond_images.jsonl`; do not edit. "
        f"{last['machine']['device']}, one thread, torch {last['machine']['torch']}. Test accuracy "
        "of the last epoch by the mean of all blocks, 95 % Student's t intervals; differences are "
        "paired by seed, or by fold. Parameters count the heads. Rates are tuned per row with "
        "equal budget; the column says which were chosen. *Linear model*: logistic regression on "
        "the columns, or on character n-grams.",
    ]
    for task, rows in records.items():
        out += ["", f"## {task}", ""]
        if task == "docstrings":
            out += [f"Corpus {last['corpus']} of {libraries}.", ""]
        out += [
            "| row | n | accuracy % | minus bp | verdict | last block % | parameters | peak rates |"
        ]
        out += ["|---" * 8 + "|"]
        base = rows["bp"]
        for name in sorted(rows, key=[*CHAIN, LINEAR].index):
            runs = rows[name]
            pairs = [runs[s]["accuracy"] - base[s]["accuracy"] for s in runs]
            _, low, high = interval(pairs)
            verdict = "better than bp" if low > 0 else "worse than bp" if high < 0 else ""
            verdict = verdict or ("no difference shown" if len(pairs) > 1 else "–")
            compared = "– | –", f"{found(pairs, signed=True)} | {verdict}"
            network = "– | – | –"
            if name != LINEAR:
                by_last = found([run["accuracy_last"] for run in runs.values()])
                rates = ", ".join(f"{r:g}" for r in sorted({run["lr"] for run in runs.values()}))
                network = f"{by_last} | {next(iter(runs.values()))['parameters']:,} | {rates}"
            accuracy = found([run["accuracy"] for run in runs.values()])
            out.append(
                f"| {name} | {len(runs)} | {accuracy} | {compared[name != 'bp']} | {network} |"
            )
        if task.startswith("breast"):
            out += ["", "All folds together, every patient tested once:", ""]
            out += ["| row | sensitivity % (malignant found) | specificity % (benign left alone) |"]
            out += ["|---|---|---|"]
            for name in sorted(rows, key=[*CHAIN, LINEAR].index):
                runs = rows[name]
                (a, b), (c, d) = np.sum([run["confusion"] for run in runs.values()], axis=0)
                out.append(
                    f"| {name} | {100 * a / (a + b):.1f} ({a} of {a + b}) "
                    f"| {100 * d / (c + d):.1f} ({d} of {c + d}) |"
                )
    return "\n".join(out) + "\n"


def main() -> None:
    """Tune, measure, write the page."""
    torch.set_num_threads(1)
    for task, (rows, _, seeds) in TASKS.items():
        for seed in range(seeds if task.startswith("breast") else 1):
            linear(task, seed)
        for name in rows:
            runs = []
            for seed in range(seeds):
                lr = tuned(task, name, seed if task.startswith("breast") else 100)
                runs.append(measured(task, name, seed, lr, "test"))
            print(f"{task}: {name:26s} {found([r['accuracy'] for r in runs])}", flush=True)
    (HERE / "beyond_images.md").write_text(page())


if __name__ == "__main__":
    main()
