"""The layers explorer: vary the layers and blocks of an SFF CNN."""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import nn

from .. import draw
from ..core import SFF, GoodnessHead, LocalBlock
from ..data import load
from ..models import cnn
from ..training.fit import fit
from ..training.history import History
from ..util.checks import check_count, check_known
from .panel import KERNELS, RULES, SEEDS, TrainingExplorer, columns, dropdown, in_words, slider

WIDTHS, POOL_AFTER = (16, 32, 64, 64, 64, 64), (1, 2, 4)  # a net of L layers has the first L
DATA, IMAGE = "fashion-mnist-sample", (1, 28, 28)
IMAGES = (200, 500, 1000, 3000, 9000)
EPOCHS = (1, 2, 4, 8, 16, 40)


@dataclass(frozen=True)
class LayersResult:
    """One trial: its settings, and its accuracy on the validation images."""

    settings: dict[str, str | int]  # as columns of a table
    shapes: tuple[tuple[int, int, int], ...]  # (C, H, W) of the image and after each layer
    cuts: tuple[int, ...]  # number of layers before each cut
    history: History

    @property
    def block_accuracy(self) -> list[float]:
        """Each block's own accuracy on the validation images after the last epoch, in [0, 1]."""
        return self.history.last["valid_block_accuracy"]

    def row(self) -> dict[str, object]:
        """The trial as plain values, for a table."""
        return {
            "last block %": round(100 * self.block_accuracy[-1], 1),
            "mean of blocks %": round(100 * self.history.last["valid_accuracy"], 1),
            **self.settings,
        }

    def __str__(self) -> str:
        row = self.row()
        blocks = "1 block" if row["blocks"] == 1 else f"{row['blocks']} blocks"
        return (
            f"{row['rule']}, {row['layers']} layers in {blocks}: last block "
            f"{row['last block %']} %, mean of blocks {row['mean of blocks %']} %."
        )


