"""The data-fraction explorer: how accuracy grows with the number of training images."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ipywidgets
import numpy as np
from matplotlib.figure import Figure

from .. import draw
from ..study.recipes import Recipe
from ..study.runs import load_for, run
from ..study.summary import FASHION, runs_matching
from ..training.evaluation import evaluate
from ..training.history import History
from ..util.checks import check_known
from ..util.stats import interval
from .panel import (
    KERNELS,
    RULES,
    SEEDS,
    STYLE,
    TrainingExplorer,
    columns,
    dropdown,
    in_words,
    slider,
)

FRACTIONS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
POOL = 10_000  # images of the sample
EPOCHS = (40, 15, 4)  # of the stored study, at 200, 1,000 and 10,000 images
# Peak learning rates that the stored study found there, for two and for four blocks.
RATES = {
    ("bp", 2): (0.005, 0.005, 0.03),
    ("bp", 4): (0.005, 0.005, 0.03),
    ("bp-goodness", 2): (0.0125, 0.005, 0.005),
    ("bp-goodness", 4): (0.0125, 0.005, 0.005),
    ("deepsup", 2): (0.002, 0.005, 0.005),
    ("deepsup", 4): (0.005, 0.005, 0.03),
    ("sff", 2): (0.03, 0.002, 0.0125),
    ("sff", 4): (0.0125, 0.0125, 0.07),
}
CURVES = {  # stored curves: rule → its row in the study
    "bp": {"rule": "bp"},
    "bp-goodness": {"rule": "bp-goodness", "cut": "layer", "kernel_size": 3},
    "deepsup": {"rule": "deepsup", "cut": 2, "kernel_size": 3},
    "sff": {"rule": "sff", "cut": 2, "kernel_size": 3},
}


@dataclass(frozen=True)
class FractionResult:
    """One trial."""

    recipe: Recipe
    images: int  # of the training
    accuracy: float  # on the test images, by the mean of blocks, in [0, 1]
    history: History

    def row(self) -> dict[str, object]:
        """The trial as plain values, for a table."""
        r = self.recipe
        settings = columns(r.rule, r.cut, r.kernel_size, fraction=r.fraction, seed=r.seed)
        return {
            "test accuracy %": round(100 * self.accuracy, 1),
            "images": self.images,
            **settings,
            "epochs": r.epochs,
            "peak rate": r.lr,
        }

    def __str__(self) -> str:
        return (
            f"{draw.rule_style(self.recipe.rule).label} on {self.images:,} images: "
            f"{100 * self.accuracy:.1f} % of the test images."
        )


def stored_curves(folder: Path) -> dict[str, dict[int, list[float]]]:
    """Rule → images → test accuracies of five seeds, from stored runs."""
    curves: dict[str, dict[int, list[float]]] = {}
    for rule, row in CURVES.items():
        for images, fraction in FASHION.items():
            runs = runs_matching(folder, "fashion_rules", row, fraction=fraction)
            if runs:
                accuracies = [run["accuracy_mean"] for run in runs.values()]
                curves.setdefault(rule, {})[images] = accuracies
    return curves


def run_fraction(
    fraction: float = 0.02,
    rule: str = "sff",
    blocks: int = 2,
    kernel_size: int = 3,
    seed: int = 0,
    *,
    on_epoch: Callable[[History], None] | None = None,
    stop: threading.Event | None = None,
) -> FractionResult:
    """Train the four-layer CNN on a fraction of the Fashion-MNIST sample, and test it.

    Epochs, learning rate and test images are those of the stored study at the nearest size.

    Args:
        fraction: of the 10,000 images, in (0, 1].
        rule: one of ``RULES``.
        blocks: 1 to 4, about equal in cost. ``bp`` and ``bp-goodness`` join them into one.
        kernel_size: of the heads.
        seed: subset, initial weights, order.
        on_epoch: see ``fit``.
        stop: see ``fit``.
    """
    check_known(rule, RULES, "rule")
    sizes = list(FASHION)  # of the stored study
    nearest = min(range(len(sizes)), key=lambda i: abs(np.log(sizes[i] / (fraction * POOL))))
    recipe = Recipe(
        fraction=fraction, validation=0, rule=rule, cut=blocks, kernel_size=kernel_size,
        epochs=EPOCHS[nearest], lr=RATES[rule, 2 if blocks <= 2 else 4][nearest], seed=seed,
    )  # fmt: skip
    splits = load_for(recipe)
    model, history = run(
        recipe, splits, validate=False, progress=False, on_epoch=on_epoch, stop=stop
    )
    accuracy = evaluate(model, splits.test).accuracy if history.stopped is None else float("nan")
    return FractionResult(recipe, len(splits.train), accuracy, history)


@draw.course_style()
def draw_fraction(
    results: Sequence[FractionResult],
    history: History | None = None,
    curves: Mapping[str, Mapping[int, Sequence[float]]] | None = None,
) -> Figure:
    """Draw test accuracy against training images: stored curves and trials.

    Args:
        results: the trials, numbered.
        history: of a run in progress, named in the title.
        curves: of ``stored_curves``, drawn as mean and 95 % interval of the seeds.
    """
    fig, ax = draw.new_figure(
        draw.WIDTH, 4.2, xlabel="training images", ylabel="test accuracy, % (mean of blocks)"
    )
    labels = []
    for i, (rule, by_size) in enumerate((curves or {}).items()):
        look = draw.rule_style(rule)
        where = np.array(list(by_size)) * 1.03 ** (i - 1.5)
        means, lows, _ = np.array([interval([100 * a for a in v]) for v in by_size.values()]).T
        ax.errorbar(
            where, means, yerr=means - lows, capsize=3, elinewidth=1.2, alpha=0.55, **look.line
        )
        labels.append((where[-1], means[-1], look.label, look.colour))
    numbers = []
    for number, trial in enumerate(results, 1):
        look = draw.rule_style(trial.recipe.rule)
        point = trial.images, 100 * trial.accuracy
        ax.plot(*point, marker=look.marker, markersize=10, color=look.colour,
                markeredgecolor=draw.INK, linestyle="none")  # fmt: skip
        numbers.append((*point, f"{number}", draw.INK))
    if history is not None and history.rows:
        ax.set_title(f"training: epoch {len(history.rows)} of {history.settings['epochs']}")
    ax.set_xscale("log")
    sizes = [round(f * POOL) for f in FRACTIONS]
    ax.set_xlim(sizes[0] / 1.25, sizes[-1] * 1.25)
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.minorticks_off()
    lowest = min((100 * trial.accuracy for trial in results), default=100)
    ax.set_ylim(min(50, 10 * (lowest // 10)), 100)  # the same for most trials
    draw.end_labels(ax, labels)
    draw.number_marks(ax, numbers)
    stored = ", ".join(label for _, _, label, _ in labels) or "none"
    return draw.with_alt(
        fig, f"Test accuracy against training images; stored curves: {stored}. {in_words(results)}"
    )


def fraction_explorer(
    results: Sequence[FractionResult] | None = None, *, folder: str | Path | None = None
) -> TrainingExplorer:
    """Show some trials, and a widget to add trials with other data sizes.

    Args:
        results: trials to start from; None trains backprop and SFF on 2 % of the images.
        folder: of stored runs, whose curves are drawn under the trials.
    """
    if results is None:
        results = [run_fraction(rule=rule) for rule in ("bp", "sff")]
    curves = None if folder is None else stored_curves(Path(folder))
    controls = {
        "fraction": ipywidgets.SelectionSlider(
            options=[(f"{100 * f:g} % ({round(f * POOL):,})", f) for f in FRACTIONS], value=0.05,
            description="data", style=STYLE, layout=ipywidgets.Layout(width="380px"),
        ),
        "rule": dropdown("rule", {draw.rule_style(rule).label: rule for rule in RULES}),
        "blocks": slider("blocks", 1, 4, 2),
        "kernel_size": dropdown("head kernel", {f"{k}×{k}": k for k in KERNELS}, 3),
        "seed": dropdown("seed", {str(n): n for n in SEEDS}),
    }  # fmt: skip
    return TrainingExplorer(
        controls, run_fraction, lambda trials, history: draw_fraction(trials, history, curves),
        results, title="Trials, on test images: compare, choose nothing by them",
        caption="Large marks: single trials. Curves: mean and 95 % interval of five stored seeds.",
    ).show()  # fmt: skip
