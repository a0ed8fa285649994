"""The commands that the faults happen to, small ones, and what they leave."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from pathlib import Path

import torch

from sff_teach.data import download
from sff_teach.data.download import Copy, File
from sff_teach.study.recipes import Recipe
from sff_teach.study.runs import load_for, read_runs
from sff_teach.training.checkpoint import read
from tests.classroom._small import Notebook, write_source

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["--network", "cnn3", "--fraction", "0.3", "--device", "cpu"]
EPOCHS = 5
TRAIN = ["train", "digits", *QUICK, "--epochs", str(EPOCHS), "--checkpoint", "run.pt"]
TRAIN_OUT = [*TRAIN, "--out", "runs.jsonl"]
RULES = ("bp", "sff")
SEEDS = 2
COMPARE = ["compare", "digits", *QUICK, "--epochs", "1", "--rules", *RULES, "--seeds",
           str(SEEDS), "--out", "runs.jsonl"]  # fmt: skip
GRADE = ["grade", "returned", "--source", "source", "--out", "marks", "--jobs", "1"]
STUDENTS = ("ada", "bob", "eve")
DOWNLOAD = ["data", "cifar10"]


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


# ---------------------------------------------------------------- grade


def class_folder(folder: Path) -> Path:
    """A small assignment, and the notebooks of three students: right, empty, half right."""
    folder.mkdir()
    write_source(folder)
    notebooks = (Notebook(), Notebook(answered=False),
                 Notebook().answer("s-task3", "def passes(K):\n    return K"))  # fmt: skip
    for student, notebook in zip(STUDENTS, notebooks):
        notebook.write(folder / "returned" / student / "s_small.ipynb")
    return folder


def marks(folder: Path) -> dict[str, str]:
    """Student → score."""
    with (folder / "marks" / "marks.csv").open(newline="") as file:
        return {row["student_id"]: row["score"] for row in csv.DictReader(file)}


RIGHT_MARKS = {"ada": "6", "bob": "0", "eve": "5"}
MARKED = [
    *("marks/" + name for name in ("marks.csv", "by_hand.html", "manual-todo.csv")),
    *(f"marks/{kind}" for s in STUDENTS for kind in (f"results/{s}.json", f"feedback/{s}.html")),
]


def result_of(folder: Path, student: str) -> dict:
    return json.loads((folder / "marks" / "results" / f"{student}.json").read_text())


# ---------------------------------------------------------------- download


def offered(url: str, content: bytes):
    """For ``before``: "cifar10" lies on this server, and goes into the folder ``data``."""
    md5 = hashlib.md5(content).hexdigest()

    def before() -> None:
        copy = Copy((File("set.tgz", url, (md5,)),), download._images_in_tar())
        download.SETS["cifar10"] = (copy,)
        download.PAUSE = 0
        os.environ |= {"SFF_TEACH_DATA": "data", "no_proxy": "127.0.0.1"}

    return before
