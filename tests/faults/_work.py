"""The commands that the faults happen to, small ones, and what they leave."""

from __future__ import annotations

from pathlib import Path

import torch

from sff_teach.study.recipes import Recipe
from sff_teach.study.runs import load_for, read_runs
from sff_teach.training.checkpoint import read

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["--network", "cnn3", "--fraction", "0.3", "--device", "cpu"]
EPOCHS = 5
TRAIN = ["train", "digits", *QUICK, "--epochs", str(EPOCHS), "--checkpoint", "run.pt"]
TRAIN_OUT = [*TRAIN, "--out", "runs.jsonl"]
RULES = ("bp", "sff")
SEEDS = 2
COMPARE = ["compare", "digits", *QUICK, "--epochs", "1", "--rules", *RULES, "--seeds",
           str(SEEDS), "--out", "runs.jsonl"]  # fmt: skip


def warm() -> None:
    """Read the images once, for all lives of this scenario.

    No torch.set_num_threads here: it makes a pool of threads that a fork cannot use.
    """
    load_for(Recipe(data="digits", network="cnn3", fraction=0.3))


# ---------------------------------------------------------------- train


def trained(folder: Path) -> dict:
    """What a training has left: weights, losses and accuracies, without what the clock says."""
    state = read(folder / "run.pt")
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in state["rows"]]
    return {"rows": rows, "weights": state["modules"]}


def same_training(one: dict, other: dict) -> bool:
    return one["rows"] == other["rows"] and all(
        torch.equal(value, other["weights"][module][name])
        for module, state in one["weights"].items()
        for name, value in state.items()
    )


# ---------------------------------------------------------------- compare


def figures(folder: Path) -> list[tuple]:
    """Rule, seed and accuracy of the stored runs, in order."""
    runs = read_runs(folder / "runs.jsonl")
    return sorted((r["rule"], r["seed"], r["accuracy"], r["accuracy_last"]) for r in runs)
