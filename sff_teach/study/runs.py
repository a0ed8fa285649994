"""Studies: the same comparison over rules, data sizes and seeds, kept run by run."""

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import nn
from tqdm.auto import tqdm

from ..core import SFF
from ..cut.localize import localize
from ..data.sets import ImageSet, LabelledTensors, Splits, load
from ..forward_forward import FFNetwork
from ..heads import learn_vote
from ..models import NETWORKS
from ..training.distributed import running
from ..training.fit import History, evaluate_votes, fit
from ..util import __version__
from ..util.checks import (
    check_count,
    check_flag,
    check_known,
    check_path,
    escape_unprintable,
    explained,
    short_repr,
)
from ..util.files import check_writable, exclusive_lock, write_error
from .recipes import Recipe

CONTROLS = ("bp", "bp-goodness", "deepsup", "sff")
FIT_OPTIONS = (
    "rule",
    "epochs",
    "batch_size",
    "lr",
    "weight_decay",
    "schedule",
    "label_smoothing",
    "augment",
    "seed",
    "device",
    "precision",
    "channels_last",
    "compile",
)


@lru_cache(maxsize=1)  # runs of a study that follow each other share their images
def _load(name: str, fraction: float, seed: int, validation: float, rgb: bool) -> Splits:
    splits = load(name, fraction, seed, validation=validation)
    if rgb and not isinstance(splits.train, ImageSet):
        raise ValueError(
            f'"{name}" holds no images, and a torchvision network needs them; use '
            'network="mlp3" for a table or "cnn1d" for text.'
        )
    return Splits(*(part.as_rgb() for part in splits)) if rgb else splits


@explained()
def load_for(recipe: Recipe) -> Splits:
    """The recipe's data; grey images with three channels for torchvision's networks."""
    rgb = recipe.network not in NETWORKS
    return _load(recipe.data, recipe.fraction, recipe.seed, recipe.validation, rgb)


@explained()
def quicken_batch_norm(network: nn.Module, momentum: float = 0.1) -> None:
    """Let BatchNorm's running statistics follow at least this fast, for trainings of few steps.

    MobileNetV3 and EfficientNet ask for 0.01, made for a million steps. After a hundred their
    statistics are still mostly the initial ones, and in evaluation mode the network guesses.
    """
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum is not None:
            module.momentum = max(module.momentum, momentum)


@explained()
def build(recipe: Recipe, data: LabelledTensors) -> nn.Module:
    """The untrained network of a recipe, for samples like ``data``; initial weights by its seed."""
    torch.manual_seed(recipe.seed)
    if recipe.network in NETWORKS:
        network = NETWORKS[recipe.network](data.channels, data.size)
    else:
        network = torchvision.models.get_model(recipe.network, num_classes=data.num_classes)
        quicken_batch_norm(network)
    if recipe.rule.startswith("ff"):
        return FFNetwork(network.children(), data.num_classes)
    return localize(
        network,
        data.num_classes,
        cut=recipe.cut,
        kernel_size=recipe.kernel_size,
        filters=recipe.filters,
        hidden=recipe.hidden,
        normalise=recipe.normalise,
        vote=recipe.vote,
        stem=recipe.stem,
        input_shape=(data.channels, *data.size),
    )


def run(
    recipe: Recipe,
    splits: Splits | None = None,
    *,
    model: nn.Module | None = None,
    validate: bool = True,
    **fit_options,
) -> tuple[nn.Module, History]:
    """Load, build, train: the trained network and its history.

    Args:
        recipe: what to do. splits: the data, if it is loaded already.
        model: what to train instead of the recipe's network.
        validate: measure on the validation images after every epoch.
        fit_options: passed to ``fit``: ``progress``, ``on_epoch``, ``stop``, ``checkpoint``,
            ``pipeline``.
    """
    if splits is None:
        splits = load_for(recipe)
    model = build(recipe, splits.train) if model is None else model
    options = {name: getattr(recipe, name) for name in FIT_OPTIONS}
    valid = splits.valid if validate else None
    history = fit(model, splits.train, valid, **options, **fit_options)
    if isinstance(model, SFF) and recipe.vote == "learned":
        learn_vote(model, splits.train)
    return model, history


