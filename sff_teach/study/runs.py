"""Runs of recipes: build, train, measure, and store each run of a study."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn

from ..core import SFF
from ..cut.localize import localize
from ..data import ImageSet, LabelledTensors, Splits, load
from ..forward_forward import FFNetwork
from ..heads import learn_vote
from ..models import NETWORKS
from ..training.distributed import is_distributed
from ..training.evaluation import evaluate_votes
from ..training.fit import fit
from ..training.history import History
from ..util import __version__
from ..util.checks import SFFError, check_known
from ..util.files import check_writable
from ..util.progress import Bar
from .recipes import Recipe, stored_recipe
from .store import append_run, read_runs, round_floats

CONTROLS = ("bp", "bp-goodness", "deepsup", "sff")
LOCALIZE_OPTIONS = (
    "cut", "kernel_size", "filters", "hidden", "head", "normalise", "vote", "stem",
)  # fmt: skip


@lru_cache(maxsize=1)  # consecutive runs share their data
def _load(name: str, fraction: float, seed: int, validation: float, rgb: bool) -> Splits:
    splits = load(name, fraction, seed, validation=validation)
    if rgb and not isinstance(splits.train, ImageSet):
        raise SFFError(f'"{name}" holds no images; use network="mlp3" (table) or "cnn1d" (text)')
    return Splits(*(part.as_rgb() for part in splits)) if rgb else splits


def load_for(recipe: Recipe) -> Splits:
    """The recipe's data; grey images get three channels for torchvision's networks."""
    rgb = recipe.network not in NETWORKS
    return _load(recipe.data, recipe.fraction, recipe.seed, recipe.validation, rgb)


def build(recipe: Recipe, data: LabelledTensors) -> nn.Module:
    """The untrained network of a recipe; its seed decides the initial weights.

    Args:
        recipe: which network, and how it is cut.
        data: samples of the training.
    """
    torch.manual_seed(recipe.seed)
    if recipe.network in NETWORKS:
        network = NETWORKS[recipe.network](data.channels, data.size)
    else:
        check_known(recipe.network, [*NETWORKS, *torchvision.models.list_models()], "network")
        network = torchvision.models.get_model(recipe.network, num_classes=data.num_classes)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):  # MobileNetV3 has 0.01, for long training
                module.momentum = max(module.momentum, 0.1)
    if recipe.rule.startswith("ff"):
        return FFNetwork(network.children(), data.num_classes)
    options = {name: getattr(recipe, name) for name in LOCALIZE_OPTIONS}
    shape = (data.channels, *data.size)
    return localize(network, data.num_classes, input_shape=shape, **options)


def run(
    recipe: Recipe,
    splits: Splits | None = None,
    *,
    model: nn.Module | None = None,
    validate: bool = True,
    **fit_options: Any,
) -> tuple[nn.Module, History]:
    """Load the data, build the network and train it.

    Args:
        recipe: the settings.
        splits: the data; None to load the recipe's.
        model: the network; None to build the recipe's.
        validate: whether to measure on the validation images after every epoch.
        fit_options: passed to ``fit``: ``progress``, ``on_epoch``, ``stop``, ``checkpoint``,
            ``pipeline``.
    """
    splits = load_for(recipe) if splits is None else splits
    model = build(recipe, splits.train) if model is None else model
    history = fit(model, splits.train, splits.valid if validate else None, recipe, **fit_options)
    if isinstance(model, SFF) and recipe.vote == "learned":
        learn_vote(model, splits.train.x, splits.train.y)
    return model, history


def measure_run(
    recipe: Recipe, on: str = "test", splits: Splits | None = None, **run_options: Any
) -> dict:
    """One run as a flat record for JSON: recipe, accuracies, history, machine.

    ``accuracy`` is that of the network's own vote, ``accuracy_mean`` and ``accuracy_last`` those of
    the mean of all blocks and of the last block.

    Args:
        recipe: the settings.
        on: ``"test"``, or ``"valid"`` for tuning.
        splits: the data; None to load the recipe's.
        run_options: passed to ``run``.
    """
    check_known(on, ("test", "valid"), "part of the data")
    splits = load_for(recipe) if splits is None else splits
    if not len(getattr(splits, on)):
        raise SFFError(f'on="{on}" has no images in this recipe: validation={recipe.validation}.')
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    model, history = run(recipe, splits, validate=on == "test", **run_options)
    own, mean, last = evaluate_votes(model, getattr(splits, on), (None, "mean", "last"))
    record = round_floats(
        {
            "rule": recipe.rule,
            "images": len(splits.train),
            "seed": recipe.seed,
            "on": on,
            "accuracy": own.accuracy,
            "accuracy_mean": mean.accuracy,
            "accuracy_last": last.accuracy,
            "block_accuracy": mean.block_accuracy,
            "parameters": history.parameters,
            "seconds": history.seconds,
            "peak_bytes": peak_memory(next(model.parameters()).device),
            "stopped": history.stopped,
            "epochs": history.rows,
            "machine": machine(),
        }
    )
    return record | {"recipe": asdict(recipe)}  # unrounded: its values identify a stored run


def peak_memory(device: torch.device) -> int | None:
    """Peak bytes: on a GPU of tensors in this run, on a CPU of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def machine() -> dict:
    """Versions, processor or GPU, and git revision."""
    git = ["git", "describe", "--always", "--dirty"]
    try:
        output = subprocess.check_output(git, cwd=Path(__file__).parent, stderr=subprocess.DEVNULL)
        revision = output.decode().strip()
    except (OSError, subprocess.CalledProcessError):
        revision = "unknown"
    device = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (found := re.search(r"model name\s*: (.+)", cpuinfo.read_text())):
        device = found[1]
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    return {
        "sff_teach": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": device,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "processes": torch.distributed.get_world_size() if is_distributed() else 1,
        "revision": revision,
    }


def study(
    recipes: Iterable[Recipe],
    path: str | Path | None = None,
    *,
    on: str = "test",
    progress: bool = True,
) -> list[dict]:
    """Run recipes one after another and store every record; Ctrl-C returns those measured so far.

    Args:
        recipes: the settings of the runs.
        path: a JSON-lines file; recipes already in it are not run again. Studies may share it.
        on: ``"test"`` or ``"valid"``, see ``measure_run``.
        progress: whether to show a bar over the runs.
    """
    recipes = list(recipes)
    known: dict[tuple[Recipe, str], dict] = {}
    records = []
    try:
        for recipe in Bar(recipes, desc="runs", unit="run", disable=not progress):
            key = replace(recipe, device="auto"), on
            if path is not None and key not in known:  # another study may have added it meanwhile
                known |= {_identity(record): record for record in read_runs(path)}
            if key not in known:
                known[key] = _measure_and_store(recipe, on, path)
            records.append(known[key])
    except KeyboardInterrupt:
        print(f"Stopped: {len(records)} of {len(recipes)} runs are measured.")
    return records


def _measure_and_store(recipe: Recipe, on: str, path: str | Path | None) -> dict:
    if path is not None:
        check_writable(Path(path))
    record = measure_run(recipe, on, progress=False)
    if record["stopped"] == "interrupted":
        raise KeyboardInterrupt
    same = _identity(record)
    return record if path is None else append_run(path, record, lambda r: _identity(r) == same)


def _identity(record: dict) -> tuple[Recipe, str]:
    """What identifies a run: its recipe without the device, and the data it is measured on."""
    try:
        return replace(stored_recipe(record), device="auto"), record["on"]
    except (KeyError, TypeError):
        raise SFFError("the file holds a record that is no run of a recipe") from None
