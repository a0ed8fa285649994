"""The command line: ``sff-teach doctor | train | compare | data``."""

import sys
import warnings
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from .study.recipes import RECIPES, Recipe, expected, get_recipe
from .training.distributed import LostProcess, torchrun
from .util.checks import check_path, sentence
from .util.files import check_writable


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Print versions, devices and data: what a bug report should contain."""

    def __call__(self) -> None:
        from .data import catalog, data_home
        from .util.doctor import report

        print(report())
        print(f"data     downloads go to {data_home()}")
        for row in catalog():
            if row["present"] is not None:
                print(f"  {row['name']:22s} {'here' if row['present'] else 'not here'}")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be changed about a recipe; None keeps the recipe's own value."""

    data: str | None = None
    fraction: float | None = None
    network: str | None = None
    cut: int | str | None = None
    kernel_size: int | None = None
    epochs: int | None = None
    lr: float | None = None
    device: str | None = None

    def apply(self, recipe: Recipe, **more) -> Recipe:
        """The recipe with the given values in place of its own."""
        changed = {name: value for name, value in asdict(self).items() if value is not None}
        more = {name: value for name, value in more.items() if value is not None}
        return replace(recipe, **changed, **more)


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train one recipe and print its accuracy on the test set, block by block."""

    recipe: Annotated[str, tyro.conf.Positional]
    """One of the names that ``sff-teach train list`` prints."""
    rule: str | None = None
    seed: int | None = None
    out: Path | None = None
    """Append the run, as one JSON line, to this file, unless this very run is there already."""
    checkpoint: Path | None = None
    """Keep the training here after every epoch; the same command goes on from it."""
    pipeline: int | None = None
    """For ``sff``: so many processes share the blocks; the weights stay the same."""
    change: Annotated[Options, tyro.conf.arg(name="")] = field(default_factory=Options)

    def __call__(self) -> None:
        if self.recipe == "list":
            for name, function in RECIPES.items():
                print(f"{name:38s} {function.__doc__.strip().splitlines()[0]}")
                print(f"{'':38s} Expect: {expected(name)}.")
            return
        from .study.runs import append_run, measure_run

        _check_paths(out=self.out, checkpoint=self.checkpoint)
        recipe = self.change.apply(get_recipe(self.recipe), rule=self.rule, seed=self.seed)
        if self.out:
            check_writable(self.out)
        with torchrun(recipe.device) as (device, rank):
            recipe = replace(recipe, device=device)
            record = measure_run(recipe, checkpoint=self.checkpoint, pipeline=self.pipeline)
        if rank:
            return
        for row in record["epochs"]:
            valid = row.get("valid_accuracy")
            shown = f"   validation {valid:6.1%}" if valid is not None else ""
            losses = " ".join(f"{loss:.3f}" for loss in row["train_loss"])
            print(f"epoch {row['epoch']:3d}   loss {losses}{shown}   {row['seconds']:.1f} s")
        blocks = " ".join(f"{100 * a:.1f}" for a in record["block_accuracy"])
        print(
            f"{recipe.rule} on {recipe.data}, {record['images']:,} images: test accuracy "
            f"{record['accuracy']:.1%}\n  by block {blocks} %, mean of blocks "
            f"{record['accuracy_mean']:.1%}, last block {record['accuracy_last']:.1%}"
        )
        print(f"  {record['parameters']:,} parameters, {record['seconds']:.1f} s of training")
        if self.out:
            # A finished training that is started again brings its own rows, seconds and all.
            append_run(
                self.out,
                record,
                lambda run: all(run.get(name) == record[name] for name in ("recipe", "epochs")),
            )


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Train several rules on the same data, seeds and budget: a table, an interval, a picture."""

    recipe: Annotated[str, tyro.conf.Positional] = "fashion-sff"
    rules: tuple[str, ...] = ("bp", "bp-goodness", "deepsup", "sff", "ff")
    fractions: tuple[float, ...] = ()
    """Several shares of the training images, for example 0.02 0.1 1; none for the recipe's own."""
    seeds: int = 5
    out: Path | None = None
    """A JSON-lines file for the runs; those it already holds are not run again."""
    picture: Path | None = None
    """Save the figure here, for example compare.png."""
    change: Annotated[Options, tyro.conf.arg(name="")] = field(default_factory=Options)

    def __call__(self) -> None:
        from .draw.charts import draw_compare, png
        from .rules import get_rule
        from .study.runs import compare, summarise, table

        _check_paths(out=self.out, picture=self.picture)
        for rule in self.rules:
            get_rule(rule)  # a misspelt rule is found now, not after the first hour
        base = self.change.apply(get_recipe(self.recipe))
        if self.picture:
            check_writable(self.picture)
        runs = compare(base, self.rules, fractions=self.fractions, seeds=self.seeds, path=self.out)
        print(table(summarise(runs)))
        if self.picture and runs:
            self.picture.write_bytes(png(draw_compare(runs)))
            print(f"Picture in {self.picture}")


@dataclass(frozen=True, kw_only=True)
class Data:
    """List the data sets: what is here, what could be; or download one by its name."""

    what: Annotated[str, tyro.conf.Positional] = "list"

    def __call__(self) -> None:
        from .data.download import SETS, fetch
        from .data.sets import catalog, data_home
        from .util.checks import check_known

        check_known(self.what, ["list", *SETS], "data command")
        if self.what != "list":
            print(f"{self.what} is in {fetch(self.what, data_home())}")
            return
        for row in catalog():
            count = f"{row['train']:,} + {row['test']:,}" if row["train"] else ""
            here = {True: "here", False: "not here", None: ""}[row["present"]]
            print(f"{row['name']:22s} {count:16s} {row['shape']:10s} {here:10s} {row['licence']}")


def _check_paths(**paths: Path | None) -> None:
    for option, path in paths.items():
        if path is not None:
            check_path(path, option)


def _plain_warning(message, category, filename, lineno, line=None) -> str:
    """The package's own warnings as one sentence; others with their place, as Python shows them."""
    if category is UserWarning and Path(__file__).parent in Path(filename).parents:
        return f"sff-teach: {message}\n"
    return _formatwarning(message, category, filename, lineno, line)


_formatwarning = warnings.formatwarning


def main(args: list[str] | None = None) -> int:
    """Run a command; a bad argument ends in one sentence and exit code 2, Ctrl-C in 130."""
    commands = {
        "doctor": Doctor,
        "train": Train,
        "compare": Compare,
        "data": Data,
    }
    warnings.formatwarning = _plain_warning
    try:
        code = tyro.extras.subcommand_cli_from_dict(commands, args=args, prog="sff-teach")()
    except (ValueError, TypeError, OSError, LostProcess) as error:
        print(f"sff-teach: {sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return code or 0
