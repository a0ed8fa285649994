"""The layers explorer: vary the layers and blocks of an SFF CNN."""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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
from ..training.fit import History, fit
from ..util.checks import SFFError, check_count, check_known
from .panel import KERNELS, RULES, SEEDS, TrainingExplorer, dropdown, in_words, slider

WIDTHS, POOL_AFTER = (16, 32, 64, 64, 64, 64), (1, 2, 4)  # a net of L layers has the first L
LAYERS = (2, 3, 4, 5, 6)
IMAGES = (200, 500, 1000, 3000, 9000)
EPOCHS = (1, 2, 4, 8, 16, 40)
JUDGES = {"last": "last block", "mean": "mean of blocks"}


@dataclass(frozen=True)
class LayersResult:
    """One trial: what was trained, and what it reached on the validation images.

    Attributes:
        rule: see ``RULES``.
        layers: of the network.
        blocks: 1 for ``bp`` and ``bp-goodness``, which join them.
        kernel_size: of the heads.
        images: training images.
        epochs: passes over them.
        seed: of the run.
        shapes: (C, H, W) of the image and after each layer.
        cuts: layers in front of each cut.
        history: of ``fit``.
    """

    rule: str
    layers: int
    blocks: int
    kernel_size: int
    images: int
    epochs: int
    seed: int
    shapes: tuple[tuple[int, int, int], ...]
    cuts: tuple[int, ...]
    history: History

    @property
    def block_accuracy(self) -> list[float]:
        """Each block's own accuracy on the validation images after the last epoch, in [0, 1]."""
        return self.history.last["valid_block_accuracy"]

    def accuracy(self, judge: str = "last") -> float:
        """Validation accuracy of the ``"last"`` block or of the ``"mean"`` of blocks, in [0, 1]."""
        return self.block_accuracy[-1] if judge == "last" else self.history.last["valid_accuracy"]

    def row(self) -> dict[str, object]:
        """The trial as plain values, for a table."""
        return {
            "last block %": round(100 * self.accuracy("last"), 1),
            "mean of blocks %": round(100 * self.accuracy("mean"), 1),
            "rule": draw.rule_style(self.rule).label,
            "layers": self.layers,
            "blocks": self.blocks,
            "head": f"{self.kernel_size}×{self.kernel_size}" if self.rule != "bp" else "linear",
            "images": self.images,
            "epochs": self.epochs,
            "seed": self.seed,
            "seconds": round(self.history.seconds, 1),
            "blocks %": " ".join(f"{100 * a:.1f}" for a in self.block_accuracy),
        }

    def __str__(self) -> str:
        blocks = "1 block" if self.blocks == 1 else f"{self.blocks} blocks"
        return (
            f"{draw.rule_style(self.rule).label}, {self.layers} layers in {blocks}: last block "
            f"{100 * self.accuracy():.1f} %, mean of blocks {100 * self.accuracy('mean'):.1f} %."
        )


