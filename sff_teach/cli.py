"""The command line: ``sff-teach train | compare | data | doctor``.

No import of torch happens before a command runs, so that ``--help`` is fast.
"""

import sys
import warnings
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated

USAGE = """\
usage: sff-teach COMMAND [-h] [OPTIONS]

  train RECIPE     train one recipe, and print its test accuracy block by block
  train list       list the recipes, and what to expect where it was measured
  compare RECIPE   train several rules on the same data, seeds and budget
  data [NAME]      list the data sets, or download one
  doctor           print versions, devices and data: what a bug report should contain

sff-teach train RECIPE --help lists all settings with the recipe's own values."""


def train(args: list[str]) -> None:
    """Train one recipe and print its accuracy on the test set, block by block."""
    import tyro

    from .study.recipes import RECIPES, Recipe, expected
    from .study.runs import measure_run
    from .study.store import append_run
    from .training.distributed import torchrun
    from .util.files import check_writable

    if args[:1] == ["list"]:
        for name, named in RECIPES.items():
            print(f"{name:27s} {named.about}. {expected(name)}".rstrip())
        return

    @dataclass(frozen=True, kw_only=True)
    class Train:
        """Train one recipe and print its accuracy on the test set, block by block."""

        recipe: Annotated[Recipe, tyro.conf.arg(name="")]
        out: Path | None = None
        """Append the run, as one JSON line, to this file, unless this very run is there already."""
        checkpoint: Path | None = None
        """Write a checkpoint to this file after every epoch; the same command resumes from it."""
        pipeline: int | None = None
        """For ``sff``: the number of processes that share the blocks; the weights stay the same."""

    name, base, rest = _named_recipe(args)
    task = tyro.cli(Train, default=Train(recipe=base), args=rest, prog=f"sff-teach train {name}")
    if task.out:
        check_writable(task.out)
    with torchrun(task.recipe.device) as (device, rank):
        recipe = replace(task.recipe, device=device)
        record = measure_run(recipe, checkpoint=task.checkpoint, pipeline=task.pipeline)
    if rank:
        return
    _print_run(record)
    if task.out:
        # A training resumed after its end has the same epochs, their seconds included.
        same = ("recipe", "epochs")
        append_run(task.out, record, lambda run: all(run.get(k) == record[k] for k in same))


def compare(args: list[str]) -> None:
    """Train several rules on the same data, seeds and budget, and print a table."""
    import tyro

    from .draw import draw_compare, png
    from .rules import get_rule
    from .study.recipes import Recipe
    from .study.runs import study
    from .study.summary import summarise, table
    from .util.files import check_writable

    @dataclass(frozen=True, kw_only=True)
    class Compare:
        """Train several rules on the same data, seeds and budget."""

        recipe: Annotated[Recipe, tyro.conf.arg(name="")]
        rules: tuple[str, ...] = ("bp", "bp-goodness", "deepsup", "sff", "ff")
        fractions: tuple[float, ...] = ()
        """Several shares of the training images, for example 0.02 0.1 1; none for the recipe's."""
        seeds: int = 5
        out: Path | None = None
        """A JSON-lines file for the runs; those it already holds are not run again."""
        picture: Path | None = None
        """Save the figure here, for example compare.png."""

    name, base, rest = _named_recipe(args)
    default = Compare(recipe=base)
    task = tyro.cli(Compare, default=default, args=rest, prog=f"sff-teach compare {name}")
    for rule in task.rules:
        get_rule(rule)  # find a misspelt rule before the first training
    if task.picture:
        check_writable(task.picture)
    cases = product(task.fractions or (task.recipe.fraction,), range(task.seeds), task.rules)
    recipes = [replace(task.recipe, fraction=f, seed=seed, rule=r) for f, seed, r in cases]
    records = study(recipes, task.out)
    print(table(summarise(records)))
    if task.picture and records:
        task.picture.write_bytes(png(draw_compare(records)))
        print(f"Picture in {task.picture}")


def data(args: list[str]) -> None:
    """List the data sets, or download one by its name."""
    from .data import catalog, data_home
    from .data.download import SETS, fetch
    from .util.checks import check_known

    name = " ".join(args) or "list"
    check_known(name, ["list", *SETS], "data command")
    if name != "list":
        print(f"{name} is in {fetch(name, data_home())}")
        return
    for row in catalog():
        count = f"{row['train']:,} + {row['test']:,}" if row["train"] else ""
        here = {True: "here", False: "not here", None: ""}[row["present"]]
        print(f"{row['name']:22s} {count:16s} {row['shape']:10s} {here:10s} {row['licence']}")


def doctor(args: list[str]) -> None:
    """Print versions, devices and data: what a bug report should contain."""
    from .data import catalog, data_home
    from .util.doctor import report

    print(report())
    print(f"data     downloads go to {data_home()}")
    for row in catalog():
        if row["present"] is not None:
            print(f"  {row['name']:22s} {'here' if row['present'] else 'not here'}")


COMMANDS = {"train": train, "compare": compare, "data": data, "doctor": doctor}


def _named_recipe(args: list[str]) -> tuple[str, object, list[str]]:
    """The recipe's name, the recipe with the rule in ``args``, and the remaining arguments."""
    from .study.recipes import get_recipe

    name, rest = ("fashion", args) if not args or args[0].startswith("-") else (args[0], args[1:])
    words = " ".join(rest).replace("=", " ").split()
    rules = [value for option, value in zip(words, words[1:]) if option == "--rule"]
    return name, get_recipe(name, *rules[-1:]), rest


def _print_run(record: dict) -> None:
    for row in record["epochs"]:
        valid = row.get("valid_accuracy")
        validation = f"   validation {valid:6.1%}" if valid is not None else ""
        losses = " ".join(f"{loss:.3f}" for loss in row["train_loss"])
        print(f"epoch {row['epoch']:3d}   loss {losses}{validation}   {row['seconds']:.1f} s")
    blocks = " ".join(f"{100 * a:.1f}" for a in record["block_accuracy"])
    print(
        f"{record['rule']} on {record['recipe']['data']}, {record['images']:,} images: test "
        f"accuracy {record['accuracy']:.1%}\n  by block {blocks} %, mean of blocks "
        f"{record['accuracy_mean']:.1%}, last block {record['accuracy_last']:.1%}"
    )
    print(f"  {record['parameters']:,} parameters, {record['seconds']:.1f} s of training")


def _plain_warning(message, category, filename, lineno, line=None) -> str:
    """The package's own warnings as one sentence; others as Python formats them."""
    if category is UserWarning and Path(__file__).parent in Path(filename).parents:
        return f"sff-teach: {message}\n"
    return _formatwarning(message, category, filename, lineno, line)


_formatwarning = warnings.formatwarning


def main(args: list[str] | None = None) -> int:
    """Run a command; return 0, 2 after an error, which is printed in one sentence, or 130."""
    name, *rest = (sys.argv[1:] if args is None else args) or ["--help"]
    help_wanted = not {"-h", "--help"}.isdisjoint([name, *rest])
    if help_wanted and name not in ("train", "compare"):  # those two show all their settings
        print(USAGE)
        return 0
    from .training.distributed import LostProcess
    from .util.checks import check_known, exit_code

    def command() -> None:
        check_known(name, COMMANDS, "command")
        COMMANDS[name](rest)

    warnings.formatwarning = _plain_warning
    return exit_code("sff-teach", command, LostProcess)