def plan_layers(layers: int, blocks: int) -> tuple[tuple, tuple[int, ...]]:
    """Shapes (C, H, W), the image's first, and the cuts; earlier blocks are the longer ones.

    Args:
        layers: of the network.
        blocks: to cut it into.
    """
    side, shapes = IMAGE[1], [IMAGE]
    for number, channels in enumerate(WIDTHS[:layers], 1):
        side = side // 2 if number in POOL_AFTER else side
        shapes.append((channels, side, side))
    lengths = [layers // blocks + (k < layers % blocks) for k in range(blocks)]
    return tuple(shapes), tuple(int(cut) for cut in np.cumsum(lengths)[:-1])


def run_layers(
    layers: int = 4,
    blocks: int = 4,
    kernel_size: int = 3,
    rule: str = "sff",
    images: int = 1000,
    epochs: int = 4,
    seed: int = 0,
    *,
    on_epoch: Callable[[History], None] | None = None,
    stop: threading.Event | None = None,
) -> LayersResult:
    """Train a plain CNN of some layers cut into some blocks, and validate it.

    AdamW with a peak of 5e-3, one cycle, batches of 64, no augmentation. The test images are not
    used, because a widget is for choosing.

    Args:
        layers: 1 to 6; 16, 32, 64, … channels, max-pool after 1, 2 and 4.
        blocks: 1 to ``layers``, of equal length. ``bp`` and ``bp-goodness`` join them into one.
        kernel_size: of the heads.
        rule: one of ``RULES``.
        images: training images, class-balanced, drawn with ``seed``.
        epochs: passes over them.
        seed: subset, initial weights, order.
        on_epoch: see ``fit``.
        stop: see ``fit``.
    """
    check_known(rule, RULES, "rule")
    pool = len(load(DATA).train)
    check_count(layers, "layers", maximum=len(WIDTHS))
    check_count(blocks, "blocks", maximum=layers)
    check_count(images, "images", maximum=pool)
    settings = columns(
        rule, blocks, kernel_size, layers=layers, images=images, epochs=epochs, seed=seed
    )
    train, valid, _ = load(DATA, images / pool, seed)
    shapes, cuts = plan_layers(layers, blocks)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _build(shapes, cuts, kernel_size, train.num_classes)
        history = fit(
            model, train, valid, rule=rule, epochs=epochs, seed=seed, progress=False,
            on_epoch=on_epoch, stop=stop,
        )  # fmt: skip
    return LayersResult(settings, shapes, cuts if settings["blocks"] > 1 else (), history)


def _build(shapes: tuple, cuts: tuple, kernel_size: int, num_classes: int) -> SFF:
    channels, *widths = (shape[0] for shape in shapes)
    net = list(cnn(channels, widths, [after for after in POOL_AFTER if after <= len(widths)]))
    blocks = []
    for start, end in zip((0, *cuts), (*cuts, len(net)), strict=True):
        head = GoodnessHead(widths[end - 1], num_classes, kernel_size)
        blocks.append(LocalBlock(nn.Sequential(*net[start:end]), head))
    return SFF(blocks)


def starting_results() -> list[LayersResult]:
    """Three trials to start from: backprop, SFF in two blocks and in four; about five seconds."""
    runs = ({"blocks": 1, "rule": "bp"}, {"blocks": 2}, {"blocks": 4})
    return [run_layers(**run) for run in runs]


@draw.course_style()
def draw_layers(results: Sequence[LayersResult], history: History | None = None) -> Figure:
    """Draw one run's loss and accuracy by block, and all trials' accuracy against their blocks.

    Marks are numbered by trial; a line joins trials that differ only in their blocks.

    Args:
        results: the trials.
        history: the run in progress; without it the first two panels show the last trial.
    """
    words = "" if history is None else f"Training goes on. {draw.describe_history(history)} "
    if history is None and results:
        history = results[-1].history
    fig, (loss, depth, trials) = draw.new_figure(
        draw.WIDTH, 3.5, ncols=3, width_ratios=[1, 1, 1.5],
        title=["Training loss", "Accuracy by block, %", "All trials: last block, %"],
        xlabel=["epoch", "block", "blocks in the network"],
        margins={"left": 0.04, "right": 0.99, "bottom": 0.15, "top": 0.91, "wspace": 0.54},
    )  # fmt: skip
    if history is not None and history.rows:
        _draw_run(loss, depth, history)
    _draw_trials(trials, results)
    return draw.with_alt(
        fig,
        f"{words}Three panels: training loss per epoch and accuracy by block of one run, and the "
        f"accuracy of every trial against its number of blocks. {in_words(results)}",
    )


def _draw_run(loss: Axes, depth: Axes, history: History) -> None:
    last, losses = history.rows[-1], [row["train_loss"] for row in history.rows]
    draw.epoch_axis(loss, history.settings["epochs"])  # fixed during training
    labels = draw.block_lines(loss, history, "train_loss")
    loss.set_ylim(0, 1.05 * max(math.log(10), np.max(losses)))  # a guess costs log K
    draw.end_labels(loss, labels)

    colours = draw.block_colours(len(losses[0]), history.rule)
    accuracy = 100 * np.array(last["valid_block_accuracy"])
    places = range(1, len(accuracy) + 1)
    colour = draw.rule_style(history.rule).colour
    depth.plot(places, accuracy, color=colour, linestyle="-", zorder=1)
    for place, height, colour, marker in zip(places, accuracy, colours, draw.BLOCK_MARKERS):
        depth.plot(place, height, color=colour, marker=marker, markersize=7)
    labels = [(len(accuracy), accuracy[-1], f"last {accuracy[-1]:.1f}", colours[-1])]
    if len(accuracy) > 1:
        vote, colour = 100 * last["valid_accuracy"], draw.rule_style("vote").colour
        depth.axhline(vote, color=colour, linestyle=(0, (4, 1.5)), linewidth=1.8)
        labels.append((len(accuracy) + 0.3, vote, f"mean {vote:.1f}", colour))
    depth.set_xlim(0.7, len(accuracy) + 0.3)
    depth.set_ylim(0, 100)  # the same for every run
    depth.set_xticks(places)
    draw.end_labels(depth, labels)


def _draw_trials(ax: Axes, results: Sequence[LayersResult]) -> None:
    lines, numbers = {}, []
    for number, trial in enumerate(results, 1):
        rest = tuple(value for name, value in trial.settings.items() if name != "blocks")
        point = trial.settings["blocks"], 100 * trial.block_accuracy[-1], number
        lines.setdefault(rest, []).append(point)
    looks = [draw.rule_style(rule) for rule in RULES]
    names = [look.label for look in looks]
    for (rule, *_), points in lines.items():
        i = names.index(rule)
        x, y, trial = (list(values) for values in zip(*sorted(points)))
        x = [blocks + 0.07 * (i - 1.5) for blocks in x]  # beside other rules' marks
        ax.plot(x, y, **looks[i].line, linewidth=1.2, markersize=7, alpha=0.9)
        numbers += [(*at, str(n), looks[i].colour) for *at, n in zip(x, y, trial)]
    ax.set_xlim(0.5, len(WIDTHS) + 0.5)
    ax.set_xticks(range(1, len(WIDTHS) + 1))
    if not results:
        ax.set_ylim(0, 100)
        return
    heights = [height for _, height, *_ in numbers]
    # At least ten points high: a difference of one is within the noise of a seed.
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_ylim(5 * (min(heights) // 5 - 1), 5 * (max(heights) // 5 + 2))
    for look in looks:
        if any(rule == look.label for rule, *_ in lines):
            ax.plot([], [], **look.line, linewidth=1.2, markersize=7, label=look.label)
    ax.legend(loc="best")
    draw.number_marks(ax, numbers)


def _draw_network(result: LayersResult, title: str) -> Figure:
    """The trial's network with its cuts and each block's accuracy."""
    image, *shapes = result.shapes
    notes = [f"{100 * accuracy:.0f} %" for accuracy in result.block_accuracy]
    return draw.draw_network(
        shapes, result.cuts, rule=result.history.rule, input_shape=image, notes=notes,
        title=f"{title}: {result.settings['rule']}",
    )  # fmt: skip


def layers_explorer(results: Sequence[LayersResult] | None = None) -> TrainingExplorer:
    """Show some trials, and a widget to add trials with other layers, blocks and rules.

    Args:
        results: trials to start from; None trains ``starting_results``.
    """
    controls = {
        "rule": dropdown("rule", {draw.rule_style(rule).label: rule for rule in RULES}),
        "layers": slider("layers", 2, len(WIDTHS), 4),
        "blocks": slider("blocks", 1, 4, 3),
        "kernel_size": dropdown("head kernel", {f"{k}×{k}": k for k in KERNELS}, 3),
        "images": dropdown("images", {f"{n:,}": n for n in IMAGES}, 1000),
        "epochs": dropdown("epochs", {str(n): n for n in EPOCHS}, 4),
        "seed": dropdown("seed", {str(n): n for n in SEEDS}),
    }
    controls["layers"].observe(
        lambda change: setattr(controls["blocks"], "max", change["new"]), "value"
    )
    explorer = TrainingExplorer(
        controls, run_layers, draw_layers,
        starting_results() if results is None else results,
        title="Trials, on validation images",
        caption="Validation accuracy, one seed per trial; a number is the trial's in the table.",
    )  # fmt: skip
    explorer.draw_network = _draw_network
    return explorer.show()
