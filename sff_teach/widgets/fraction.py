"""The data-fraction explorer: how accuracy grows with the number of training images."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import ipywidgets
import numpy as np
from matplotlib.figure import Figure

from .. import draw
from ..study.recipes import Recipe
from ..study.runs import load_for, read_runs, run
from ..study.summary import FASHION, best_rate, runs_matching
from ..training.fit import History, evaluate
from ..util.checks import check_count, check_fraction, check_known, check_seed, explained
from ..util.stats import interval
from .panel import (
    KERNELS,
    RULES,
    SEEDS,
    STYLE,
    TrialsPanel,
    display_box,
    dropdown,
    layout,
    slider,
)

RESULTS = Path(__file__).resolve().parents[2] / "results"
FRACTIONS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
POOL = 10_000  # images of the sample
EPOCHS = {200: 40, 1000: 15, 10_000: 4}  # of the stored study; in between by interpolation
CURVES = {  # what is drawn under the trials: rule → its row in the stored study
    "bp": {"rule": "bp"},
    "bp-goodness": {"rule": "bp-goodness", "cut": "layer", "kernel_size": 3},
    "deepsup": {"rule": "deepsup", "cut": 2, "kernel_size": 3},
    "sff": {"rule": "sff", "cut": 2, "kernel_size": 3},
}


@dataclass(frozen=True)
class FractionResult:
    """One trial: the recipe, its test accuracy (mean of blocks), and the history of ``fit``."""

    recipe: Recipe
    images: int
    blocks: int
    accuracy: float
    history: History

    @property
    def complete(self) -> bool:
        """Whether all epochs ran; a run that was stopped is no trial."""
        return self.history.stopped is None

    def row(self) -> dict[str, object]:
        """The trial as plain values, for a table."""
        recipe = self.recipe
        return {
            "rule": recipe.rule,
            "images": self.images,
            "blocks": self.blocks,
            "head": f"{recipe.kernel_size}×{recipe.kernel_size}" if recipe.rule != "bp" else "–",
            "epochs": recipe.epochs,
            "peak rate": recipe.lr,
            "seed": recipe.seed,
            "test accuracy %": round(100 * self.accuracy, 1),
            "seconds": round(self.history.seconds, 1),
        }


@explained()
def epochs_for(images: int) -> int:
    """Passes over so many images: the stored study's, in between on a log-log line."""
    sizes, epochs = np.log(list(EPOCHS)), np.log(list(EPOCHS.values()))
    return round(float(np.exp(np.interp(np.log(images), sizes, epochs))))


@explained()
@lru_cache
def rate_for(rule: str, blocks: int, images: int, folder: Path = RESULTS) -> float:
    """The peak learning rate that was tuned for the nearest row of the stored study.

    Nearest: the same rule; two blocks for two or fewer, else four; the data size nearest by ratio.
    Without stored runs 0.005.
    """
    size = min(FASHION, key=lambda n: abs(np.log(n / images)))
    cut = 2 if blocks <= 2 else "layer"
    found = []
    for record in read_runs(folder / "fashion_rules_tuning.jsonl"):
        recipe = Recipe(**record["recipe"])
        fits = recipe.rule == rule and recipe.fraction == FASHION[size]
        if fits and (rule.startswith("bp") or recipe.cut == cut):
            found.append(record)
    return best_rate(found) if found else 0.005


@explained()
def stored_curves(folder: Path = RESULTS) -> dict[str, dict[int, list[float]]]:
    """Rule → images → test accuracies of five seeds, as in results/fashion_rules.md; or nothing."""
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
    """Train the four-layer CNN on a share of the Fashion-MNIST sample, and test it.

    Epochs as in the stored study; the learning rate is the one that was tuned on validation images
    for the nearest row of it. The test images are the study's too, so that the points fit its
    curves: look, but choose nothing by them.

    Args:
        fraction: of the 10,000 images, in (0, 1]. rule: one of ``RULES``.
        blocks: 1 to 4, about equal in cost. ``bp`` and ``bp-goodness`` join them into one.
        kernel_size: of the heads. seed: subset, initial weights, order.
        on_epoch, stop: see ``fit``.

    Raises:
        ValueError, TypeError: bad arguments, before anything is trained.
    """
    check_fraction(fraction)
    check_known(rule, RULES, "rule")
    check_count(blocks, "blocks")
    check_seed(seed)
    if blocks > 4:
        raise ValueError(f"blocks={blocks} is more than the 4 layers; give 4 or fewer.")
    images = round(fraction * POOL)
    recipe = Recipe(
        fraction=fraction, validation=0, rule=rule, cut=blocks, kernel_size=kernel_size,
        epochs=epochs_for(images), lr=rate_for(rule, blocks, images), seed=seed,
    )  # fmt: skip
    splits = load_for(recipe)
    model, history = run(
        recipe, splits, validate=False, progress=False, on_epoch=on_epoch, stop=stop
    )
    accuracy = evaluate(model, splits.test).accuracy
    return FractionResult(recipe, len(splits.train), len(model.blocks), accuracy, history)