def plan_layers(
    layers: int, blocks: int, channels: int = 1, size: tuple[int, int] = (28, 28)
) -> tuple[tuple[tuple[int, int, int], ...], tuple[int, ...]]:
    """Shapes (C, H, W), the image's first, and the cuts that make blocks of equal length.

    Where the layers cannot be shared out equally, the earlier blocks get one more.

    Args:
        layers: of the network.
        blocks: to cut it into.
        channels: of the image.
        size: (H, W) of the image.
    """
    height, width = size
    shapes = [(channels, height, width)]
    for number in range(1, layers + 1):
        if number in POOL_AFTER:
            height, width = height // 2, width // 2
        shapes.append((WIDTHS[number - 1], height, width))
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
    data: str = "fashion-mnist-sample",
    on_epoch: Callable[[History], None] | None = None,
    stop: threading.Event | None = None,
) -> LayersResult:
    """Train a plain CNN of some layers cut into some blocks, and validate it.

    AdamW with a peak of 5e-3, one cycle, batches of 64, no augmentation. The test images are not
    touched: a widget is for choosing, and nothing may be chosen on them. The caller's random state
    is left as it is.

    Args:
        layers: 1 to 6; 16, 32, 64, … channels, max-pool after 1, 2 and 4.
        blocks: 1 to ``layers``, of equal length. ``bp`` and ``bp-goodness`` join them into one.
        kernel_size: of the heads.
        rule: one of ``RULES``.
        images: training images, class-balanced, drawn with ``seed``.
        epochs: passes over them.
        seed: subset, initial weights, order.
        data: a name for ``data.load``.
        on_epoch: see ``fit``.
        stop: see ``fit``.

    Raises:
        SFFError: a wrong value, before anything is trained.
        TypeError: a value of the wrong kind.
    """
    check_known(rule, RULES, "rule")
    for name, value in (("layers", layers), ("blocks", blocks), ("images", images)):
        check_count(value, name)
    pool = len(load(data).train)
    for name, value, most in (
        ("layers", layers, len(WIDTHS)),
        ("blocks", blocks, layers),
        ("images", images, pool),
    ):
        if value > most:
            raise SFFError(f"{name}={value} is more than {most:,}")
    train, valid, _ = load(data, images / pool, seed)
    shapes, cuts = plan_layers(layers, blocks, train.channels, train.size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _build(shapes, cuts, kernel_size, train.num_classes)
        history = fit(
            model, train, valid, rule=rule, epochs=epochs, seed=seed, progress=False,
            on_epoch=on_epoch, stop=stop,
        )  # fmt: skip
    blocks = len(model.blocks)
    cuts = cuts if blocks > 1 else ()
    return LayersResult(
        rule, layers, blocks, kernel_size, len(train), epochs, seed, shapes, cuts, history
    )


def _build(shapes: tuple, cuts: tuple, kernel_size: int, num_classes: int) -> SFF:
    channels, *widths = (shape[0] for shape in shapes)
    net = list(cnn(channels, widths, [after for after in POOL_AFTER if after <= len(widths)]))
    blocks = []
    for start, end in zip((0, *cuts), (*cuts, len(net)), strict=True):
        head = GoodnessHead(widths[end - 1], num_classes, kernel_size)
        blocks.append(LocalBlock(nn.Sequential(*net[start:end]), head))
    return SFF(blocks)


def starting_results(**settings: Any) -> list[LayersResult]:
    """Three trials to start from: backprop, SFF in two blocks and in four; about five seconds."""
    runs = ({"blocks": 1, "rule": "bp"}, {"blocks": 2}, {"blocks": 4})
    return [run_layers(**(run | settings)) for run in runs]


@draw.course_style()
def draw_layers(
    results: Sequence[LayersResult], history: History | None = None, *, judge: str = "last"
) -> Figure:
    """Draw one run's loss and accuracy by block, and all trials' accuracy against their blocks.

    A number beside a mark is the trial's; a line joins trials that differ in their blocks alone.

    Args:
        results: the trials.
        history: the run in progress; without it the first two panels show the last trial.
        judge: by which prediction trials are compared, see ``LayersResult.accuracy``.
    """
    running = history is not None
    if history is None and results:
        history = results[-1].history
    fig, (loss, depth, trials) = draw.new_figure(
        draw.WIDTH, 3.5, ncols=3, width_ratios=[1, 1, 1.5],
        title=["Training loss", "Accuracy by block, %", f"All trials: {JUDGES[judge]}, %"],
        xlabel=["epoch", "block", "blocks in the network"],
    )  # fmt: skip
    if history is not None and history.rows:
        _draw_run(loss, depth, history)
    else:
        _say_empty(loss, "no run yet")
        _say_empty(depth, "no run yet")
    _draw_trials(trials, results, judge)
    words = f"Training goes on. {draw.describe_history(history)} " if running else ""
    return draw.with_alt(
        fig,
        f"{words}Three panels: training loss per epoch and accuracy by block of one run, and the "
        f"accuracy of every trial against its number of blocks. {in_words(results)}",
    )


def _draw_run(loss: Axes, depth: Axes, history: History) -> None:
    rows = history.rows
    losses = np.array([row["train_loss"] for row in rows], dtype=float)  # (epochs, blocks)
    epoch = [row["epoch"] for row in rows]
    colours, labels = draw.block_colours(losses.shape[1]), []
    for k, colour in enumerate(colours):
        marker = draw.BLOCK_MARKERS[k]
        every = {"markevery": max(1, len(epoch) // 8)}
        loss.plot(epoch, losses[:, k], color=colour, marker=marker, linestyle="-", **every)
        if len(colours) > 1:
            labels.append((epoch[-1], losses[-1, k], f"block {k + 1}", colour))
    last = max(epoch[-1], history.settings["epochs"], 2)  # the axis stays while training goes on
    loss.set_xlim(1 - 0.04 * last, last * 1.04)
    loss.set_ylim(0, 1.05 * max(math.log(10), losses.max()))  # a guess costs log K
    loss.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5, min_n_ticks=1))
    draw.end_labels(loss, labels)

    measured = [row for row in rows if "valid_block_accuracy" in row]
    accuracy = 100 * np.array(
        measured[-1]["valid_block_accuracy"] if measured else rows[-1]["train_accuracy"]
    )
    place = range(1, len(accuracy) + 1)
    depth.plot(place, accuracy, color=draw.OKABE_ITO["blue"], linestyle="-", zorder=1)
    for k, colour in enumerate(colours):
        marker = draw.BLOCK_MARKERS[k]
        depth.plot(k + 1, accuracy[k], color=colour, marker=marker, markersize=7)
    labels = [(len(accuracy), accuracy[-1], f"last {accuracy[-1]:.1f}", colours[-1])]
    if measured and len(accuracy) > 1:
        vote, red = 100 * measured[-1]["valid_accuracy"], draw.OKABE_ITO["vermillion"]
        depth.axhline(vote, color=red, linestyle=(0, (4, 1.5)), linewidth=1.8)
        labels.append((len(accuracy) + 0.3, vote, f"mean {vote:.1f}", red))
    depth.set_xlim(0.7, len(accuracy) + 0.3)
    depth.set_ylim(0, 100)  # the same for every run
    depth.set_xticks(place)
    if not measured:
        depth.set_title("In training, by block, %")
    draw.end_labels(depth, labels)


def _draw_trials(ax: Axes, results: Sequence[LayersResult], judge: str) -> None:
    lines, shown, numbers = {}, set(), []
    for number, one in enumerate(results, 1):
        rest = (one.rule, one.layers, one.kernel_size, one.images, one.epochs, one.seed)
        lines.setdefault(rest, []).append((one.blocks, 100 * one.accuracy(judge), number))
    for (rule, *_), points in lines.items():
        look = draw.rule_style(rule)
        aside = 0.07 * (RULES.index(rule) - 1.5)
        label = None if rule in shown else look.label
        shown.add(rule)
        points = sorted(points)
        x, y = [blocks + aside for blocks, *_ in points], [accuracy for _, accuracy, _ in points]
        ax.plot(x, y, **look.line, linewidth=1.2, markersize=7, alpha=0.9, label=label)
        numbers += [(at, height, f"{number}", look.colour)
                    for at, height, (*_, number) in zip(x, y, points)]  # fmt: skip
    ax.set_xlim(0.5, len(WIDTHS) + 0.5)
    ax.set_xticks(range(1, len(WIDTHS) + 1))
    if lines:
        heights = [height for points in lines.values() for _, height, _ in points]
        # At least ten points high: a difference of one is within the noise of a seed.
        ax.set_ylim(5 * (min(heights) // 5 - 1), 5 * (max(heights) // 5 + 2))
        ax.legend(loc="best")
        draw.number_marks(ax, numbers)
    else:
        _say_empty(ax, "no trial yet")


def _say_empty(ax: Axes, text: str) -> None:
    ax.set_yticks([])
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", color=draw.ink("grey"))


class LayersExplorer(TrainingExplorer):
    """The widget of ``layers_explorer``.

    Args:
        results: trials to start from.
        data: what to train on, see ``run_layers``.
    """

    title = "Trials, on validation images"
    file = "sff-layers"
    caption = "Validation accuracy, one seed per trial; a number is the trial's in the table."

    def __init__(self, results: Sequence[LayersResult] = (), data: str = "fashion-mnist-sample"):
        self.data = data
        controls = {
            "rule": dropdown("rule", {draw.rule_style(rule).label: rule for rule in RULES}),
            "layers": slider("layers", LAYERS[0], LAYERS[-1], 4),
            "blocks": slider("blocks", 1, 4, 3),
            "kernel_size": dropdown("head kernel", {f"{k}×{k}": k for k in KERNELS}, 3),
            "images": dropdown("images", {f"{n:,}": n for n in IMAGES}, 1000),
            "epochs": dropdown("epochs", {str(n): n for n in EPOCHS}, 4),
            "seed": dropdown("seed", {str(n): n for n in SEEDS}),
        }
        self.judge = dropdown("judge by", {label: key for key, label in JUDGES.items()})
        super().__init__(controls, results, [self.judge])
        self.controls["layers"].observe(self.guarded(self._on_layers), "value")
        self.judge.observe(self.guarded(lambda _: self.busy or self.redraw()), "value")

    def _on_layers(self, change: Any) -> None:
        self.controls["blocks"].max = change["new"]

    def run(self, **settings: Any) -> LayersResult:
        """``run_layers`` on this explorer's data."""
        return run_layers(**settings, data=self.data)

    def trial_number(self, settings: dict) -> int | None:
        """See ``TrainingExplorer``; backprop has one block and its own head, whatever is set."""
        names = ["rule", "layers", "blocks", "kernel_size", "images", "epochs", "seed"]
        if settings["rule"].startswith("bp"):
            names.remove("blocks")
        if settings["rule"] == "bp":
            names.remove("kernel_size")
        for number, trial in enumerate(self.results, 1):
            if all(getattr(trial, name) == settings[name] for name in names):
                return number
        return None

    def draw(self, history: History | None = None) -> Figure:
        """``draw_layers``."""
        return draw_layers(self.results, history, judge=self.judge.value)

    def draw_network(self, result: LayersResult, title: str) -> Figure:
        """The trial's network with its cuts, and over each block the accuracy it reached."""
        image, *shapes = result.shapes
        notes = [f"{100 * accuracy:.0f} %" for accuracy in result.block_accuracy]
        title = f"{title}: {draw.rule_style(result.rule).label}"
        return draw.draw_network(
            shapes, result.cuts, rule=result.rule, input_shape=image, notes=notes, title=title
        )


def layers_explorer(
    results: Sequence[LayersResult] | None = None, *, data: str = "fashion-mnist-sample"
) -> LayersExplorer:
    """Show some trials, and a widget that adds more with other layers, blocks and rules.

    Args:
        results: trials to start from; None trains ``starting_results``.
        data: a name for ``data.load``.

    Returns:
        The explorer, whose ``results`` are all trials so far.
    """
    explorer = LayersExplorer(starting_results(data=data) if results is None else results, data)
    explorer.show()
    return explorer
