"""Studies: the same comparison over rules, data sizes and seeds, kept run by run."""

import json
import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
import torchvision
from scipy import stats
from torch import nn

from . import __version__
from ._checks import check_count, check_flag, check_known, check_path, explained, printable, shown
from ._files import alone, cannot_write, check_writable
from ._progress import tqdm
from .core import SFF
from .data import DataSet, ImageSet, Splits, load
from .distributed import running
from .forward_forward import FFNetwork
from .heads import learn_vote
from .models import NETWORKS
from .recipes import Recipe
from .split import localize
from .train import History, evaluate_votes, fit

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
def build(recipe: Recipe, data: DataSet) -> nn.Module:
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
                f"{printable(path.name)} line {number} is not a run in JSON; delete that "
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
        with alone(path, str(path), wait=60), path.open("a+b", buffering=0) as file:
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
        reason = cannot_write(path, error) if getattr(error, "errno", None) else error
        raise OSError(
            f"{reason} The line above is the run; add it to {path.name} to keep it."
        ) from None
    return record


@explained()
def once(path: str | Path, key: Mapping, make: Callable[[], dict]) -> dict:
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
            f"recipes must be a list of recipes, not {shown(recipes)}; give one."
        ) from None
    for one in recipes:
        if not isinstance(one, Recipe):
            raise TypeError(f"recipes holds {shown(one)}; give what recipes.get_recipe returns.")
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
        raise TypeError(f"base must be a Recipe, not {shown(base)}; see recipes.get_recipe.")
    fractions = (base.fraction,) if fractions is None else fractions
    for name, value in (("rules", rules), ("fractions", fractions)):
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise TypeError(f"{name} must be a list, not {shown(value)}; give one, even of one.")
    check_count(seeds, "seeds", minimum=0, maximum=10_000)
    recipes = [
        replace(base, rule=rule, fraction=fraction, seed=seed)
        for fraction in fractions or (base.fraction,)
        for seed in range(seeds)
        for rule in rules
    ]
    return study(recipes, path, progress=progress)


@dataclass(frozen=True)
class Summary:
    """A rule at one data size: mean of ``accuracy``, its 95 % interval, and against ``bp``.

    ``difference`` is rule minus bp, paired by seed, with its own 95 % interval; None without bp.
    """

    rule: str
    images: int
    n: int
    mean: float
    low: float
    high: float
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    parameters: int
    seconds: float

    @property
    def verdict(self) -> str:
        """In words, what the interval of the difference allows to say."""
        if self.difference is None or math.isnan(self.difference_low):
            return "–"  # nothing to compare with, or one seed
        if self.difference_low > 0:
            return "better than bp"
        if self.difference_high < 0:
            return "worse than bp"
        return "no difference shown"


@explained()
def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % confidence interval by Student's t; NaN bounds for a single value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    error = stats.sem(values)
    if error == 0:
        return mean, mean, mean
    low, high = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=error)
    return mean, float(low), float(high)


@explained()
def summarise(
    records: Iterable[dict],
    figure: str = "accuracy",
    name: Callable[[dict], str] = itemgetter("rule"),
) -> list[Summary]:
    """Group records by data size and rule, in the order met.

    Args:
        records: of ``study``, each rule with the same seeds.
        figure: which number to average.
        name: what to call a record's group, where a rule comes in several variants; the baseline
            of the differences is the group called "bp".
    """
    groups: dict[tuple[int, str], dict[int, dict]] = {}
    for record in records:
        groups.setdefault((record["images"], name(record)), {})[record["seed"]] = record
    summaries = []
    for (images, rule), by_seed in groups.items():
        baseline = groups.get((images, "bp"), {})
        paired = [s for s in by_seed if s in baseline] if rule != "bp" else []
        differences = [by_seed[s][figure] - baseline[s][figure] for s in paired]
        summaries.append(
            Summary(
                rule,
                images,
                len(by_seed),
                *interval([r[figure] for r in by_seed.values()]),
                *(interval(differences) if differences else (None, None, None)),
                parameters=next(iter(by_seed.values()))["parameters"],
                seconds=float(np.median([r["seconds"] for r in by_seed.values()])),
            )
        )
    return summaries


@explained()
def table(summaries: Iterable[Summary]) -> str:
    """The summaries as a Markdown table, accuracies in percent."""
    columns = (
        "images", "rule", "n", "accuracy %", "95 % interval", "minus bp", "95 % interval",
        "parameters", "seconds", "verdict",
    )  # fmt: skip
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for s in summaries:
        minus = (
            f"{100 * s.difference:+.1f} "
            f"| {100 * s.difference_low:+.1f} … {100 * s.difference_high:+.1f}"
            if s.difference is not None
            else "– | –"
        )
        lines.append(
            f"| {s.images:,} | {s.rule} | {s.n} | {100 * s.mean:.1f} "
            f"| {100 * s.low:.1f} … {100 * s.high:.1f} | {minus} | {s.parameters:,} "
            f"| {s.seconds:.1f} | {s.verdict} |"
        )
    return "\n".join(lines)


@explained()
def row_name(rows: Mapping[str, Mapping]) -> Callable[[dict], str]:
    """For ``summarise``: the name of the first row whose settings a record's recipe has.

    Args:
        rows: name → what distinguishes the row, as fields of ``Recipe``.
    """

    @explained()
    def name(record: dict) -> str:
        recipe = Recipe(**record["recipe"])  # older records lack newer fields
        for n, row in rows.items():
            if all(getattr(recipe, k) == v for k, v in row.items()):
                return n
        raise ValueError(f"no row of rows has the settings of {recipe}; add one that has.")

    return name


@explained()
def tables_by_vote(records: Sequence[dict], rows: Mapping[str, Mapping]) -> list[str]:
    """Lines of Markdown: ``table`` for the vote of all blocks, then for the last block's."""
    lines = []
    for vote, who in (("mean", "mean of all blocks"), ("last", "last block")):
        summaries = summarise(records, f"accuracy_{vote}", row_name(rows))
        lines += ["", f"## Prediction by the {who}", "", table(summaries)]
    return lines