@explained()
@draw.course_style()
def draw_fraction(
    results: Sequence[FractionResult], curves: Mapping | None = None, history: History | None = None
) -> Figure:
    """Draw test accuracy against training images: stored curves, and the trials on top of them.

    `curves`: of ``stored_curves``, mean and 95 % interval of five seeds. A number beside a mark is
    the trial's. `history`: of a run in progress, named in the title.
    """
    curves = stored_curves() if curves is None else curves
    fig, ax = draw.new_figure(
        draw.WIDTH, 4.2, xlabel="training images", ylabel="test accuracy, % (mean of blocks)"
    )
    labels = []
    for i, (rule, by_size) in enumerate(curves.items()):
        look = draw.rule_style(rule)
        where = np.array(list(by_size)) * 1.03 ** (i - 1.5)
        means, lows, _ = np.array([interval([100 * a for a in v]) for v in by_size.values()]).T
        ax.errorbar(
            where, means, yerr=means - lows, capsize=3, elinewidth=1.2, alpha=0.55, **look.line
        )
        labels.append((where[-1], means[-1], look.label, look.colour))
    numbers = []
    for number, one in enumerate(results, 1):
        look = draw.rule_style(one.recipe.rule)
        y = 100 * one.accuracy
        ax.plot(one.images, y, marker=look.marker, markersize=10, color=look.colour,
                markeredgecolor=draw.INK, linestyle="none")  # fmt: skip
        numbers.append((one.images, y, f"{number}", draw.INK))
    if history is not None and history.rows:
        ax.set_title(f"training: epoch {len(history.rows)} of {history.settings['epochs']}")
    ax.set_xscale("log")
    sizes = [round(f * POOL) for f in FRACTIONS]
    ax.set_xlim(sizes[0] / 1.25, sizes[-1] * 1.25)
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.minorticks_off()
    draw.end_labels(ax, labels)
    draw.number_marks(ax, numbers)
    return fig


@explained()
def describe_fraction(results: Sequence[FractionResult]) -> str:
    """The trials in a sentence each."""
    if not results:
        return "No trial yet."
    return " ".join(
        f"Trial {i}: {draw.rule_style(one.recipe.rule).label} on {one.images:,} images, "
        f"{100 * one.accuracy:.1f} %."
        for i, one in enumerate(results, 1)
    )


class FractionExplorer(TrialsPanel):
    """The widget of ``fraction_explorer``: ``box`` is what is displayed, ``results`` the trials."""

    title = "Trials, on test images: compare, choose nothing by them"

    def __init__(self, results: Sequence[FractionResult] = ()):
        controls = {
            "fraction": ipywidgets.SelectionSlider(
                options=[(f"{100 * f:g} %  ({round(f * POOL):,})", f) for f in FRACTIONS],
                value=0.02,
                description="data",
                continuous_update=False,
                style=STYLE,
                layout=layout(width="360px"),
            ),
            "rule": dropdown("rule", {draw.rule_style(rule).label: rule for rule in RULES}),
            "blocks": slider("blocks", 1, 4, 2),
            "kernel_size": dropdown("head kernel", {f"{k}×{k}": k for k in KERNELS}, 3),
            "seed": dropdown("seed", {str(n): n for n in SEEDS}),
        }
        self.curves = stored_curves()
        super().__init__(controls, [], results, "sff-fraction")

    def run(self, **settings) -> FractionResult:
        """``run_fraction``."""
        return run_fraction(**settings)

    def draw(self, history: History | None = None) -> Figure:
        """``draw_fraction``; a finished run is a trial and needs no title."""
        running = history is not None and all(one.history is not history for one in self.results)
        return draw_fraction(self.results, self.curves, history if running else None)

    def describe(self) -> str:
        """``describe_fraction``."""
        return describe_fraction(self.results)

    def summary(self, result: FractionResult) -> str:
        """Accuracy, and what was chosen for the reader."""
        recipe = result.recipe
        return (
            f"{result.accuracy:.1%} of the test images, with {recipe.epochs} epochs and the tuned "
            f"peak rate {recipe.lr:g}."
        )


def fraction_explorer(results: Sequence[FractionResult] | None = None) -> FractionExplorer:
    """Show stored curves and some trials, then a widget that adds trials with other data sizes.

    `results`: trials to start from; None trains backprop and SFF on 2 % of the images. Returns the
    explorer, whose `results` are all trials so far.
    """
    if results is None:
        results = [run_fraction(rule=rule) for rule in ("bp", "sff")]
    explorer = FractionExplorer(results)
    text, fig = describe_fraction(results), draw_fraction(results)
    explorer.offer(fig)
    draw.show(
        fig,
        alt="Learning curves: test accuracy against training images for backprop, backprop with a "
        f"goodness head, deep supervision and SFF, with single trials as larger marks. {text}",
        caption="Stored curves: mean and 95 % interval of five seeds. Larger marks: single trials. "
        f"{text}",
    )
    display_box(explorer.box)
    return explorer