def measure_run(
    recipe: Recipe, on: str = "test", splits: Splits | None = None, **run_options
) -> dict:
    """One run as one flat record: recipe, accuracies, history, machine.

    Args:
        recipe: what to run.
        on: ``"test"``, or ``"valid"`` when the record will be used to choose something.
        splits: the data, if it is not what the recipe names.
        run_options: passed to ``run``: ``model``, ``progress``, ``on_epoch``, ``stop``.

    Returns:
        A dict ready for JSON. ``accuracy`` is by the network's own vote, ``accuracy_mean`` and
        ``accuracy_last`` by both; ``peak_bytes`` see ``peak_memory``.
    """
    check_known(on, ("test", "valid"), "part of the data")
    splits = load_for(recipe) if splits is None else splits
    if not len(getattr(splits, on)):
        raise ValueError(
            f'on="{on}" has no images in this recipe; give validation=0.1, or on="test".'
        )
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    model, history = run(recipe, splits, validate=on == "test", **run_options)
    own, mean, last = evaluate_votes(model, getattr(splits, on), (None, "mean", "last"))
    record = _rounded(
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
    return record | {"recipe": asdict(recipe)}  # in full: by its values a stored run is found again


def peak_memory(device: torch.device) -> int | None:
    """Most bytes held at a time: on a GPU by tensors since the run began, on a processor by the
    whole process since it began; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _rounded(value):
    """The same with six decimals, more than any of these numbers deserves."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return round(value, 6) if isinstance(value, float) else value


def machine() -> dict:
    """Versions, processor and revision that a result was measured with."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
        revision = done.stdout.strip() or "unknown"
    except (OSError, subprocess.SubprocessError):
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
        "processes": torch.distributed.get_world_size() if running() else 1,
        "revision": revision,
    }


@explained()
def read_runs(path: str | Path) -> list[dict]:
    """The records of a JSON-lines file, oldest first; none if there is no such file.

    A last line that a killed study left half-written is passed over.

    Raises:
        ValueError: another line is damaged.
    """
    check_path(path)
    path = Path(path)
    if not path.exists():
        return []
    records = []
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, 1):
        record = _record(line)
        if record is not None:
            records.append(record)
        elif number < len(lines):
            raise ValueError(
                f"{escape_unprintable(path.name)} line {number} is not a run in JSON; delete that "
                "line to go on."
            )
    return records


def _record(line: bytes) -> dict | None:
    """The record of a line; None of a half-written one, for no part of an object is JSON."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


@explained()
def append_run(path: str | Path, record: dict, same: Callable[[dict], bool] | None = None) -> dict:
    """Add one record to a JSON-lines file, on disk before this returns.

    A half line that a killed process left there is removed. Several processes may add to one file.

    Args:
        path: of the file. record: to add.
        same: whether a record is this run already; the first such one in the file is returned, and
            nothing is added.

    Returns:
        The record that is in the file.

    Raises:
        OSError: it could not be written. The line is printed then, so that the run is not lost.
    """
    check_path(path)
    path = Path(path)
    line = json.dumps(record).encode() + b"\n"
    try:
        check_writable(path)
        with exclusive_lock(path, str(path), wait=60), path.open("a+b", buffering=0) as file:
            known = read_runs(path) if same is not None else []
            for stored in known:
                if same(stored):
                    return stored
            end = path.read_bytes().rsplit(b"\n", 1)[-1]
            if end and _record(end) is not None:  # whole, only its newline is missing
                line = b"\n" + line
            elif end:
                file.truncate(file.tell() - len(end))
            begin = file.seek(0, os.SEEK_END)
            try:
                left = memoryview(line)
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(begin)
                raise
    except (OSError, ValueError) as error:
        print(json.dumps(record))
        reason = write_error(path, error) if getattr(error, "errno", None) else error
        raise OSError(
            f"{reason} The line above is the run; add it to {path.name} to keep it."
        ) from None
    return record


@explained()
def cached_run(path: str | Path, key: Mapping, make: Callable[[], dict]) -> dict:
    """The stored record whose fields have the values of ``key``; without one, make it and store it.

    For studies whose runs are more than a recipe; see ``study`` for the others.
    """

    def fits(record: dict) -> bool:
        return all(record.get(name) == value for name, value in key.items())

    for record in read_runs(path):
        if fits(record):
            return record
    check_writable(path)
    return append_run(path, {**key, **_rounded(make()), **key}, fits)


def study(
    recipes: Iterable[Recipe],
    path: str | Path | None = None,
    *,
    on: str = "test",
    progress: bool = True,
) -> list[dict]:
    """Run recipes one after another and keep every record.

    Args:
        recipes: what to run.
        path: a JSON-lines file; recipes already in it are not run again, so that a study that was
            killed goes on where it was. Several studies may share it.
        on: ``"test"`` or ``"valid"``, see ``measure_run``.
        progress: show a bar over the runs.

    Returns:
        The records of these recipes. Ctrl-C returns those measured so far.

    Raises:
        OSError: the file cannot be written, said before anything is run; or its disk is full.
    """
    try:
        recipes = list(recipes)
    except TypeError:
        raise TypeError(
            f"recipes must be a list of recipes, not {short_repr(recipes)}; give one."
        ) from None
    for one in recipes:
        if not isinstance(one, Recipe):
            raise TypeError(
                f"recipes holds {short_repr(one)}; give what recipes.get_recipe returns."
            )
    check_flag(progress=progress)
    known: dict[tuple[Recipe, str], dict] = {}
    records = []
    try:
        for recipe in tqdm(recipes, desc="runs", unit="run", disable=not progress):
            key = _key(recipe, on)
            if path and key not in known:  # another study may have added to it meanwhile
                known |= {_record_key(record): record for record in read_runs(path)}
            if key not in known:
                if path:
                    check_writable(path)
                record = measure_run(recipe, on, progress=False)
                if record["stopped"] == "interrupted":
                    raise KeyboardInterrupt
                if path:
                    record = append_run(path, record, lambda r, key=key: _record_key(r) == key)
                known[key] = record
            records.append(known[key])
    except KeyboardInterrupt:
        print(f"Stopped: {len(records)} of {len(recipes)} runs are measured.")
    return records


def _key(recipe: Recipe, on: str) -> tuple[Recipe, str]:
    """What makes two runs the same run; where it ran does not count."""
    return replace(recipe, device="any"), on


def _record_key(record: dict) -> tuple[Recipe, str]:
    try:
        return _key(Recipe(**record["recipe"]), record["on"])
    except (KeyError, TypeError):
        raise ValueError(
            "the file holds a record that is no run of a recipe; give another file for the runs."
        ) from None


def compare(
    base: Recipe,
    rules: Sequence[str] = CONTROLS,
    *,
    fractions: Sequence[float] | None = None,
    seeds: int = 5,
    path: str | Path | None = None,
    progress: bool = True,
) -> list[dict]:
    """Train every rule on the same data, seeds and budget; see ``study`` and ``summarise``.

    Args:
        base: the recipe; its rule and seed are replaced.
        rules: names. fractions: of the training images; None for the recipe's own.
        seeds: how many, from 0. path, progress: see ``study``.
    """
    if not isinstance(base, Recipe):
        raise TypeError(f"base must be a Recipe, not {short_repr(base)}; see recipes.get_recipe.")
    fractions = (base.fraction,) if fractions is None else fractions
    for name, value in (("rules", rules), ("fractions", fractions)):
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise TypeError(
                f"{name} must be a list, not {short_repr(value)}; give one, even of one."
            )
    check_count(seeds, "seeds", minimum=0, maximum=10_000)
    recipes = [
        replace(base, rule=rule, fraction=fraction, seed=seed)
        for fraction in fractions or (base.fraction,)
        for seed in range(seeds)
        for rule in rules
    ]
    return study(recipes, path, progress=progress)
